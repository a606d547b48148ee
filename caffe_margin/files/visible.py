"""Names that come from a file or a command line, made fit to be shown."""

from __future__ import annotations

LIMIT = 100
"""How much of a name is shown, in characters, where nobody says otherwise."""


def visible(text: str, limit: int = LIMIT) -> str:
    r"""Return a stranger's text in one line of printable characters, cut where it is long.

    What does not print (newlines, escape sequences, marks that turn the direction of the text,
    the surrogates that stand for undecodable bytes of a path) is shown as Python escapes it. A
    backslash stays as it is, so the result is for readers only.

    Args:
        text: what to show.
        limit: how many characters the result may have, at least 3.

    Returns:
        At most ``limit`` characters; they end in ``...`` where something was left out.

    >>> print(visible("fc6\nok \x1b[2J"))
    fc6\nok \x1b[2J
    >>> visible("a rather long name", 12)
    'a rather ...'
    """
    shown = [c if c.isprintable() else _escaped(c) for c in text[: limit + 1]]
    if sum(map(len, shown)) <= limit:
        return "".join(shown)
    # No escape is cut in two: half of one would read as another.
    room = limit - len("...")
    while sum(map(len, shown)) > room:
        shown.pop()
    return "".join(shown) + "..."


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
