"""Threads for what may block: a disk or a vendor that is slow, or does not answer at all."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorFromThreads

T = TypeVar("T")


class _Thread(threading.Thread):
    """One of a worker's."""


def are_at_work() -> bool:
    """Tell whether any worker's thread is there yet, so that Python had better not be taken apart.

    Libraries that are not Python's, as pyarrow, abort the process or keep it for ever where they
    come back from what they are at and there is no interpreter any more.
    """
    return any(isinstance(thread, _Thread) for thread in threading.enumerate())


class AbandonedError(Exception):
    """Nobody waits for it any more."""


class Worker:
    """Does things in threads of its own, and nobody ever waits for these.

    They are none of the reactor's pool: a process could not end before a disk answers.

    Parameters
    ----------
    reactor : IReactorFromThreads or None
        Where results are delivered; Twisted's own if there is none.
    name : str
        What the threads are called.
    threads : int
        How many there are.

    """

    def __init__(self, reactor: IReactorFromThreads | None, name: str, threads: int = 1) -> None:
        if reactor is None:
            from twisted.internet import reactor as default  # noqa: PLC0415 - installs it

            reactor = cast("IReactorFromThreads", default)
        self._reactor, self._threads = reactor, threads
        self._abandoned = False
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._waiting: set[Deferred[Any]] = set()
        for _ in range(threads):
            _Thread(target=self._loop, name=name, daemon=True).start()

    def run(self, work: Callable[[], T]) -> Deferred[T]:
        """Have something done; its result, or what it raises, comes in the reactor's thread."""
        done: Deferred[T] = Deferred()
        if self._abandoned:
            done.errback(AbandonedError())
            return done

        def job() -> None:
            result: Any
            if self._abandoned:
                return
            try:
                result = work()
            except Exception:  # noqa: BLE001 (it is handed over)
                result = Failure()
            self._reactor.callFromThread(self._deliver, done, result)

        self._waiting.add(done)
        self._jobs.put(job)
        return done

    def stop(self) -> None:
        """End the threads after what has been asked of them."""
        for _ in range(self._threads):
            self._jobs.put(None)

    def abandon(self) -> None:
        """End the threads after what they are at, and let nobody wait for it: `AbandonedError`."""
        self._abandoned = True
        self.stop()
        for done in list(self._waiting):
            self._deliver(done, Failure(AbandonedError()))

    def _deliver(self, done: Deferred[Any], result: Any) -> None:  # noqa: ANN401 (whatever it is)
        if done in self._waiting:
            self._waiting.remove(done)
            done.callback(result)

    def _loop(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
