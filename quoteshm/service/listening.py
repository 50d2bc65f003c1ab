"""Where clients come in: the endpoints that ``--endpoint`` and ``--port`` name.

Any string that Twisted knows will do. Of four kinds more is made here than Twisted makes of them:

- ``tcp:`` gets a queue of connections (``backlog``) that a burst does not fill.
- ``unix:`` is for its owner and its group (mode 660) unless the string says otherwise. What a dead
  server left there is replaced, a live one is not; the file goes when the daemon stops, and only
  if it is still the daemon's own. ``lockfile`` is not needed for that, and has no effect.
- ``ssl:`` asks clients for certificates where ``--tls-client-ca`` says whose, and never speaks
  anything older than TLS 1.2. Its key and certificate are tried before anybody connects.
- ``systemd:`` leaves the file of a Unix socket to systemd, whose it is.
"""
# ruff: noqa: N803  arguments named as Twisted calls them

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import resource
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from twisted.application.service import Service
from twisted.internet import defer, unix
from twisted.internet.endpoints import AdoptedStreamServerEndpoint, serverFromString
from twisted.logger import Logger
from twisted.python.filepath import FilePath

from quoteshm.errors import ListenError, SettingsError
from quoteshm.service.settings import BACKLOG
from quoteshm.wire.peers import credentials_at, peer_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from twisted.python.failure import Failure

    from quoteshm.wire.protocol import QuoteFactory

OPTION: Final = "--endpoint"
CLIENT_CA: Final = "--tls-client-ca"
#: So long clients may take for the replies that are under way when the daemon stops.
DRAIN_S: Final = 5.0
#: Files that the daemon has open beside its connections, with room to spare.
OTHER_FILES: Final = 128
#: Connections of the page, where there is one.
HTTP_FILES: Final = 256
#: So long another daemon may take to begin to listen in the same folder; it takes milliseconds.
LOCK_WAIT_S: Final = 2.0
_PIECE: Final = re.compile(r"(?:[^:\\]|\\.)*")
_KEY: Final = re.compile(r"((?:[^=\\]|\\.)*)=(.*)", re.DOTALL)
_CERTIFICATE: Final = re.compile(
    rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL
)


def make_room(connections: int, others: int = OTHER_FILES) -> int:
    """Let this process have as many files as so many connections take, if the machine allows it.

    Returns
    -------
    int
        For how many connections there is room; no more than were asked for.

    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + others
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    room = connections if soft == resource.RLIM_INFINITY else soft - others
    return max(0, min(connections, room))


# -- the service -----------------------------------------------------------------------------


class Listener(Service):
    """Listens at one endpoint, from start to stop.

    Parameters
    ----------
    reactor
        Twisted's.
    description : str
        The endpoint, as Twisted writes it.
    factory
        Makes a protocol for each connection.
    client_ca : Path, optional
        Who issues the certificates that clients of TLS have to show.
    said : str
        What is logged once the port is open, with ``{where}`` in it.

    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,  # noqa: ANN401 (one of Twisted's, of several interfaces)
        description: str,
        factory: Any,  # noqa: ANN401 (the same)
        *,
        client_ca: Path | None = None,
        said: str = "listening on {where}",
    ) -> None:
        self.description, self._said = description, said
        self._reactor, self._factory, self._client_ca = reactor, factory, client_ca
        self._port: Any = None  # an IListeningPort

    def startService(self) -> None:
        """Open the port.

        Raises
        ------
        SettingsError
            The description is none, or one of something that is not there.
        ListenError
            The port or the path is taken, or not for this user.

        """
        super().startService()  # type: ignore[no-untyped-call]
        endpoint = make_endpoint(self._reactor, self.description, self._client_ca)
        listening = endpoint.listen(self._factory)
        problems: list[Failure] = []
        listening.addCallbacks(self._opened, problems.append)
        if problems:
            self._refuse(problems[0])
        # An endpoint of a plugin may take its time; what it ends with is told at least.
        listening.addCallback(lambda _: self._log_problems(problems))

    def _refuse(self, problem: Failure) -> NoReturn:
        """Raise what is wrong: an address of some other machine is a bad value."""
        error = problem.value
        cause = getattr(error, "socketError", error)  # an OSError, or words
        if getattr(cause, "errno", None) == errno.EADDRNOTAVAIL:
            option, found = f"--interface or {OPTION}", getattr(error, "interface", "")
            raise SettingsError(option, found, "an address of this machine") from error
        if isinstance(error, SettingsError):
            raise error
        why = getattr(cause, "strerror", None) or str(cause)
        raise ListenError(self.description, why) from error

    def _opened(self, port: Any) -> None:  # noqa: ANN401 (an interface, to no type checker)
        self._port = port
        tls = " (TLS)" if self.description.startswith("ssl:") else ""
        where = f"{peer_name(port.getHost())}{tls}"
        self._reactor.callWhenRunning(self.log.info, self._said, where=where)

    def _log_problems(self, problems: list[Failure]) -> None:
        for problem in problems:
            self.log.failure("not listening at {endpoint}", problem, endpoint=self.description)

    @property
    def where(self) -> str | None:
        """The address that it listens at, as a person writes it; None where it does not."""
        return None if self._port is None else peer_name(self._port.getHost())

    def abandon(self) -> None:
        """Leave no file behind, for a process that ends without having run."""
        if isinstance(self._port, _UnixPort):
            self._port.remove_file()

    async def _stop(self) -> None:
        if self._port is not None:
            await defer.maybeDeferred(self._port.stopListening)

    def stopService(self) -> defer.Deferred[None]:
        """Close the port; connections that are open stay so."""
        super().stopService()  # type: ignore[no-untyped-call]
        return defer.Deferred.fromCoroutine(self._stop())


