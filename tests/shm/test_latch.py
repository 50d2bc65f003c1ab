"""The rules of the latch, one by one; all of them together are in test_interleavings."""

from __future__ import annotations

import time

import numpy as np
import pytest

from quoteshm.errors import ReadTimeoutError
from quoteshm.shm import latch


def test_the_stable_buffer_is_also_stable_while_the_epoch_is_odd() -> None:
    """It changes with the even epoch alone."""
    assert [latch.stable_buffer(epoch) for epoch in range(8)] == [0, 0, 1, 1, 0, 0, 1, 1]
    assert [latch.stable_epoch(epoch) for epoch in range(6)] == [0, 0, 2, 2, 4, 4]


@pytest.mark.parametrize("before", [10, 11])
def test_a_read_holds_until_the_commit_after_next_begins(before: int) -> None:
    """The next commit writes the other buffer; the one after it this one, from its odd epoch on."""
    assert [latch.unbroken(before, after) for after in range(10, 15)] == [
        True, True, True, False, False,
    ]  # fmt: skip


def test_closed_bars_hold_until_the_rewrite_after_next_begins() -> None:
    """The next rewrite writes the other block."""
    assert [latch.intact(5, begun) for begun in (5, 6, 7, 8)] == [True, True, False, False]
    rewrites, begun = np.array([5, 5], np.uint64), np.array([6, 5], np.uint64)
    assert latch.all_intact(rewrites, begun)
    assert not latch.all_intact(rewrites, begun + np.array([1, 0], np.uint64))
    assert latch.all_intact(rewrites[:0], begun[:0])


@pytest.mark.parametrize("epoch", range(8))
def test_an_adopted_epoch_is_even_and_keeps_the_stable_buffer(epoch: int) -> None:
    """And readers that began before an odd one must try again."""
    adopted = latch.adopted(epoch)
    assert adopted % 2 == 0
    assert latch.stable_buffer(adopted) == latch.stable_buffer(epoch)
    assert latch.unbroken(epoch, adopted) == (epoch % 2 == 0)


def test_tries_come_at_once_first_and_then_slower_until_the_time_is_up() -> None:
    """Never longer than they may."""
    tries: list[float] = []

    def read() -> None:
        for attempt in latch.attempts(0.05):
            assert attempt == len(tries)
            tries.append(time.monotonic())

    began = time.monotonic()
    with pytest.raises(ReadTimeoutError, match=r"no consistent read within 50 ms") as caught:
        read()
    assert caught.value.attempts == len(tries) > 10
    assert caught.value.timeout_s == 0.05
    assert tries[7] - began < 0.05
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("timeout_s", [0, -1.0])
def test_a_read_with_no_time_has_its_tries(timeout_s: float) -> None:
    """The least there are, at once."""
    tries, began = list[int](), time.monotonic()
    with pytest.raises(ReadTimeoutError) as caught:
        tries.extend(latch.attempts(timeout_s))
    assert caught.value.attempts == latch.LEAST_TRIES
    assert tries == list(range(latch.LEAST_TRIES))
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("lost_s", [0.03, 0.06, 600.0])
def test_a_read_that_keeps_losing_its_core_has_its_tries(
    lost_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However late it is; behind the deadline no pause gives the core away, and it ends."""
    now, pauses = [0.0], list[float]()
    monkeypatch.setattr(time, "sleep", pauses.append)
    made = 0

    def read() -> None:
        nonlocal made
        for attempt in latch.attempts(0.05, lambda: now[0]):
            assert attempt == made
            made += 1
            now[0] += lost_s

    with pytest.raises(ReadTimeoutError) as caught:
        read()
    assert caught.value.attempts == made == latch.LEAST_TRIES
    assert not pauses


def test_tries_behind_the_least_end_with_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses are part of it."""
    now = [0.0]

    def passes(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(time, "sleep", passes)
    made = list[int]()
    with pytest.raises(ReadTimeoutError) as caught:
        made.extend(latch.attempts(0.05, lambda: now[0]))
    assert caught.value.attempts > latch.LEAST_TRIES
    assert now[0] == pytest.approx(0.05)
