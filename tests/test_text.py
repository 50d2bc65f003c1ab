"""Text from outside."""

from __future__ import annotations

from quoteshm.text import printable


def test_what_a_terminal_would_obey_is_escaped() -> None:
    """Also a line's end, the one-byte CSI, and half of a surrogate pair; the rest stays."""
    assert printable("a\x1b[2Jb\nc\x9b\udc80é") == "a\\x1b[2Jb\\nc\\x9b\\udc80é"
    assert printable(7) == "7"
