"""The worker: what may block is done elsewhere, and its end comes back."""

from __future__ import annotations

import threading
from typing import Any

from twisted.internet import defer, reactor
from twisted.trial import unittest

from quoteshm.sources.worker import AbandonedError, Worker, are_at_work


class TestWorker(unittest.TestCase):
    """Threads of its own."""

    def setUp(self) -> None:
        """Make one."""
        one: Any = reactor
        self.worker = Worker(one, "worker", threads=2)
        self.addCleanup(self.worker.stop)

    def test_results_come_in_the_reactors_thread(self) -> defer.Deferred[None]:
        """What is done is done in another one."""
        here = threading.get_ident()

        def check(there: int) -> None:
            assert there != here
            assert threading.get_ident() == here

        return self.worker.run(threading.get_ident).addCallback(check)

    def test_what_is_raised_comes_back(self) -> defer.Deferred[object]:
        """The thread lives on."""

        async def check() -> None:
            for _ in range(5):
                await self.assertFailure(self.worker.run(lambda: 1 / 0), ZeroDivisionError)
            assert await self.worker.run(lambda: 7) == 7

        return defer.Deferred.fromCoroutine(check())

    def test_one_that_blocks_keeps_the_other_free(self) -> defer.Deferred[None]:
        """And nobody waits for it at the end: its thread is a daemon's."""
        gate = threading.Event()
        self.addCleanup(gate.set)
        blocked = self.worker.run(gate.wait)

        async def check() -> None:
            assert await self.worker.run(lambda: threading.current_thread().daemon)
            gate.set()
            assert await blocked

        return defer.Deferred.fromCoroutine(check())

    def test_nobody_waits_for_one_that_is_abandoned(self) -> defer.Deferred[None]:
        """Nor for what it has not begun, which is not done; nor for what is asked of it later."""
        gate, done = threading.Event(), list[int]()
        self.addCleanup(gate.set)
        one: Any = reactor
        worker = Worker(one, "abandoned")
        asked: list[defer.Deferred[Any]] = [worker.run(gate.wait)]
        asked.append(worker.run(lambda: done.append(1)))
        worker.abandon()
        gate.set()
        asked.append(worker.run(lambda: done.append(2)))

        async def check() -> None:
            for waiting in asked:
                await self.assertFailure(waiting, AbandonedError)
            for thread in threading.enumerate():
                if thread.name == "abandoned":
                    thread.join(10)
            assert done == []

        return defer.Deferred.fromCoroutine(check())

    def test_a_process_can_ask_whether_any_is_at_work(self) -> defer.Deferred[object]:
        """An end of Python under it would be a bad one."""
        gate = threading.Event()
        self.addCleanup(gate.set)
        one: Any = reactor
        worker = Worker(one, "asked after")
        asked: defer.Deferred[Any] = worker.run(gate.wait)
        worker.abandon()
        assert are_at_work()
        return self.assertFailure(asked, AbandonedError)
