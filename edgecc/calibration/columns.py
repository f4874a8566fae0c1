"""The columns that meet a layer's weights: what some places of its output sum."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from edgecc import ir
from edgecc.calibration.picked import places

# Random choices of places, used in turn.
_PLACEMENTS = 16


def fan_in(node: ir.Node) -> int:
    """How many inputs one output of a layer sums."""
    dims = ir.static_dims(node.inputs[1])  # type: ignore[arg-type]
    if node.op_type == "Conv":
        return prod(dims[1:])
    return dims[1] if node.op_type == "Gemm" and ir.attribute(node, "transB", 0) else dims[0]


def groups(node: ir.Node) -> int:
    """Of a Conv; 1 for a matrix."""
    return int(ir.attribute(node, "group", 1)) if node.op_type == "Conv" else 1


class Columns:
    """Takes of what a layer reads the columns that meet its weights, at some places of its output."""

    def __init__(self, node: ir.Node, most: int, rng: np.random.Generator) -> None:
        """Takes at most so many places of each sample, chosen by `rng`."""
        self._node, self._rng, self._most = node, rng, most
        self._windows: dict[tuple[int, ...], list[Windows]] = {}
        self._sizes: tuple[int, ...] = ()
        self._samples = 0

    def foresee(self, graph: ir.Graph, value: ir.Value) -> int | None:
        """Chooses places before the network runs: how many elements of each channel; None: it must be seen whole.

        Args:
            graph: of the network.
            value: what the layer reads.
        """
        count, dims = places(graph, value), ir.dims(value)
        if self._node.op_type != "Conv" or count is None or dims is None or dims[0] not in (1, None):
            return None
        self._sizes = tuple(int(d) for d in dims[2:] if d is not None)
        taken = self._place(self._sizes).index.size
        return taken if taken < count else None

    def index(self) -> ir.Array:
        """The elements of each channel of the next sample, if they were foreseen."""
        return self._place(self._sizes).index.reshape(-1)

    def _place(self, sizes: tuple[int, ...]) -> Windows:
        if sizes not in self._windows:
            self._windows[sizes] = [
                windows(self._node, sizes, self._most, self._rng) for _ in range(_PLACEMENTS)
            ]
        return self._windows[sizes][self._samples % _PLACEMENTS]

    def taken(self, array: ir.Array) -> Iterator[ir.Array]:
        """Of one sample, (groups, fan_in, places) for each image in it; of a matrix all rows at once.

        Args:
            array: what the layer reads, or of it the elements (channels, index) that were foreseen.
        """
        if self._node.op_type != "Conv":
            yield take_rows(array, self._most, self._rng)
        elif array.ndim == 2:
            yield arranged(array, groups(self._node), self._place(self._sizes))
        else:
            for one in array:
                yield take_windows(one, groups(self._node), self._place(array.shape[2:]))
        self._samples += 1


@dataclass(frozen=True)
class Windows:
    """Where the inputs of some outputs of a Conv lie, (taps, places) each.

    Attributes:
        index: in the flattened image.
        inside: 1.0, and 0.0 where the kernel lies on the padding; None: nowhere.
    """

    index: ir.Array
    inside: ir.Array | None


def windows(node: ir.Node, sizes: Sequence[int], most: int, rng: np.random.Generator) -> Windows:
    """Of at most `most` places of a Conv's output, for an image of these sizes."""
    kernel = ir.static_dims(node.inputs[1])[2:]  # type: ignore[arg-type]
    rank = len(kernel)
    strides = ir.attribute(node, "strides", (1,) * rank)
    pads = ir.attribute(node, "pads", (0,) * 2 * rank)
    dilations = ir.attribute(node, "dilations", (1,) * rank)
    out = [
        (sizes[i] + pads[i] + pads[i + rank] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1
        for i in range(rank)
    ]
    places = prod(out)
    chosen = np.arange(places) if places <= most else np.sort(rng.choice(places, most, replace=False))
    corners = np.unravel_index(chosen, out)
    taps = np.unravel_index(np.arange(prod(kernel)), kernel)
    inside = np.ones((prod(kernel), len(chosen)), np.float32)
    index = np.zeros(inside.shape, np.int64)
    for i in range(rank):
        at = corners[i][None, :] * strides[i] - pads[i] + taps[i][:, None] * dilations[i]
        inside *= (at >= 0) & (at < sizes[i])
        index = index * sizes[i] + np.clip(at, 0, sizes[i] - 1)
    return Windows(index, None if inside.all() else inside)


def take_windows(array: ir.Array, count: int, chosen: Windows) -> ir.Array:
    """What some outputs of a Conv of `count` groups sum, (groups, fan_in, places); array: (channels, ...)."""
    return arranged(np.take(array.reshape(len(array), -1), chosen.index.reshape(-1), axis=1), count, chosen)


def arranged(found: ir.Array, count: int, chosen: Windows) -> ir.Array:
    """The elements (channels, taps * places) of some windows as (groups, fan_in, places); 0 in the padding."""
    found = found.reshape(-1, *chosen.index.shape)
    if chosen.inside is not None:
        found = found * chosen.inside
    return found.reshape(count, -1, chosen.index.shape[1])


def take_rows(array: ir.Array, most: int, rng: np.random.Generator) -> ir.Array:
    """What some rows of a product sum, (1, fan_in, at most `most`); array: (..., fan_in)."""
    rows = array.reshape(-1, array.shape[-1])
    if len(rows) > most:
        rows = rows[np.sort(rng.choice(len(rows), most, replace=False))]
    return np.ascontiguousarray(rows.T)[None]
