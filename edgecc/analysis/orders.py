"""Orders: how the axes of a value lie in memory, and what moving, reshaping and removing axes makes of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from edgecc import ir
from edgecc.analysis.reshape_groups import carried

# Axis i of the stored tensor is axis order[i] of the value.
Permutation = tuple[int, ...]


@dataclass(frozen=True)
class Flattened:
    """The order of a matrix (batch, everything else) made from a tensor of `shape` stored in `order`."""

    shape: tuple[int, ...]
    order: Permutation

    def rows(self) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        """For each stored column the ONNX column that it holds: (columns,) int64."""
        columns = np.arange(int(np.prod(self.shape[1:]))).reshape(1, *self.shape[1:])
        return columns.transpose(self.order).reshape(-1).astype(np.int64)


Order = Permutation | Flattened
Pair = tuple[Order, Order]


def channels_last(rank: int) -> Permutation:
    """(0, 2, ..., rank-1, 1) for ranks 3 to 5, else the identity."""
    return (0, *range(2, rank), 1) if 3 <= rank <= 5 else tuple(range(rank))


def identity(value: ir.Value) -> Permutation:
    """ONNX's own order of a value."""
    return tuple(range(len(ir.dims(value) or ())))


def moves_nothing(shape: tuple[int, ...], source: Permutation, wanted: Permutation) -> bool:
    """Whether the axes longer than 1 come in the same sequence in both orders, so that no byte moves."""
    return [a for a in source if shape[a] != 1] == [a for a in wanted if shape[a] != 1]


def default_pair(value: ir.Value) -> Pair:
    """ONNX's own order and channels last."""
    own = identity(value)
    return own, channels_last(len(own))


def without(order: Order, gone: Iterable[int]) -> Permutation:
    """The order of a value after the axes `gone` were removed."""
    assert not isinstance(order, Flattened)
    dropped = set(gone)
    kept = [a for a in order if a not in dropped]
    renumber = {axis: i for i, axis in enumerate(sorted(kept))}
    return tuple(renumber[a] for a in kept)


def rebased(order: Order, perm: list[int]) -> Permutation:
    """The order, in the axes of a Transpose's result, of bytes stored in `order` of its operand's axes."""
    assert not isinstance(order, Flattened)
    place = {source: axis for axis, source in enumerate(perm)}
    return tuple(place[axis] for axis in order)


def flattened(shape: tuple[int, ...], order: Order) -> Order:
    """The order of the matrix; (0, 1) where flattening from `order` gives ONNX's own sequence of columns."""
    assert not isinstance(order, Flattened)
    own = tuple(range(len(shape)))
    return (0, 1) if moves_nothing(shape, order, own) else Flattened(shape, order)


def reshaped(source: ir.Value, result: ir.Value, order: Order) -> Permutation | None:
    """The order of a Reshape's result where the stored bytes stay; None where it must come in ONNX's own."""
    if isinstance(order, Flattened) or order[:1] != (0,):
        return None
    found = carried(ir.static_dims(source), ir.static_dims(result), order)
    return found if found is not None and found[:1] == (0,) else None


def reshaped_pair(source: ir.Value, result: ir.Value, pair: Pair) -> Pair | None:
    """Both orders of a Reshape's result, called by their usual names where only axes of length 1 differ."""
    first, second = (reshaped(source, result, order) for order in pair)
    if first is None or second is None:
        return None
    own, last = default_pair(result)
    assert isinstance(own, tuple)
    assert isinstance(last, tuple)
    sizes = ir.static_dims(result)
    return (
        own if moves_nothing(sizes, first, own) else first,
        last if moves_nothing(sizes, second, last) else second,
    )