class Drain(Service):
    """Gives clients the replies that are under way before the daemon goes.

    To be stopped when nobody listens any more.
    """

    def __init__(self, factory: QuoteFactory) -> None:
        self._factory = factory

    def stopService(self) -> defer.Deferred[None]:
        """Wait for the clients, but not for long."""
        super().stopService()  # type: ignore[no-untyped-call]
        return self._factory.drain(DRAIN_S)


# -- endpoints -------------------------------------------------------------------------------


class _Words(NamedTuple):
    """What an endpoint's description is made of."""

    kind: str
    args: list[str]
    named: dict[str, str]


def _split(description: str) -> _Words:
    """Take a description apart, as Twisted does: a colon behind a backslash ends no word."""
    args: list[str] = []
    named: dict[str, str] = {}
    at = 0
    while at <= len(description):
        piece = _PIECE.match(description, at)
        assert piece is not None  # noqa: S101 (it matches nothing, too)
        key = _KEY.fullmatch(piece.group())
        if key is not None:
            named[_plain(key.group(1))] = _plain(key.group(2))
        else:
            args.append(_plain(piece.group()))
        at = piece.end() + 1
    return _Words(args[0] if args else "", args[1:], named)


def _plain(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)


def make_endpoint(reactor: Any, description: str, client_ca: Path | None = None) -> Any:  # noqa: ANN401 (interfaces, to no type checker)
    """Make the endpoint that a description names.

    Raises
    ------
    SettingsError
        It cannot be read, or what it names (a key, a socket of systemd's) is not there.

    """
    kind, args, named = _split(description)
    try:
        if kind == "unix":
            return _unix(reactor, *args, **named)
        if kind == "ssl":
            return _tls(reactor, client_ca, *args, **named)
        if kind in ("tcp", "tcp6") and len(args) == 1 and "backlog" not in named:
            description = f"{description}:backlog={BACKLOG}"
        endpoint = serverFromString(reactor, description)
    except SettingsError as error:
        raise error if error.option != OPTION else _bad(description, error.expected) from None
    except (IndexError, KeyError) as error:
        expected = "a Twisted endpoint"
        if kind == "systemd":
            expected = "a socket that systemd has handed over (LISTEN_FDS and LISTEN_FDNAMES)"
        raise _bad(description, expected) from error
    except Exception as error:
        # What a plugin of Twisted's raises for a description that it cannot read.
        raise _bad(description, f"a Twisted endpoint ({error})") from error
    if isinstance(endpoint, AdoptedStreamServerEndpoint):
        return _Given(reactor, endpoint, description)
    return endpoint


