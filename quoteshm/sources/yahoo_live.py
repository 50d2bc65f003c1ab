"""Yahoo's stream of prices: one connection to it, and what its messages say.

A message is JSON around a protobuf that yfinance decodes. Its prices are short floats: the shortest
decimal that gives the same float is what Yahoo meant. Prices outside the regular hours are left
out, as they are where bars are asked for: the day's high and low would not hold them.

`twisted.web.websocket` is imported with this module, yfinance by `load_decoder`, which takes half a
second and belongs in a thread.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from OpenSSL.SSL import Error as TLSError
from service_identity import VerificationError
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from twisted.web.iweb import IAgentEndpointFactory
from twisted.web.websocket import ConnectionRejected, WebSocketClientEndpoint
from zope.interface import implementer

from quoteshm.sources.environment import CA_VARIABLES
from quoteshm.sources.tunnel import Ways
from quoteshm.sources.yahoo_plan import AHEAD_MS

URL: Final = "wss://streamer.finance.yahoo.com/?version=2"
#: So long an attempt may take, from the name look-up to the end of the handshake.
HANDSHAKE_S: Final = 15.0
#: Bytes of one message; Yahoo's have some hundreds.
MAX_MESSAGE_NBYTES: Final = 1 << 20
#: Bytes, some dozens of messages, that are taken in one turn of the reactor.
TURN_NBYTES: Final = 8192

_REGULAR: Final = 1  # of `market_hours`; before them is 0, which a message does not say
_NAN: Final = math.nan

#: Gives the fields of a message by name.
Decode = Callable[[str], Mapping[str, Any]]


# -- messages --------------------------------------------------------------------------------


class BadMessageError(ValueError):
    """A message that does not say what it should."""


class LivePrice(NamedTuple):
    """What a message says of a ticker; NaN where it says nothing."""

    ticker: str
    ts_ms: int
    values: tuple[float, float, float, float, float, float]  # as those of a quote

    def after(self, earlier: LivePrice) -> LivePrice:
        """Add what an earlier message of the same moments said, and this one does not."""
        open_, high, low, price, volume, before = (
            old if math.isnan(new) else new
            for new, old in zip(self.values, earlier.values, strict=True)
        )
        high, low = max(high, earlier.values[3]), min(low, earlier.values[3])
        return self._replace(values=(open_, high, low, price, volume, before))


def load_decoder() -> Decode:
    """Import yfinance, and give what decodes a message. In a thread."""
    import yfinance  # noqa: PLC0415 (as said above)
    from yfinance.live import BaseWebSocket  # noqa: PLC0415

    yfinance.config.debug.hide_exceptions = False  # it would print them
    decode: Decode = BaseWebSocket(URL, verbose=False)._decode_message  # noqa: SLF001 (there is no other way in)
    return decode


def read_message(text: str, decode: Decode, now_ms: int) -> LivePrice | None:
    """Give the price that a message brings; None where it brings none of the regular hours.

    Raises
    ------
    BadMessageError
        It cannot be read, or its price is of no possible moment.

    """
    try:
        outer = json.loads(text)
        if outer["type"] != "pricing":
            return None
        said = decode(outer["message"])
        ticker, ts_ms = str(said["id"]), int(said["time"])
        hint = int(said.get("price_hint", 0))
        price = _number(said, "price", hint)
        before = _number(said, "previous_close", hint)
        if math.isnan(before):
            before = _rounded(price - _number(said, "change", 0), hint or 4)
        names = ("open_price", "day_high", "day_low")
        open_, high, low = (_number(said, name, hint) for name in names)
        volume = float(int(said["day_volume"])) if "day_volume" in said else _NAN
        volume = volume if volume >= 0 else _NAN
    except Exception as error:
        # Whatever a decoder raises: what comes from outside may be anything.
        raise BadMessageError(repr(error)) from error
    if not ticker or math.isnan(price) or not 0 < ts_ms <= now_ms + AHEAD_MS:
        message = f"{ticker!r} at {price}, of {ts_ms} ms; it is {now_ms} ms"
        raise BadMessageError(message)
    if said.get("market_hours", 0) != _REGULAR:
        return None
    return LivePrice(ticker, ts_ms, (open_, high, low, price, volume, before))


def _number(said: Mapping[str, Any], name: str, digits: int) -> float:
    """Give a price, NaN if it is not there or is none; what is zero is not sent."""
    short = float(str(np.float32(said.get(name, _NAN))))
    return _rounded(short, digits) if math.isfinite(short) else _NAN


def _rounded(price: float, digits: int) -> float:
    return round(price, digits) if 0 < digits <= 10 else price  # noqa: PLR2004 (nobody has more)


# -- a connection ----------------------------------------------------------------------------


class Ears(Protocol):
    """What is told of a connection. Nothing comes after `lost`."""

    def opened(self) -> None:
        """Subscribe: the handshake has been made."""

    def heard(self, text: str) -> None:
        """Take a message."""

    def lost(self, why: str) -> None:
        """Note the end, or the failure of the attempt; told once."""


class Stream:
    """One connection, from the attempt on: it begins as it is made.

    Parameters
    ----------
    ears
        What is told of it; not while this is being made.
    reactor
        Twisted's.
    url : str
        Where the streamer is.
    timeout_s : float
        How long the attempt may take.
    environ : mapping of str to str
        Where the proxy and the trusted authorities are named.

    """

    def __init__(
        self,
        ears: Ears,
        reactor: Any,  # noqa: ANN401 (one of Twisted's, of several interfaces)
        url: str = URL,
        timeout_s: float = HANDSHAKE_S,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self.last_alive_s: float = reactor.seconds()  # when anything came, an answer to a ping too
        self._ears, self._reactor, self._environ = ears, reactor, environ
        self._wire: Any = None
        self._is_open = self._is_over = False
        self._unread = 0  # bytes since the last message
        self._pending = b""  # what waits for the next turn
        self._turn: Any = None  # an IDelayedCall
        self._timer = reactor.callLater(timeout_s, self._end, f"no answer within {timeout_s:g} s")
        self._attempt: Deferred[Any] | None = None
        self._starter = reactor.callLater(0, self._connect, url)

    def _connect(self, url: str) -> None:
        self._starter = None
        guard: Any = _Guarded(Ways(self._reactor, self._environ), self)
        guarded = WebSocketClientEndpoint(guard, url)
        # Twisted's own promise is not kept where the connection ends in the handshake, and has no
        # end of its own: what counts are the calls below and the timer.
        self._attempt = Deferred.fromCoroutine(guarded.connect(self))
        self._attempt.addErrback(self._refused)

    def subscribe(self, tickers: Sequence[str]) -> None:
        """Ask for the prices of tickers; to be said again now and then, as yfinance does."""
        if self._is_open:
            self._wire.sendTextMessage(json.dumps({"subscribe": list(tickers)}))

    def ping(self) -> None:
        """Ask for a sign of life."""
        if self._is_open:
            self._wire.ping()

    def abort(self) -> None:
        """End it at once, and tell nobody."""
        self._end(None)

    def _refused(self, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, ConnectionRejected):
            self._end(f"refused (HTTP {error.response.code})")
        else:
            self._end(_said(error))

    def _end(self, why: str | None) -> None:
        if self._is_over:
            return
        self._is_over, self._is_open = True, False
        for timer in (self._timer, self._starter, self._turn):
            if timer is not None and timer.active():
                timer.cancel()
        if self._wire is not None:
            # Not `loseConnection`, which cannot be said within the handshake and waits for the
            # other side, who may be the reason.
            self._wire.transport.abortConnection()
        if self._attempt is not None:
            self._attempt.cancel()
        if why is not None:
            self._ears.lost(why)

    # -- what Twisted calls ------------------------------------------------------------------

    def buildProtocol(self, _url: str) -> Stream:
        """Be the protocol, too."""
        return self

    def negotiationStarted(self, transport: Any) -> None:  # noqa: ANN401, N802 (Twisted's)
        """Note the connection on which the handshake is made."""
        self._wire = transport
        if self._is_over:
            transport.transport.abortConnection()

    def negotiationFinished(self) -> None:  # noqa: N802 (Twisted's)
        """Note that it is open."""
        if not self._is_over:
            self._timer.cancel()
            self._is_open = True
            self._ears.opened()

    def received(self, take: Callable[[bytes], None], data: bytes) -> None:
        """Let Twisted take what has come, some of it in each turn of the reactor."""
        self.last_alive_s = self._reactor.seconds()
        if self._is_over:
            return
        self._pending += data
        if self._turn is None:
            self._take(take)

    def _take(self, take: Callable[[bytes], None]) -> None:
        """Let Twisted take a part, and end where it does not know what that is."""
        was_waiting, self._turn = self._turn is not None, None
        data, self._pending = self._pending[:TURN_NBYTES], self._pending[TURN_NBYTES:]
        if self._pending:
            self._turn = self._reactor.callLater(0, self._take, take)
            if not was_waiting:
                self._wire.transport.pauseProducing()
        elif was_waiting:
            self._wire.transport.resumeProducing()
        self._unread += len(data)
        try:
            take(data)
        except Exception as error:  # noqa: BLE001 (anything may come)
            self._end(f"no WebSocket: {_said(error)}")
        if self._unread > MAX_MESSAGE_NBYTES + len(data):
            self._end(f"a message of more than {MAX_MESSAGE_NBYTES} bytes")

    def textMessageReceived(self, message: str) -> None:  # noqa: N802 (Twisted's)
        """Hand on a message."""
        self._unread = 0
        if not self._is_over:
            self._ears.heard(message)

    def bytesMessageReceived(self, data: bytes | bytearray) -> None:  # noqa: N802 (Twisted's)
        """Hand on a message, which Yahoo sends as text."""
        self.textMessageReceived(data.decode(errors="replace"))

    def pongReceived(self, _payload: bytes) -> None:  # noqa: N802 (Twisted's)
        """Have nothing to do: it has been noted that something came."""
        self._unread = 0

    def connectionLost(self, reason: Failure) -> None:
        """Tell of the end."""
        self._end(_said(reason.value))


class YahooFeed:
    """Yahoo's stream, for `quoteshm.service.live`.

    Parameters
    ----------
    reactor
        Twisted's.
    run : callable
        Does something in a thread.
    url : str
        Where the streamer is.

    """

    def __init__(
        self,
        reactor: Any,  # noqa: ANN401 (one of Twisted's, of several interfaces)
        run: Callable[[Callable[[], Decode]], Deferred[Decode]],
        url: str = URL,
    ) -> None:
        self._reactor, self._run, self._url = reactor, run, url

    def connect(self, ears: Ears) -> Stream:
        """Begin a connection."""
        return Stream(ears, self._reactor, self._url)

    def read(self, text: str, decode: Decode, now_ms: int) -> LivePrice | None:
        """Read a message, as `read_message` does."""
        return read_message(text, decode, now_ms)

    def load(self) -> Deferred[Decode]:
        """Load what decodes messages, in a thread."""
        return self._run(load_decoder)


@implementer(IAgentEndpointFactory)
class _Guarded:
    """Makes the endpoints of Twisted's client, with a stream between these and the protocol."""

    def __init__(self, inner: Any, stream: Stream) -> None:  # noqa: ANN401 (an interface of zope's)
        self._inner, self._stream = inner, stream

    def endpointForURI(self, uri: object) -> _GuardedEndpoint:  # noqa: N802 (Twisted's)
        return _GuardedEndpoint(self._inner.endpointForURI(uri), self._stream)


