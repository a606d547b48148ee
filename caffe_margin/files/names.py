"""Names from a file: what a misspelt one was meant to be."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable

_MAX_LENGTH = 80
"""No name of a schema is longer. The comparison is quadratic in the length..."""
_MAX_NAMES = 500
"""...and linear in the number of names; those beyond are not looked at."""


def near(name: str, names: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the one of ``names`` that is most like ``name``, or None where none is really near.

    Two names that end in the same word (``bn_param``, ``mvn_param``) are compared without it.

    Args:
        name: the name that was not found.
        names: those there are; of equals the last by the alphabet is returned, as by difflib.
        cutoff: how like a name must be, from 0 to 1: difflib's ratio.
    """
    if len(name) > _MAX_LENGTH:
        return None
    best: tuple[float, str] | None = None
    for other in itertools.islice(names, _MAX_NAMES):
        if len(other) > _MAX_LENGTH:
            continue
        matcher = difflib.SequenceMatcher(None, *_without_common_word(other, name), autojunk=False)
        if matcher.real_quick_ratio() >= cutoff and matcher.quick_ratio() >= cutoff:
            likeness = matcher.ratio(), other
            if likeness[0] >= cutoff and (best is None or likeness > best):
                best, cutoff = likeness, likeness[0]
    return None if best is None else best[1]


def _without_common_word(first: str, second: str) -> tuple[str, str]:
    """Return two names without the last word, where that is the same."""
    first_head, _, first_word = first.rpartition("_")
    second_head, _, second_word = second.rpartition("_")
    if first_word == second_word and (first_head or second_head):
        return first_head, second_head
    return first, second
