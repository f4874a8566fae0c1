"""A reshape as groups of axes: which neighbours become which, and what it does to bytes stored in another order."""

from __future__ import annotations

from collections.abc import Sequence

Group = tuple[tuple[int, ...], tuple[int, ...]]


def groups(before: Sequence[int], after: Sequence[int]) -> list[Group] | None:
    """Axes of the operand and axes of the result, as small groups of equal products as there are; None: unequal sizes.

    Axes of length 1 are in none.
    """
    left, right = ([a for a, d in enumerate(shape) if d != 1] for shape in (before, after))
    found: list[Group] = []
    while left and right:
        one, other = [left.pop(0)], [right.pop(0)]
        a, c = before[one[0]], after[other[0]]
        while a != c:
            if a < c and left:
                one.append(left.pop(0))
                a *= before[one[-1]]
            elif c < a and right:
                other.append(right.pop(0))
                c *= after[other[-1]]
            else:
                return None
        found.append((tuple(one), tuple(other)))
    return None if left or right else found


def carried(before: Sequence[int], after: Sequence[int], order: tuple[int, ...]) -> tuple[int, ...] | None:
    """The order of the result where bytes stored in `order` are reshaped as they are; None if it has none.

    An axis of length 1 comes behind its neighbour in front.
    """
    found = groups(before, after) if 0 not in (*before, *after) else None
    if found is None:
        return None
    result: list[int] = []
    rest = [a for a in order if before[a] != 1]
    while rest:
        left, right = next(g for g in found if rest[0] in g[0])
        if tuple(rest[: len(left)]) != left:
            return None
        result += right
        rest = rest[len(left) :]
    for axis, size in enumerate(after):
        if size == 1:
            result.insert(result.index(axis - 1) + 1 if axis else 0, axis)
    return tuple(result)
