"""Text from outside, made fit for logs, messages and terminals."""

from __future__ import annotations


def printable(text: object) -> str:
    r"""Give a text on one line, without anything that a terminal would obey.

    Signs that cannot be shown, among them lone surrogates, become escapes such as ``\x1b``.
    """
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in shown
    )
