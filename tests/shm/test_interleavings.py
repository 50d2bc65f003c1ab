"""The latch over the code that ships: every interleaving, every death, every adoption."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quoteshm.shm import latch, layout, segment
from quoteshm.shm import reader as reader_module
from quoteshm.shm.layout import rows_for
from quoteshm.shm.single import SinglePath
from quoteshm.shm.writer import SegmentWriter
from tests.shm.interleave import (
    BACKWARDS,
    EXPECTED,
    KIND,
    WHOLE,
    WORDS,
    Cut,
    Film,
    Lots,
    Read,
    Step,
    read_history,
    read_panel,
    read_quote,
    read_snapshot,
    read_view,
    reader_of,
)


def tick(names: str) -> Step:
    """Make a step that changes forming bars."""
    return lambda writer, market: market.tick(writer, names)


def opens(names: str) -> Step:
    """Make a step that opens new bars."""
    return lambda writer, market: market.tick(writer, names, opens=True)


def rewrite(names: str) -> Step:
    """Make a step that replaces whole windows."""
    return lambda writer, market: market.rewrite(writer, names)


def remove(name: str) -> Step:
    """Make a step that removes a ticker."""
    return lambda writer, market: market.remove(writer, name)


FILL = [rewrite("AB")] + [opens("A")] * (rows_for(KIND.capacity) - KIND.capacity + 1)

#: What is there before, and the two commits that are filmed.
SCENES: dict[str, tuple[Sequence[Step], Sequence[Step]]] = {
    "first commits of an empty segment": ([], [tick("AB"), opens("AB")]),
    "ticks": ([rewrite("AB")], [tick("AB"), tick("AB")]),
    "a tick of one ticker, then of another": ([rewrite("AB")], [tick("A"), tick("B")]),
    "a tick of one ticker, twice": ([rewrite("AB")], [tick("A"), tick("A")]),
    "a tick of one ticker behind new bars": ([rewrite("AB"), opens("AB")], [tick("A"), tick("B")]),
    "a tick of one ticker, then new bars": ([rewrite("AB"), tick("B")], [tick("A"), opens("AB")]),
    "ticks behind new bars": ([rewrite("AB"), opens("AB")], [tick("AB"), tick("AB")]),
    "new bars": ([rewrite("AB")], [opens("AB"), opens("AB")]),
    "restatements": ([rewrite("AB")], [rewrite("AB"), rewrite("AB")]),
    "a new bar, then a restatement": ([rewrite("AB")], [opens("AB"), rewrite("A")]),
    "a full block": (FILL, [opens("AB"), opens("AB")]),
    "a new ticker": ([rewrite("A")], [tick("AB"), opens("AB")]),
    "a ticker removed, and back": ([rewrite("AB")], [remove("A"), rewrite("A")]),
}
READS = list(EXPECTED)
DEATHS = [
    "ticks",
    "a tick of one ticker, then of another",
    "new bars",
    "restatements",
    "a new ticker",
]


@pytest.fixture
def film(tmp_path: Path) -> Iterator[Film]:
    """Give an empty segment before the camera."""
    film = Film(tmp_path)
    yield film
    film.close()


def shot(film: Film, scene: str, cut: Cut = WORDS) -> Film:
    """Film a scene."""
    before, steps = SCENES[scene]
    film.cut = cut
    film.prepare(*before)
    film.shoot(*steps)
    return film


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("scene", SCENES)
def test_no_interleaving_of_two_commits_tears_a_read(film: Film, scene: str, read: Read) -> None:
    """Each read is whole and of its time, with the words of each store made one by one."""
    assert shot(film, scene, WORDS).explore(read, times=1) > 1


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("scene", SCENES)
def test_no_interleaving_takes_a_reader_back_in_time(film: Film, scene: str, read: Read) -> None:
    """Of two reads the second is never older, with stores made from their ends on."""
    assert shot(film, scene, BACKWARDS).explore(read) > 1


@pytest.mark.parametrize("read", [read_quote, read_history, read_view])
@pytest.mark.parametrize("scene", SCENES)
def test_no_interleaving_tears_a_read_of_what_is_known(film: Film, scene: str, read: Read) -> None:
    """The fast ways, from the first load on, and from one read to the next."""
    assert shot(film, scene, WORDS).explore(read, known=True) > 1


@pytest.mark.parametrize("scene", SCENES)
def test_every_prefix_of_the_stores_can_be_read_and_adopted(tmp_path: Path, scene: str) -> None:
    """A death at any store leaves what was published, before and after the adoption."""
    before, steps = SCENES[scene]
    length = 0
    film = Film(tmp_path)
    film.prepare(*before)
    film.shoot(*steps)
    length = len(film.stores)
    assert length > 20
    for position in range(length + 1):
        published = film.published_at(position)
        film.freeze(position)
        film.check_reads(published)
        film.writer = SegmentWriter.open(film.spec, film.writer._clock)
        assert film.writer.adopted
        film.check_reads(published)
        states, film.market = film.states, film.states[published].copy()
        rewrite("AB")(film.writer, film.market)
        film.states = [film.market]
        film.check_reads(0)
        film.states = states
    film.close()


@pytest.mark.parametrize("scene", DEATHS)
def test_no_death_and_adoption_at_any_store_tears_a_read(tmp_path: Path, scene: str) -> None:
    """The writer dies behind each store of a commit; the next one adopts, and commits again."""
    before, steps = SCENES[scene]
    position, length = 0, 1
    while position <= length:
        film = Film(tmp_path, WHOLE)
        film.prepare(*before)
        film.shoot(steps[0])
        length = len(film.stores)
        film.die_and_be_adopted(position)
        film.shoot(steps[1])
        for read in READS:
            film.explore(read, times=1)
        film.close()
        position += 1
    assert length > 8


def test_a_slack_of_three_epochs_is_found_out(film: Film, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check can fail: with one epoch more a read is torn."""
    monkeypatch.setattr(latch, "EPOCH_SLACK", latch.EPOCH_SLACK + 1)
    with pytest.raises(AssertionError, match="torn or mixed"):
        shot(film, "ticks").explore(read_snapshot)