class _GuardedEndpoint:
    def __init__(self, inner: Any, stream: Stream) -> None:  # noqa: ANN401 (an interface of zope's)
        self._inner, self._stream = inner, stream

    def connect(self, factory: Factory) -> Deferred[Any]:
        connected: Deferred[Any] = self._inner.connect(_GuardedFactory(factory, self._stream))
        return connected


class _GuardedFactory(Factory):
    noisy = False

    def __init__(self, inner: Any, stream: Stream) -> None:  # noqa: ANN401 (an interface of zope's)
        self._inner, self._stream = inner, stream

    def buildProtocol(self, addr: Any) -> Any:  # noqa: ANN401 (as Twisted has it)
        wire = self._inner.buildProtocol(addr)
        take, stream = wire.dataReceived, self._stream
        wire.dataReceived = lambda data: stream.received(take, data)
        return wire


def _said(error: BaseException | None) -> str:
    if isinstance(error, TLSError):
        # A list of what went wrong where in OpenSSL; or a number and a text; or nothing.
        told = error.args[0] if error.args and isinstance(error.args[0], list) else [error.args]
        reasons = [str(entry[-1]) for entry in told if entry]
        said = f"TLS: {', '.join(reasons) or 'the connection ended'}"
        hint = f"; trusted is what {', '.join(CA_VARIABLES)} name, or else the system"
        return said + hint if "certificate verify failed" in reasons else said
    if isinstance(error, VerificationError):
        return "TLS: the certificate is of another name"
    return " ".join(str(error).split()) or type(error).__name__
