"""What a call took is told in microseconds."""

import time

from bench.timing import Samples, measure


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
