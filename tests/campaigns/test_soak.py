"""A short run of the campaign in `soak`."""

from tests.campaigns import soak


def test_nothing_is_torn_while_a_daemon_publishes_and_is_killed() -> None:
    """A few seconds, two kills: every read is good, the segment is adopted under the reader."""
    result = soak.run(seconds=6, kills=2)

    assert result["problems"] == []
    assert result["adoptions"] == 2
    assert result["commits"] > 100
    assert min(result["reads"].values()) > 100
