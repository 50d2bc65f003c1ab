"""What a call took is told in microseconds."""

import time

from bench.timing import BATCH, Samples, measure, measure_each


def test_a_median_is_of_batches_and_a_p99_of_single_calls() -> None:
    """Both are given in microseconds, of nanoseconds."""
    samples = Samples(means=[1_000.0, 2_000.0, 9_000.0], singles=[float(n) for n in range(100_001)])
    assert samples.p50_us == 2.0
    assert samples.p99_us == 99.0


def test_a_slow_call_is_timed_singly_and_at_least_as_often_as_asked() -> None:
    """However short the time is."""
    found = measure(lambda: time.sleep(0.001), seconds=0.0, at_least=4)
    assert found.means == found.singles
    assert len(found.singles) == 4
    assert found.p50_us >= 1_000


def test_each_call_is_made_once_with_its_own_arguments() -> None:
    """Every second batch is timed as one, the others call by call."""
    seen: list[int] = []
    found = measure_each(seen.append, [(number,) for number in range(2 * BATCH + 5)])
    assert seen == list(range(2 * BATCH + 5))
    assert len(found.singles) == BATCH + 5
    assert len(found.means) == 1


def test_a_single_call_is_its_own_median() -> None:
    """There is no batch of which to take a mean."""
    found = measure_each(time.sleep, [(0.001,)])
    assert found.means == found.singles
    assert found.p50_us >= 900