def _bad(description: str, expected: str) -> SettingsError:
    return SettingsError(OPTION, description, expected)


# -- unix: -----------------------------------------------------------------------------------


def _unix(
    reactor: Any,  # noqa: ANN401 (one of Twisted's, of several interfaces)
    address: str,
    mode: str = "660",
    backlog: str = str(BACKLOG),
    lockfile: str = "",
) -> _UnixEndpoint:
    del lockfile  # the words of Twisted's own; a live server is told by connecting to it
    permissions = int(mode, 8)
    if not 0 <= permissions <= 0o777:  # noqa: PLR2004 (all the bits)
        message = f"mode {mode}"
        raise ValueError(message)
    return _UnixEndpoint(reactor, address, permissions, int(backlog))


class _UnixEndpoint:
    """A path to listen at."""

    def __init__(self, reactor: Any, path: str, mode: int, backlog: int) -> None:  # noqa: ANN401 (one of Twisted's)
        self._reactor, self._path, self._mode, self._backlog = reactor, path, mode, backlog

    def listen(self, factory: Any) -> defer.Deferred[Any]:  # noqa: ANN401 (an interface)
        """Bind it, and have Twisted listen."""
        with socket.socket(socket.AF_UNIX) as own:
            own.settimeout(0)  # Twisted accepts until nobody waits, and must not wait itself
            try:
                with _alone_in(Path(self._path).parent):
                    _take_away_dead(self._path)
                    own.bind(self._path)
                    # Before it listens: until then nobody can connect, whatever the mode.
                    Path(self._path).chmod(self._mode)
                    port = _UnixPort.adopt(self._reactor, own.fileno(), factory)
                    port.own_file(self._path)
                    port.socket.listen(self._backlog)
            except OSError:
                return defer.fail()
        return defer.succeed(port)


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder: who is bound and does not listen yet looks dead to others."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise OSError(errno.EBUSY, f"another process has locked {folder}") from None
                time.sleep(0.01)  # nothing is served yet
            else:
                break
        yield
    finally:
        os.close(fd)


def _take_away_dead(path: str) -> None:
    """Delete a socket that nobody listens at; OSError if somebody does."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(0)
        try:
            probe.connect(path)
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            if Path(path).is_socket():
                Path(path).unlink(missing_ok=True)
            return  # another kind of file is left to the error that binding brings
        except BlockingIOError:  # its queue is full
            raise OSError(errno.EADDRINUSE, "another process listens there") from None
        raise OSError(errno.EADDRINUSE, f"{credentials_at(probe)} listens there")


class _UnixPort(unix.Port):
    """A Unix socket that is bound already. It deletes its own file, if it has one, and no other.

    Twisted's would set the mode to 666, delete whatever is there, and never end its stop if nothing
    is.
    """

    _path = Path()
    _file: tuple[int, int] | None = None

    def __init__(self, name: str | bytes, factory: Any, **how: Any) -> None:  # noqa: ANN401 (as Twisted's)
        # The name of a socket without a file: Twisted then sets no mode and deletes nothing.
        super().__init__(b"\0" + os.fsencode(name), factory, **how)

    @classmethod
    def adopt(cls, reactor: Any, fd: int, factory: Any) -> Any:  # noqa: ANN401 (interfaces)
        """Listen at a socket that does not block, of which a copy is kept."""
        port = cls._fromListeningDescriptor(reactor, fd, factory)  # type: ignore[no-untyped-call]
        port.startListening()
        return port

    def own_file(self, path: str) -> None:
        """Take the file at a path for this socket's own."""
        self._path = Path(path).absolute()
        self._file = _identity(self._path)

    def remove_file(self) -> None:
        """Delete the socket's own file, unless another one has taken its place."""
        if self._file is not None and _identity(self._path) == self._file:
            with contextlib.suppress(OSError):  # the next server takes it away
                self._path.unlink()
        self._file = None

    def connectionLost(self, reason: Any) -> None:  # noqa: ANN401 (as Twisted's)
        """Delete the file, and close."""
        self.remove_file()
        super().connectionLost(reason)  # type: ignore[no-untyped-call]


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


