"""Every exception: what it says goes with it to another process."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest

from quoteshm import errors

PATH = Path("/dev/shm/shm0")  # noqa: S108 (nothing is opened)


@pytest.mark.parametrize(
    "error",
    [
        errors.AnswerTimeoutError("localhost:9000", 5.0),
        errors.ConnectionFailedError("localhost:9000", "refused"),
        errors.RequestError(errors.ErrorCode.NOT_FOUND, "unknown ticker: A"),
        errors.SegmentFullError(PATH, 4096, 0),
        errors.SettingsError("port", -1, "0 to 65535"),
        errors.UnknownIntervalError("1x", ("1d", "1m")),
        errors.UnknownTickerError("a", instead="A"),
        errors.WriterRunningError(PATH, 7),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_comes_whole_out_of_a_process_of_a_pool(error: errors.QuoteShmError) -> None:
    """Where one cannot be pickled, `multiprocessing.Pool` waits for ever."""
    error.add_note("a hint")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301 (our own)
        assert type(again) is type(error)
        assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))
