"""Misspelt names: what was meant by a name that nobody knows."""

from __future__ import annotations

from collections.abc import Iterable

TYPE_CHECKING = False

__all__ = ['distance', 'guess', 'is_slip', 'nearest', 'squeeze']

#: How similar two names have to be for one to be suggested in place of the other,
#: from 0 to 1, as :mod:`difflib` counts.
LIKE = 0.7
#: A name with this many letters is taken to be misspelt with two wrong ones as well.
LONG = 9


def squeeze(name: str) -> str:
    """Return *name* without what is easily written differently: in lower case,
    without underscores and hyphens."""
    return name.replace('_', '').replace('-', '').lower()


def nearest(name: str, known: Iterable[str],
            like: float = LIKE) -> str | None:
    """Return the name among *known* that *name* most likely means.

    :param like: how similar that name has to be, from 0 to 1.
    """
    import difflib
    squeezed: dict[str, str] = {}
    for each in sorted(known):
        squeezed.setdefault(squeeze(each), each)
    found = difflib.get_close_matches(squeeze(name), squeezed, 1, like)
    return squeezed[found[0]] if found else None


def guess(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for a message, or nothing."""
    found = nearest(name, known)
    return f' (did you mean {found!r}?)' if found is not None else ''


def is_slip(name: str, known: str) -> bool:
    """Return whether *name*, which is not *known*, can only mean it.

    That is so if it is *known* in upper or lower case, or with its words in
    another order, or if one letter is wrong, missing or added; in a long name two
    may be.
    """
    if sorted(name.lower().split('_')) == sorted(known.lower().split('_')):
        return True
    allowed = 2 if len(squeeze(known)) >= LONG else 1
    if abs(len(squeeze(name)) - len(squeeze(known))) > allowed:
        return False
    return distance(squeeze(name), squeeze(known)) <= allowed


def distance(one: str, other: str) -> int:
    """Return how many letters of *one* have to be changed, added, removed, or
    swapped with the next one, to get *other*."""
    before: list[int] = []
    last = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        row = [i]
        for j, against in enumerate(other, 1):
            cost = min(last[j] + 1, row[j - 1] + 1,
                       last[j - 1] + (letter != against))
            if (i > 1 and j > 1 and letter == other[j - 2]
                    and one[i - 2] == against):
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, last = last, row
    return last[-1]