# -- systemd: --------------------------------------------------------------------------------


class _Given:
    """A socket that systemd has opened."""

    def __init__(
        self,
        reactor: Any,  # noqa: ANN401 (one of Twisted's, of several interfaces)
        endpoint: AdoptedStreamServerEndpoint,
        description: str,
    ) -> None:
        self._reactor, self._endpoint, self._description = reactor, endpoint, description

    def listen(self, factory: Any) -> defer.Deferred[Any]:  # noqa: ANN401 (an interface)
        """Have Twisted listen."""
        fd: int = self._endpoint.fileno
        family = self._endpoint.addressFamily
        try:
            with socket.socket(fileno=os.dup(fd)) as given:
                if given.family != family:
                    found = given.family.name.removeprefix("AF_")
                    raise _bad(self._description, f"domain={found}: that socket is one")
            os.set_blocking(fd, False)
            if family == socket.AF_UNIX:
                port = _UnixPort.adopt(self._reactor, fd, factory)
            else:
                port = self._reactor.adoptStreamPort(fd, family, factory)
            port.socket.listen(BACKLOG)  # Twisted has made its queue a short one
            os.close(fd)
        except (OSError, SettingsError):
            return defer.fail()
        return defer.succeed(port)


# -- ssl: ------------------------------------------------------------------------------------


def _tls(  # noqa: PLR0913, PLR0917 (they are the words of a description)
    reactor: Any,  # noqa: ANN401 (one of Twisted's, of several interfaces)
    client_ca: Path | None,
    port: str,
    privateKey: str = "server.pem",
    certKey: str | None = None,
    extraCertChain: str | None = None,
    dhParameters: str | None = None,
    interface: str = "",
    backlog: str = str(BACKLOG),
) -> Any:  # noqa: ANN401 (an interface)
    try:
        from twisted.internet import ssl  # noqa: PLC0415 (an extra)
        from twisted.internet.endpoints import SSL4ServerEndpoint  # noqa: PLC0415 (the same)
    except ImportError as error:
        expected = f"pip install 'quoteshm[tls]' before it ({error})"
        raise SettingsError(OPTION, "", expected) from None

    trust_root = None if client_ca is None else _authorities(ssl, client_ca)
    key, certificate = Path(privateKey).read_bytes(), Path(certKey or privateKey).read_bytes()
    chain = [] if extraCertChain is None else _certificates(ssl, Path(extraCertChain).read_bytes())
    own = ssl.PrivateCertificate.loadPEM(certificate + b"\n" + key)
    dh = (
        None
        if dhParameters is None
        else ssl.DiffieHellmanParameters.fromFile(FilePath(dhParameters))
    )
    options = ssl.CertificateOptions(
        privateKey=own.privateKey.original,
        certificate=own.original,
        extraCertChain=[one.original for one in chain],
        dhParameters=dh,
        trustRoot=trust_root,
        raiseMinimumTo=ssl.TLSVersion.TLSv1_2,
    )
    options.getContext()  # or a key of some other certificate would be found by the first client
    return SSL4ServerEndpoint(reactor, int(port), options, int(backlog), interface)


def _authorities(ssl: Any, path: Path) -> Any:  # noqa: ANN401 (Twisted's module, and an interface)
    """Read who issues the certificates of clients."""
    try:
        return ssl.trustRootFromCertificates(_certificates(ssl, path.read_bytes()))
    except OSError as error:
        expected = f"a file to read ({error.strerror})"
        raise SettingsError(CLIENT_CA, str(path), expected) from None
    except Exception as error:
        raise SettingsError(CLIENT_CA, str(path), f"certificates in PEM ({error})") from error


def _certificates(ssl: Any, pem: bytes) -> list[Any]:  # noqa: ANN401 (Twisted's module)
    found = [ssl.Certificate.loadPEM(one) for one in _CERTIFICATE.findall(pem)]
    if not found:
        message = "no certificate in PEM"
        raise ValueError(message)
    return found
