"""What is counted: each request once, by what was asked and what became of it."""

from __future__ import annotations

import pytest

from quoteshm.wire.tally import BOUNDS_S, OK, Histogram, Tally
from tests.published import Market
from tests.wire.test_protocol import PING, Transport, connect

QUOTE = b'{"v":1,"id":1,"type":"get_quote","ticker":"%b"}\n'
STRICT = b'{"type":"get_quote","v":1,"id":1,"ticker":"%b"}\n'


def test_a_histogram_counts_up_to_each_bound() -> None:
    """A bound is part of what is below it, and what is beyond all of them counts beside."""
    found = Histogram()
    found.add(BOUNDS_S[0])
    found.add(BOUNDS_S[0] * 1.01, 3)
    found.add(1e9)

    assert found.cumulated()[:2] == [1, 4]
    assert found.cumulated()[-2:] == [4, 5]
    assert found.sum_s > 1e9


def test_a_turn_counts_all_of_its_requests() -> None:
    """With one time for all; a turn without any counts nothing."""
    tally = Tally()
    tally.begin()
    tally.end()
    assert tally.latency.cumulated()[-1] == 0

    tally.begin()
    tally.count += 3
    tally.end()
    assert tally.latency.cumulated()[-1] == 3
    assert not tally.began_s


@pytest.mark.parametrize("log_traffic", [True, False], ids=["strict", "short"])
def test_requests_count_by_op_and_code_however_they_are_answered(*, log_traffic: bool) -> None:
    """Quotes that are answered the short way are counted with the others."""
    protocol, _ = connect(Market().context, log_traffic=log_traffic)
    tally = protocol.server.tally
    protocol.dataReceived(QUOTE % b"AAPL" * 3 + STRICT % b"AAPL" + QUOTE % b"ZM" + PING * 2)
    protocol.dataReceived(b'nonsense\n{"v":1,"id":1,"type":"make_coffee"}\n')
    protocol.dataReceived(b'{"v":1,"id":1,"type":"get_history","ticker":"AAPL","last":0}\n')

    assert tally.requests() == {
        ("get_quote", OK): 4,
        ("get_quote", "NOT_FOUND"): 1,
        ("ping", OK): 2,
        ("unknown", "BAD_REQUEST"): 2,
        ("get_history", "BAD_REQUEST"): 1,
    }
    assert tally.short == (0 if log_traffic else 3)
    assert tally.latency.cumulated()[-1] == 10


def test_what_was_sent_counts_after_the_client_is_gone() -> None:
    """So that the sum never becomes less."""
    protocol, transport = connect(Market().context)
    protocol.dataReceived(PING)
    assert protocol.sent_nbytes == len(transport.value())
    protocol.connectionLost()

    assert protocol.server.tally.sent_nbytes == len(transport.value())
    assert protocol.server.tally.connected == 1


def test_what_who_is_turned_away_was_sent_counts_on_as_well() -> None:
    """Once, however it ends."""
    protocol, _ = connect(Market().context)
    server = protocol.server
    server.connections.total = 0
    other = server.buildProtocol(None)
    transport = Transport()
    other.makeConnection(transport)
    nbytes = len(transport.value())
    assert nbytes > 0
    assert sum(client.sent_nbytes for client in server.clients) == nbytes
    for _ in range(2):
        other.connectionLost()
        assert server.tally.sent_nbytes == nbytes


def test_a_last_line_without_its_end_has_a_time_as_well() -> None:
    """So that as many times are counted as requests."""
    protocol, _ = connect(Market().context)
    protocol.dataReceived(PING + PING[:-1])
    protocol.readConnectionLost()

    assert protocol.server.tally.requests() == {("ping", OK): 2}
    assert protocol.server.tally.latency.cumulated()[-1] == 2
