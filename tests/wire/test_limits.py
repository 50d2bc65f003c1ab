"""Who may connect, and how much may be logged."""

from __future__ import annotations

import ipaddress
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from quoteshm.wire.limits import Connections, LogRation, peer_key

# -- names of peers --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::ffff:c000:207", "192.0.2.7"),
        ("::1", "::/64"),
        ("2001:db8:0:1:2:3:4:5", "2001:db8:0:1::/64"),
        ("2001:db8:0:2::", "2001:db8:0:2::/64"),
        ("fe80::1%eth0", "fe80::/64%eth0"),
        ("pigeon", "pigeon"),
        ("", ""),
    ],
)
def test_a_peer_is_an_address_or_a_network(host: str, key: str) -> None:
    """IPv4 alone or in IPv6, IPv6 by its first half, and whatever is neither."""
    assert peer_key(host) == key


@given(st.ip_addresses(v=6), st.integers(0, (1 << 64) - 1))
def test_all_of_a_network_is_one_peer(address: ipaddress.IPv6Address, other: int) -> None:
    """But for the addresses in it that stand for IPv4 ones."""
    neighbour = ipaddress.IPv6Address(int(address) >> 64 << 64 | other)
    if address.ipv4_mapped is None and neighbour.ipv4_mapped is None:
        assert peer_key(str(address)) == peer_key(str(neighbour))


# -- connections -----------------------------------------------------------------------------


def test_no_more_than_the_total_are_admitted() -> None:
    """Whoever they are from; when one has left there is room for one."""
    connections = Connections(total=2, per_peer=2)

    assert [connections.admit(peer) for peer in ("a", "b")] == [None, None]
    assert connections.admit("c") == "2 connections, at most 2: try again later"
    connections.leave("a")
    assert connections.admit("c") is None


def test_no_more_of_one_peer_than_it_may_have() -> None:
    """The others do not notice."""
    connections = Connections(total=10, per_peer=2)

    assert [connections.admit("a") for _ in range(2)] == [None, None]
    assert connections.admit("a") == "2 connections from a, at most 2"
    assert connections.admit("b") is None
    connections.leave("a")
    assert connections.admit("a") is None


def test_one_that_was_not_admitted_cannot_leave() -> None:
    """It would make room that is not there."""
    connections = Connections(total=1, per_peer=1)
    connections.admit("a")

    with pytest.raises(KeyError):
        connections.leave("b")
    assert connections.count == 1


@given(
    st.integers(1, 6),
    st.integers(1, 6),
    st.lists(st.tuples(st.booleans(), st.sampled_from("abc")), max_size=60),
)
def test_the_counts_are_those_of_who_is_there(
    total: int, per_peer: int, steps: list[tuple[bool, str]]
) -> None:
    """After any history, and a peer that has left leaves nothing behind."""
    connections = Connections(total, per_peer)
    there: Counter[str] = Counter()
    for comes, peer in steps:
        if comes:
            room = there.total() < total and there[peer] < per_peer
            assert (connections.admit(peer) is None) == room
            there[peer] += room
        elif there[peer]:
            connections.leave(peer)
            there[peer] -= 1
        assert connections.count == there.total()
        assert connections.of(peer) == there[peer]

    for peer in there.elements():
        connections.leave(peer)
    assert (connections.count, connections._of_peer) == (0, {})


# -- the log ---------------------------------------------------------------------------------


def ration(most: int = 3) -> tuple[LogRation, Clock, list[int]]:
    """Make one on a clock of its own, and a list of what it tells."""
    clock = Clock()
    told: list[int] = []
    return LogRation(clock, told.append, most), clock, told


def test_what_is_too_much_in_a_second_is_counted_and_told_after_it() -> None:
    """Also when nothing more comes."""
    lines, clock, told = ration()

    assert [lines.allows() for _ in range(5)] == [True, True, True, False, False]
    clock.advance(0.9)
    assert not lines.allows()
    assert told == []
    clock.advance(0.1)
    assert told == [3]
    assert lines.allows()
    clock.advance(60)
    assert told == [3]


def test_the_reactor_is_asked_for_nothing_while_all_is_written() -> None:
    """And for one call however much is left out."""
    lines, clock, _ = ration()

    for _ in range(3):
        lines.allows()
    assert clock.getDelayedCalls() == []
    for _ in range(1000):
        lines.allows()
    assert len(clock.getDelayedCalls()) == 1


def test_every_line_is_written_or_told() -> None:
    """A hundred seconds of too many lines, at an uneven pace."""
    lines, clock, told = ration(most=7)
    written = 0
    for step in range(10_000):
        written += lines.allows()
        clock.advance(0.01 * (step % 3))
    lines.close()

    assert written + sum(told) == 10_000
    assert 95 * 7 <= written <= 101 * 7


def test_at_the_end_nothing_is_left_to_be_told() -> None:
    """And nothing is asked of the reactor any more, however often it is closed."""
    lines, clock, told = ration(most=1)
    lines.allows()
    lines.allows()

    lines.close()
    lines.close()

    assert told == [1]
    assert clock.getDelayedCalls() == []


def test_a_late_call_tells_no_less() -> None:
    """A reactor that was busy calls late: the next second's lines are written all the same."""
    lines, clock, told = ration(most=1)
    lines.allows()
    lines.allows()
    clock.rightNow += 5  # without its calls

    assert lines.allows()
    assert told == [1]
    assert clock.getDelayedCalls() == []


def test_a_clock_that_is_set_back_keeps_nothing_quiet() -> None:
    """It begins a second anew."""
    lines, clock, _ = ration(most=1)
    clock.advance(1000)
    lines.allows()
    clock.rightNow -= 500

    assert lines.allows()