@pytest.mark.parametrize("read", [read_history, read_view, read_panel])
def test_a_slack_of_three_rewrites_is_found_out(
    film: Film, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check can fail: with one rewrite more a history is torn."""
    monkeypatch.setattr(latch, "REWRITE_SLACK", latch.REWRITE_SLACK + 1)
    with pytest.raises(AssertionError, match="torn or mixed"):
        shot(film, "restatements").explore(read)


@pytest.mark.parametrize("read", [read_quote, read_history, read_view])
def test_a_fast_way_that_does_not_look_at_the_epoch_is_found_out(
    film: Film, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check can fail: what is known would be believed for ever."""
    monkeypatch.setattr(reader_module, "_EPOCH", layout.STATE_WORD)
    with pytest.raises(AssertionError, match=r"torn or mixed|old"):
        shot(film, "restatements").explore(read, known=True)


@pytest.mark.parametrize("position", [-1, None], ids=["odd", "even"])
def test_a_catch_up_left_out_after_an_adoption_is_found_out(
    film: Film, position: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check can fail: the back buffer keeps what the dead writer left in it."""
    film.prepare(rewrite("AB"))
    film.shoot(tick("A"))
    even = max(i for i, store in enumerate(film.stores) if store.published == 0) + 1

    def forget(writer: SegmentWriter) -> None:
        writer._dirty_quotes, writer._dirty_series = [], [[] for _ in writer._map.series[0]]

    monkeypatch.setattr(SegmentWriter, "_catch_up_all", forget)
    film.die_and_be_adopted(even if position else len(film.stores))
    film.shoot(tick("B"))
    with pytest.raises(AssertionError, match=r"torn or mixed|old"):
        film.explore(read_snapshot)


def test_a_catch_up_left_out_of_the_short_path_is_found_out(
    film: Film, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check can fail: a tick of another ticker brings an older row back."""
    monkeypatch.setattr(SinglePath, "catch_up", lambda *_: None)
    film.prepare(rewrite("AB"))
    film.shoot(tick("A"), tick("B"))
    with pytest.raises(AssertionError, match=r"torn or mixed|old"):
        film.explore(read_snapshot)


def test_an_adoption_that_adds_one_is_found_out(
    film: Film, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check can fail: the half-written buffer becomes the stable one."""
    film.prepare(rewrite("AB"))
    film.shoot(tick("AB"))
    odd = max(i for i, store in enumerate(film.stores) if store.published == 0) - 2
    monkeypatch.setattr(latch, "adopted", lambda epoch: epoch + epoch % 2)
    film.die_and_be_adopted(odd)
    film.shoot(tick("B"))
    with pytest.raises(AssertionError, match="torn or mixed"):
        film.explore(read_snapshot)


class KilledError(Exception):
    """Stands for a kill -9."""


@pytest.mark.parametrize("place", ["fill", "publish", "complete", "lock_segment", "allocate"])
def test_a_death_during_a_replacement_loses_nothing(
    film: Film, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A third ticker outgrows the segment; the writer dies before or behind each of its steps."""
    film.prepare(rewrite("AB"), opens("AB"))
    epoch = film.writer.epoch
    for behind in (False, True):
        with monkeypatch.context() as patched:
            kill_at(place, patched, behind=behind)
            with pytest.raises(KilledError):
                tick("C")(film.writer, film.market.copy())
            film.check_reads(0)
            film.writer._map.cells = memoryview(bytearray(4096)).cast("Q")  # the dead do not close
            film.writer.close(unlink=False)
        film.writer = SegmentWriter.open(film.spec, film.writer._clock)
        assert film.writer.adopted
        assert film.writer.epoch >= epoch
        film.check_reads(0)


def kill_at(place: str, patched: pytest.MonkeyPatch, *, behind: bool) -> None:
    """Make a function of the segment's module the last thing that its writer does."""
    real, unlink, dead = getattr(segment, place), Path.unlink, list[bool]()

    def dies(*args: object) -> None:
        if behind:
            real(*args)
        dead.append(True)
        raise KilledError

    def tidies(path: Path, *, missing_ok: bool = False) -> None:
        if not dead:
            unlink(path, missing_ok=missing_ok)

    patched.setattr(segment, place, dies)
    patched.setattr(Path, "unlink", tidies)


def test_a_reader_follows_a_replacement(film: Film) -> None:
    """A reader of the old segment reads on in the new one, at a later epoch."""
    film.prepare(rewrite("AB"))
    with reader_of(film.spec) as reader:
        before = reader.snapshot()
        first = reader.info.instance
        tick("C")(film.writer, film.market)
        assert reader.snapshot().epoch > before.epoch
        assert reader.info.instance != first
        assert sorted(reader.snapshot().quotes) == ["A", "B", "C"]
        assert read_history(reader, "A") == film.market.value("A")


STEPS = st.sampled_from(
    [tick("A"), tick("B"), tick("AB"), opens("A"), opens("AB"), rewrite("A"), rewrite("AB")]
)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    before=st.lists(STEPS, max_size=6),
    steps=st.lists(STEPS, min_size=1, max_size=3),
    death=st.none() | st.floats(0, 1),
    read=st.sampled_from([read_quote, read_history, read_view, read_snapshot, read_panel]),
    rng=st.randoms(use_true_random=False),
)
def test_no_longer_history_tears_a_read(  # noqa: PLR0913 (all of them drawn)
    *,
    tmp_path_factory: pytest.TempPathFactory,
    before: list[Step],
    steps: list[Step],
    death: float | None,
    read: Read,
    rng: Random,
) -> None:
    """Any steps, a death somewhere among them, and one more commit; by lot, as there are many."""
    film = Film(tmp_path_factory.mktemp("film"), WHOLE)
    try:
        film.prepare(rewrite("AB"), *before)
        film.shoot(*steps)
        if death is not None:
            film.die_and_be_adopted(round(death * len(film.stores)))
            film.shoot(tick("AB"))
        film.explore(read, lots=Lots(500, rng))
    finally:
        film.close()
