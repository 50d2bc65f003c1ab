"""Push: who has subscribed to what, and what each is told after a commit. No sockets.

A quote row says with which epoch it last changed, so nothing is kept for a client but the epoch up
to which it has been told: what it is owed are the rows of its tickers that changed since. A client
that reads slowly is told nothing until it has caught up, and then everything at once, at its latest
values; one that comes back and says how far it was is owed just the same.

Each event is put together once for all subscriptions that are owed the same, and its quotes once
for all that are owed the same of them, however far behind: a crowd of slow clients holds on to one
event, not to one each.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeVar

import msgspec
import numpy as np
from twisted.logger import Logger

from quoteshm.errors import ErrorCode, RequestError
from quoteshm.market.bars import Restatements
from quoteshm.shm import layout

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quoteshm.market.quotes import QuoteCache
    from quoteshm.wire.messages import Id

MAX_SUBSCRIPTIONS: Final = 64  # of one client
#: Tickers that all subscriptions of one client name; who wants more may as well ask for all.
MAX_NAMED: Final = 10_000
LISTED_BARS: Final = 100  # of a series that was restated
#: Subscriptions that are told in one turn of the reactor: a thousand would hold up all requests.
TURN_SUBSCRIPTIONS: Final = 64
#: Commits that change more rows than this are looked at from the subscriptions' side.
FEW_ROWS: Final = 64
HEARTBEAT_S: Final = 5.0

#: No ticker is longer, so one that is asked for will never come.
_SYMBOL_NBYTES: Final = layout.DIRECTORY_ROW["symbol"].itemsize
_END: Final = b"}\n"
_encode: Final = msgspec.json.Encoder().encode


class Client(Protocol):
    """A connection, as far as push is concerned."""

    @property
    def is_clear(self) -> bool:
        """Whether all that was sent to it is on its way."""

    def send(self, *parts: bytes) -> None:
        """Send the parts of one line."""

    def abort(self) -> None:
        """Cut it off; what it missed it asks for when it comes back."""


class Turns(Protocol):
    """What is asked of the reactor: another turn."""

    def callLater(self, delay: float, callable: Callable[[], None]) -> object:  # noqa: A002, N802  Twisted's
        """Call something later."""


@dataclass(frozen=True, slots=True, eq=False)
class Restated:
    """What the vendor changed of one series: closed bars with other values, or none any more."""

    ticker: str
    interval: str
    bars: Restatements
    removed: int = 0
    cause: str = "vendor"

    def summary(self) -> dict[str, object]:
        """Say what happened, without the bars."""
        return {
            "ticker": self.ticker,
            "interval": self.interval,
            "count": len(self.bars),
            "removed": self.removed,
            "cause": self.cause,
        }


class _Notice(NamedTuple):
    """What is known of a series that was restated, the bars apart."""

    epoch: int  # of the last time
    epoch_before: int  # of the time before that; 0 if there was none
    summary: dict[str, object]


class Selection:
    """The tickers of one or more subscriptions: those named, or all (`names` is None).

    Attributes
    ----------
    rows : ndarray of intp or None
        Of those names that are tickers, in order; None for all.
    awaited : set of str
        Those names that are none yet.

    """

    def __init__(self, names: frozenset[str] | None) -> None:
        self.names = names
        self.subscriptions: dict[Subscription, None] = {}  # a set that keeps its order
        self.rows: NDArray[np.intp] | None = None if names is None else np.empty(0, np.intp)
        self.awaited = set(names or ())

    def learn(self, found: Mapping[str, int]) -> None:
        """Take in that some of the names are tickers, and in which rows."""
        assert self.rows is not None  # noqa: S101  for the type checker: these have names
        self.awaited -= found.keys()
        self.rows = np.union1d(self.rows, np.array(list(found.values()), np.intp))

    def has(self, ticker: str) -> bool:
        """Tell whether it is one of them."""
        return self.names is None or ticker in self.names


@dataclass(slots=True, eq=False)
class Subscription:
    """What one client wants to be told, and how far it has been."""

    client: Client
    selection: Selection
    head: bytes  # of each of its events: everything up to the op
    epoch: int  # it knows of all that changed up to this one
    told_ms: int  # when it was last told anything
    owed: int = 0  # commits that concern it, since then


class Hub:
    """All subscriptions. In the reactor's thread only.

    Parameters
    ----------
    cache : QuoteCache
        The quotes.
    turns : Turns
        The reactor.
    heartbeat_s : float
        Who was told nothing for so long gets a heartbeat; see `beat`.

    """

    log = Logger()

    def __init__(self, cache: QuoteCache, turns: Turns, heartbeat_s: float = HEARTBEAT_S) -> None:
        self.cache, self.heartbeat_s = cache, heartbeat_s
        self._turns, self._clock = turns, cache.clock
        self._selections: dict[frozenset[str] | None, Selection] = {}
        self._of_row: dict[int, set[Selection]] = {}
        self._awaiting: dict[str, set[Selection]] = {}  # of names that are no tickers yet
        self._of_client: dict[Client, dict[Id, Subscription]] = {}
        # Who is told something in the next turns: once each, the longest due first.
        self._due: OrderedDict[Subscription, None] = OrderedDict()
        self._awaits_turn = False
        self._ticker_count = 0  # that have been looked for among the awaited names
        # Of each series that was ever restated, the bars apart: they are kept for the newest
        # commit alone.
        self._restated: dict[tuple[str, str], _Notice] = {}
        self._restated_bars: dict[tuple[str, str], Restatements] = {}
        self._restated_epoch = self._first_epoch = cache.writer.epoch
        self.told = self.skipped = 0  # so far: events but heartbeats, commits folded into others
        self._kept_epoch = -1  # of what follows
        self._events: dict[tuple[Selection, int, int], list[tuple[bytes, ...]]] = {}
        self._objects: dict[tuple[Selection, int, bool], bytes] = {}

    def __len__(self) -> int:
        """Count the subscriptions."""
        return sum(len(those) for those in self._of_client.values())

    # -- who wants to be told ----------------------------------------------------------------

    def subscribe(
        self,
        client: Client,
        request_id: Id,
        tickers: Sequence[str] | None,
        since: tuple[int, str] | None = None,
    ) -> bytes:
        """Tell a client of all later changes of ``tickers``, or of all; give the reply's data.

        Parameters
        ----------
        client : Client
            Who is told.
        request_id : str or int
            Names the subscription, and comes with each of its events.
        tickers : sequence of str, optional
            All unless given.
        since : (int, str), optional
            The epoch up to which the client knows everything, and the instance it is of.

        Raises
        ------
        RequestError
            The client has a subscription of that id, or too many.

        """
        those = self._of_client.get(client, {})
        if request_id in those:
            raise RequestError(ErrorCode.BAD_REQUEST, f"id already subscribed: {request_id}")
        if len(those) >= MAX_SUBSCRIPTIONS:
            message = f"too many subscriptions: at most {MAX_SUBSCRIPTIONS} a connection"
            raise RequestError(ErrorCode.OVERLOADED, message)
        names = None
        if tickers is not None:
            names = frozenset(name for name in tickers if len(name) <= _SYMBOL_NBYTES)
            named = sum(len(one.selection.names or ()) for one in those.values()) + len(names)
            if named > MAX_NAMED:
                message = f"too many tickers: {named} by name, at most {MAX_NAMED} a connection"
                raise RequestError(ErrorCode.OVERLOADED, message)
        epoch = self.cache.writer.epoch
        head = b'{"v":1,"id":%b,"type":"event","op":' % _encode(request_id)
        one = Subscription(client, self._select(names), head, epoch, self._clock.boot_ms())
        one.selection.subscriptions[one] = None
        try:
            reply = self._begin(one, tickers or (), since)
        except BaseException:
            self._end(one)
            raise
        self._of_client.setdefault(client, {})[request_id] = one
        return reply

    def _begin(
        self, one: Subscription, tickers: Sequence[str], since: tuple[int, str] | None
    ) -> bytes:
        """Give the reply's data."""
        writer, known_epoch, resumed = self.cache.writer, 0, False
        if since is not None and since[0] <= one.epoch and since[1] == writer.instance:
            known_epoch, resumed = since[0], True
        rows = self.cache.changed(known_epoch, one.selection.rows)
        return (
            b'{"epoch":%d,"instance":"%b","resumed":%b,"freshness_ms":%d,"heartbeat_s":%b,'
            b'"quotes":%b,"missing":%b,"restated":%b}'
        ) % (
            one.epoch,
            writer.instance.encode(),
            b"true" if resumed else b"false",
            writer.spec.freshness_ms,
            _encode(self.heartbeat_s),
            self._object(one.selection, rows, removed=resumed),
            _encode(self.cache.missing(tickers)),
            self._restated_since(one, known_epoch) if resumed else b"[]",
        )

    def _restated_since(self, one: Subscription, epoch: int) -> bytes:
        """Give what was restated after an epoch, without the bars; null where that is not known.

        A server remembers no restatements of its life before.
        """
        if epoch < self._first_epoch:
            return b"null"
        return b"[%b]" % b",".join(self._restatements(one, epoch, {}))

    def unsubscribe(self, client: Client, request_id: Id | None = None) -> bytes:
        """End a client's subscription of that id, or all; give the reply's data.

        Raises
        ------
        RequestError
            The client has none of that id.

        """
        those = self._of_client.get(client, {})
        if request_id is None:
            ended = list(those)
        elif request_id in those:
            ended = [request_id]
        else:
            raise RequestError(ErrorCode.NOT_FOUND, f"no subscription with id {request_id}")
        for each in ended:
            self._end(those.pop(each))
        if not those:
            self._of_client.pop(client, None)
        return b'{"unsubscribed":%b}' % _encode(ended)

    def leave(self, client: Client) -> None:
        """End all subscriptions of a client that is gone."""
        for one in self._of_client.pop(client, {}).values():
            self._end(one)

    def has(self, client: Client) -> bool:
        """Tell whether a client has subscribed to anything."""
        return client in self._of_client

    def _select(self, names: frozenset[str] | None) -> Selection:
        """Give the selection of these names, one for all who ask for the same."""
        selection = self._selections.get(names)
        if selection is None:
            selection = self._selections[names] = Selection(names)
            row_of = self.cache.writer.row_of
            self._learn(selection, {name: row_of[name] for name in names or () if name in row_of})
            for name in selection.awaited:
                self._awaiting.setdefault(name, set()).add(selection)
        return selection

    def _learn(self, selection: Selection, found: Mapping[str, int]) -> None:
        if found:
            selection.learn(found)
        for row in found.values():
            self._of_row.setdefault(row, set()).add(selection)

    def _end(self, one: Subscription) -> None:
        selection = one.selection
        self._due.pop(one, None)
        del selection.subscriptions[one]
        if selection.subscriptions:
            return
        del self._selections[selection.names]
        for row in () if selection.rows is None else selection.rows.tolist():
            _discard(self._of_row, row, selection)
        for name in selection.awaited:
            _discard(self._awaiting, name, selection)

    # -- commits -----------------------------------------------------------------------------

    def published(self, restated: Iterable[Restated] = ()) -> None:
        """Tell all who are concerned of the commit that has just been made.

        Lets no exception out: publishing does not depend on who listens.
        """
        try:
            self._published(restated)
        except Exception:  # noqa: BLE001  as said
            self.log.failure("subscribers were not told")

    def _published(self, restated: Iterable[Restated]) -> None:
        epoch = self.cache.writer.epoch
        self._restated_bars.clear()
        for what in restated:
            series = what.ticker, what.interval
            before = self._restated.get(series)
            epoch_before = 0 if before is None else before.epoch
            self._restated[series] = _Notice(epoch, epoch_before, what.summary())
            self._restated_bars[series] = what.bars
            self._restated_epoch = epoch
        if not self._selections:
            return
        if len(self.cache.writer.row_of) > self._ticker_count:
            self._meet_tickers()
        for selection in self._concerned(self.cache.changed(epoch - 1)):
            for one in selection.subscriptions:
                one.owed += 1
                if one.client.is_clear:
                    self._due[one] = None
        self._tell()

    def _meet_tickers(self) -> None:
        """Look among the tickers that are new for those that are awaited."""
        tickers, first = self.cache.writer.tickers, self._ticker_count
        self._ticker_count = len(tickers)
        found: dict[Selection, dict[str, int]] = {}
        for row, ticker in enumerate(tickers[first:], first):
            for selection in self._awaiting.pop(ticker.symbol, ()):
                found.setdefault(selection, {})[ticker.symbol] = row
        for selection, rows in found.items():
            self._learn(selection, rows)

    def _concerned(self, rows: NDArray[np.intp]) -> list[Selection]:
        """Give the selections with any of these rows."""
        if not len(rows):
            return []
        everyone = [] if None not in self._selections else [self._selections[None]]
        if len(rows) <= FEW_ROWS:
            found = {one for row in rows.tolist() for one in self._of_row.get(row, ())}
            return [*everyone, *found]
        changed = np.zeros(len(self.cache.writer.row_of), np.bool_)
        changed[rows] = True
        named = (one for one in self._selections.values() if one.rows is not None)
        return [*everyone, *(one for one in named if changed[one.rows].any())]

    def caught_up(self, client: Client) -> None:
        """Tell a client that is clear again what it has missed."""
        for one in self._of_client.get(client, {}).values():
            if one.owed:
                self._due[one] = None
        if self._due:
            self._tell()

    def _tell(self) -> None:
        """Tell some of those who are due; the others in another turn."""
        if self._awaits_turn:
            return
        now_ms = self._clock.boot_ms()
        for _ in range(min(TURN_SUBSCRIPTIONS, len(self._due))):
            one, _nothing = self._due.popitem(last=False)
            if one.client.is_clear:  # otherwise it comes back once it has caught up
                self._tell_one(one, now_ms)
        if self._due:
            self._await_turn()

    def _await_turn(self) -> None:
        if not self._awaits_turn:
            self._awaits_turn = True
            self._turns.callLater(0, self._take_turn)

    def _take_turn(self) -> None:
        self._awaits_turn = False
        self._tell()

    def _tell_one(self, one: Subscription, now_ms: int) -> None:
        """Tell a subscription what it has missed; if that is nothing, that the market is quiet."""
        try:
            events = self._owed_events(one) if one.owed else [self._heartbeat()]
            for event in events:
                one.client.send(one.head, *event)
        except Exception:  # noqa: BLE001  the others are to be told all the same
            self.log.failure("a subscriber cannot be told: cut off")
            one.client.abort()
            return
        if one.owed:
            self.told += len(events)
            self.skipped += one.owed - 1
        one.epoch = self.cache.writer.epoch
        one.owed, one.told_ms = 0, now_ms

    # -- events, but for their heads ---------------------------------------------------------

    def _owed_events(self, one: Subscription) -> list[tuple[bytes, ...]]:
        self._forget_old()
        key = (one.selection, one.epoch, one.owed)
        events = self._events.get(key)
        if events is None:
            events = self._events[key] = list(self._make_events(one))
        return events

    def _make_events(self, one: Subscription) -> Iterable[tuple[bytes, ...]]:
        skipped = one.owed - 1
        if self._restated_epoch > one.epoch:
            restated = self._restatements(one, one.epoch, self._restated_bars)
            if restated:
                yield self._event(b"restated", skipped, b"[%b]" % b",".join(restated))
        rows = self.cache.changed(one.epoch, one.selection.rows)
        if len(rows):
            yield self._event(b"quotes", skipped, self._object(one.selection, rows, removed=True))

    def _event(self, op: bytes, skipped: int, data: bytes) -> tuple[bytes, ...]:
        form = b'"%b","epoch":%d,"skipped":%d,"data":'
        return form % (op, self.cache.writer.epoch, skipped), data, _END

    def _object(self, selection: Selection, rows: NDArray[np.intp], *, removed: bool) -> bytes:
        """Give the quotes of those rows of a selection that changed after some epoch.

        What changed after a later epoch is part of what changed after an earlier one: as many
        rows are the same rows.
        """
        self._forget_old()
        key = selection, len(rows), removed
        found = self._objects.get(key)
        if found is None:
            found = self._objects[key] = self.cache.object(rows, removed=removed)
        return found

    def _forget_old(self) -> None:
        if self.cache.writer.epoch != self._kept_epoch:
            self._kept_epoch = self.cache.writer.epoch
            self._forget()

    def _forget(self) -> None:
        self._events.clear()
        self._objects.clear()

    def _restatements(
        self, one: Subscription, known_epoch: int, listed: Mapping[tuple[str, str], Restatements]
    ) -> list[bytes]:
        """Give what was restated of a subscription's tickers after an epoch.

        Those bars that are listed come with it where this is the one time that the series was.
        """
        told: list[bytes] = []
        for series, (epoch, epoch_before, summary) in self._restated.items():
            if epoch > known_epoch and one.selection.has(series[0]):
                bars = listed.get(series) if epoch_before <= known_epoch else None
                told.append(_encode({**summary, "bars": _bars(bars)}))
        return told

    # -- heartbeats --------------------------------------------------------------------------

    def beat(self) -> None:
        """Send heartbeats to whom nothing was told for a while; to be called each second."""
        # What is kept may say fresh of what is stale by now; and a quiet market keeps nothing.
        self._forget()
        latest_ms = self._clock.boot_ms() - round(self.heartbeat_s * 1000)
        for those in self._of_client.values():
            for one in those.values():
                if one.told_ms <= latest_ms and one.client.is_clear:
                    self._due[one] = None
        self._tell()

    def _heartbeat(self) -> tuple[bytes, ...]:
        data = {"now_ms": self._clock.wall_ms(), "last_update_ms": self.cache.state.last_update_ms}
        return self._event(b"heartbeat", 0, _encode(data))


_K = TypeVar("_K")


def _discard(of: dict[_K, set[Selection]], key: _K, selection: Selection) -> None:
    """Take a selection out of one of many sets, and the set with it if that was all."""
    those = of.get(key, set())
    those.discard(selection)
    if not those:
        of.pop(key, None)


def _bars(bars: Restatements | None) -> list[dict[str, object]] | None:
    """Give the first of the bars as JSON has them."""
    if bars is None:
        return None
    columns = (
        bars.time[:LISTED_BARS].tolist(),
        bars.before[:, :LISTED_BARS].T.tolist(),
        bars.after[:, :LISTED_BARS].T.tolist(),
    )
    return [
        {"time": time, "before": before, "after": after}
        for time, before, after in zip(*columns, strict=True)
    ]
