"""A reshape as groups of axes: which neighbours become which, and what it does to bytes stored in another order."""

from __future__ import annotations

from collections.abc import Sequence

Group = tuple[tuple[int, ...], tuple[int, ...]]


def groups(before: Sequence[int], after: Sequence[int]) -> list[Group] | None:
    """Axes of the operand and axes of the result, as small groups of equal products as there are; None: unequal sizes.

    Axes of length 1 join the group that they stand in, so that every axis belongs to one.
    """
    found: list[Group] = []
    i = j = 0
    while i < len(before) or j < len(after):
        left, right = [i] if i < len(before) else [], [j] if j < len(after) else []
        a, c = before[i] if left else 1, after[j] if right else 1
        i, j = i + len(left), j + len(right)
        while a != c:
            if a < c and i < len(before):
                a, left, i = a * before[i], [*left, i], i + 1
            elif c < a and j < len(after):
                c, right, j = c * after[j], [*right, j], j + 1
            else:
                return None
        found.append((tuple(left), tuple(right)))
    return found


def carried(before: Sequence[int], after: Sequence[int], order: tuple[int, ...]) -> tuple[int, ...] | None:
    """The order of the result where bytes stored in `order` are reshaped as they are; None if it has none."""
    found = groups(before, after) if 0 not in (*before, *after) else None
    if found is None:
        return None
    result: list[int] = []
    rest = list(order)
    while rest:
        left, right = next(g for g in found if rest[0] in g[0])
        if tuple(rest[: len(left)]) != left:
            return None
        result += right
        rest = rest[len(left) :]
    missing = [a for left, right in found if not left for a in right]  # axes of length 1 behind the last
    return (*result, *missing)
