"""Reading from clients: all plain sockets in one go, behind one descriptor of the reactor.

A reactor calls each socket that can be read on its own, and a reply that is sent from there wakes a
client which takes a processor away from the next one's. Here one call reads all that can be read;
what is to be answered is sent when the last of them was heard. A client that is alone is answered
at once.

What is not data (the end, an error) is left to the transport, as are sockets that are not plain.
"""

from __future__ import annotations

import contextlib
import select
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from quoteshm.wire.outbox import Transport, is_plain
from quoteshm.wire.tally import Tally

CHUNK_NBYTES: Final = 1 << 16
_DATA: Final = select.EPOLLIN
#: Clients that are heard in one turn of the reactor.
TURN_CLIENTS: Final = 256


class Reading(ABC):
    """Whether a client is read from."""

    @abstractmethod
    def pause(self) -> None:
        """Read no more for now; harmless twice."""

    @abstractmethod
    def resume(self) -> None:
        """Read on; harmless twice."""

    @abstractmethod
    def stop(self) -> None:
        """Read no more, ever."""


class TransportReading(Reading):
    """By the transport itself."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def pause(self) -> None:
        """Have the transport pause."""
        self._transport.pauseProducing()

    def resume(self) -> None:
        """Have it go on."""
        self._transport.resumeProducing()

    def stop(self) -> None:
        """Nothing: a transport that is being closed stops by itself."""


class SocketReading(Reading):
    """By `Intake`, until the transport has to find out what is the matter."""

    def __init__(
        self,
        intake: Intake,
        transport: Any,  # noqa: ANN401  no type says what is used of it
        received: Callable[[bytes], object],
    ) -> None:
        self.transport, self.received = transport, received
        self.socket: socket.socket = transport.getHandle()
        self._intake = intake
        self._number = self.socket.fileno()
        self._is_on = self._is_over = False
        self._after: TransportReading | None = None
        transport.stopReading()
        self.resume()

    def pause(self) -> None:
        """Take the socket out of those that are waited for."""
        if self._after is not None:
            self._after.pause()
        elif self._is_on:
            self._is_on = False
            self._intake.remove(self._number)

    def resume(self) -> None:
        """Put it back."""
        if self._is_over:
            return
        if self._after is not None:
            self._after.resume()
        elif not self._is_on:
            self._is_on = True
            self._intake.add(self._number, self)

    def stop(self) -> None:
        """Forget the socket."""
        self._is_over = True
        if self._after is None:
            self.pause()

    def hand_over(self) -> None:
        """Have the transport find out what is the matter, and tell whom it concerns."""
        self.pause()
        self._after = TransportReading(self.transport)
        self.transport.startReading()


@implementer(IReadDescriptor)
class Intake:
    """All the plain sockets of a server, as one descriptor. In the reactor's thread only.

    Parameters
    ----------
    reactor
        Twisted's; it has this as a reader for as long as there is a client.
    tally : Tally, optional
        Told when a turn begins and ends.

    Attributes
    ----------
    is_gathering : bool
        Whether others may be heard before what is to be sent now: see `afterwards`.

    """

    log = Logger()

    def __init__(self, reactor: Any, tally: Tally | None = None) -> None:  # noqa: ANN401  one of Twisted's, of several interfaces
        self._reactor, self._tally = reactor, tally or Tally()
        self._epoll = select.epoll()  # now: when the last file is taken there is none for it
        self._readings: dict[int, SocketReading] = {}
        self._afterwards: list[Callable[[], object]] = []
        self.is_gathering = False

    def reading(self, transport: Any, received: Callable[[bytes], object]) -> Reading:  # noqa: ANN401  as above
        """Begin to read from a client; ``received`` is given its bytes."""
        if is_plain(transport):
            return SocketReading(self, transport, received)
        return TransportReading(transport)

    def afterwards(self, act: Callable[[], object]) -> None:
        """Do something when all have been heard that can be heard now."""
        self._afterwards.append(act)

    def add(self, number: int, reading: SocketReading) -> None:
        """Wait for a socket as well."""
        if not self._readings:
            self._reactor.addReader(self)
        self._readings[number] = reading
        self._epoll.register(number, _DATA)

    def remove(self, number: int) -> None:
        """Wait for it no longer."""
        del self._readings[number]
        with contextlib.suppress(OSError):  # a socket that is closed is out of it already
            self._epoll.unregister(number)
        if not self._readings:
            self._reactor.removeReader(self)

    def doRead(self) -> None:
        """Hear all who have something to say; then send what is to be sent."""
        events, readings = self._epoll.poll(0, TURN_CLIENTS), self._readings
        self.is_gathering = len(events) > 1
        self._tally.begin()
        try:
            for number, event in events:
                reading = readings.get(number)
                if reading is None:  # one heard before it has put an end to it
                    continue
                if event == _DATA:
                    self._hear(reading)
                else:
                    reading.hand_over()
        finally:
            self.is_gathering = False
            acts, self._afterwards = self._afterwards, []
            for act in acts:
                try:
                    act()
                except Exception:  # noqa: BLE001  as in `_hear`
                    self.log.failure("a client could not be answered")
            self._tally.end()

    def _hear(self, reading: SocketReading) -> None:
        try:
            data = reading.socket.recv(CHUNK_NBYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            reading.hand_over()
            return
        try:
            reading.received(data)
        except Exception:  # noqa: BLE001  whatever becomes of one client, the others go on
            self.log.failure("a client could not be served: cut off")
            reading.stop()  # the transport knows nothing of it
            reading.transport.abortConnection()

    # -- what the reactor asks of a descriptor -----------------------------------------------

    def fileno(self) -> int:
        """Give the descriptor that can be read when any of the sockets can."""
        return self._epoll.fileno()

    def logPrefix(self) -> str:
        """Name it."""
        return "Intake"

    def connectionLost(self, reason: Failure) -> None:  # noqa: ARG002  Twisted's
        """Let go: the reactor is ending."""
        for reading in tuple(self._readings.values()):
            reading.stop()
