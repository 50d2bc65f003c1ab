"""How log lines look: text for people, or one JSON object a line for machines.

An object is flat: ``time`` (UTC), ``level``, ``namespace``, ``text`` as a person would read it, and
what the text was made of under its own names. A line never breaks, whatever is in it.
"""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any, Final

from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    LogLevel,
    LogLevelFilterPredicate,
    formatEvent,
    textFileLogObserver,
)
from twisted.python.failure import Failure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quoteshm.service.settings import Settings

FORMATS: Final = ("text", "json")
#: What every line has, in this order; a field of an event with such a name gets a ``_`` behind it.
OWN: Final = ("time", "level", "namespace", "text", "traceback")
#: Of the older way to log that twistd has: told by the fields above.
_OLD: Final = frozenset({"format", "isError", "message", "system", "why", "failure"})
_PLAIN: Final = (str, int, float, bool, type(None))


def observer(file: Any, settings: Settings) -> Any:  # noqa: ANN401 (files and interfaces, to no type checker)
    """Make what writes a log, in the format and from the level that settings say."""
    if settings.log_format == "json":
        written = FileLogObserver(file, json_line)
    else:
        written = textFileLogObserver(file)
    return filtered(written, settings)


def filtered(observer: Any, settings: Settings) -> Any:  # noqa: ANN401 (as above)
    """Let only events of ``--log-level`` and above through to an observer."""
    level = LogLevel.levelWithName(settings.log_level)
    predicate: Any = LogLevelFilterPredicate(defaultLogLevel=level)
    return FilteringLogObserver(observer, [predicate])


def json_line(event: Mapping[str, Any]) -> str:
    """Write an event down as one line, whatever it is made of."""
    try:
        return _line(event)
    except Exception as error:  # noqa: BLE001 (else whoever logs would fail)
        told = {
            "time": _time(dt.datetime.now(dt.UTC)),
            "level": "error",
            "namespace": __name__,
            "text": f"an event could not be written down: {type(error).__name__}",
        }
        return json.dumps(told) + "\n"


def _time(moment: dt.datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _line(event: Mapping[str, Any]) -> str:
    level = event.get("log_level")
    moment = dt.datetime.fromtimestamp(event.get("log_time", 0.0), dt.UTC)
    told: dict[str, object] = {
        "time": _time(moment),
        "level": "info" if level is None else level.name,
        "namespace": str(event.get("log_namespace", "")),
        "text": _text(event),
    }
    failure = event.get("log_failure")
    if isinstance(failure, Failure):
        told["traceback"] = failure.getTraceback()
    is_old = "log_legacy" in event or event.get("log_namespace") == "log_legacy"
    for name, value in event.items():
        if name.startswith("log_") or (is_old and (name in _OLD or name == "time")):
            continue
        told[f"{name}_" if name in OWN else name] = _plain(value)
    # ASCII alone: no character in it ends a line for anybody, or means anything to a terminal.
    return json.dumps(told, default=repr) + "\n"


def _text(event: Mapping[str, Any]) -> str:
    text = formatEvent(dict(event))
    failure = event.get("log_failure")
    if not text and isinstance(failure, Failure):
        return failure.getErrorMessage()
    return text


def _plain(value: object) -> object:
    try:
        return _simple(value)
    except Exception:  # noqa: BLE001 (whose words fail is still told of)
        return f"<{type(value).__name__} without words>"


def _simple(value: object) -> object:
    if isinstance(value, float) and not -float("inf") < value < float("inf"):
        return repr(value)  # JSON has no word for it
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return str(value)
