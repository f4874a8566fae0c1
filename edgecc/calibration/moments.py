"""Second moments of what linear layers read: in which directions of the weights an error matters.

One pass over the data for as many layers as fit in memory; of each sample some places of the output are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import prod
from typing import TypeVar

import numpy as np

from edgecc import ir

T = TypeVar("T")

# Samples whose columns are multiplied at once: large products are fast, and few columns are held.
_BATCH = 16
# Of layers with few inputs, as depthwise ones, fewer places say enough.
_SMALL, _FEW = 64, 16
# Random choices of places, used in turn.
_PLACEMENTS = 16
# Elements that are held in one pass over the data: 256 MB of float32.
_ELEMENTS = 64_000_000


@dataclass(frozen=True)
class Moments:
    """Of the inputs x (fan_in,) that meet one set of weights.

    Attributes:
        second: (groups, fan_in, fan_in) float64, mean of x x^T.
        mean: (groups, fan_in) float64.
        count: of columns that were seen.
    """

    second: ir.Array
    mean: ir.Array
    count: int


def shrinkage(second: ir.Array, count: int) -> ir.Array:
    """How far correlations are to be shrunk towards none, 0 to 1 for each group.

    Few columns seem more correlated than the inputs are. Oracle approximating shrinkage: Chen et al. 2010, "Shrinkage
    algorithms for MMSE covariance estimation", equation 23, on the correlation matrix.

    Args:
        second: (groups, size, size), moments.
        count: of the columns that they are the mean of.
    """
    size = second.shape[1]
    spread = np.sqrt(np.maximum(np.diagonal(second, axis1=1, axis2=2), 1e-30))
    squares = ((second / (spread[:, :, None] * spread[:, None, :])) ** 2).sum(axis=(1, 2))
    few = count + 1 - 2 / size
    with np.errstate(divide="ignore"):
        shrunk = ((1 - 2 / size) * squares + size**2) / (few * np.maximum(squares - size, 0.0))
    return np.asarray(np.clip(shrunk, 0.0, 1.0))


def trusted(moments: Moments, *, centred: bool) -> ir.Array:
    """Second moments, about the mean if `centred`, as far as they can be trusted: (groups, fan_in, fan_in) float64."""
    second = moments.second
    if centred:
        second = second - moments.mean[:, :, None] * moments.mean[:, None, :]
    shrunk = shrinkage(second, moments.count)[:, None, None]
    return np.asarray(second * np.where(np.eye(second.shape[1]) > 0, 1.0, 1.0 - shrunk))


def objection(node: ir.Node) -> str | None:
    """Why the inputs of a Conv, Gemm or MatMul cannot be taken apart into columns, or None."""
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return f"{node.op_type} is not supported"
    if node.op_type == "Conv" and ir.attribute(node, "auto_pad", "NOTSET") != "NOTSET":
        return "its padding is given by auto_pad"
    weight = ir.constant(node.inputs[1])
    if weight is None or (node.op_type == "MatMul" and weight.ndim != 2):
        return "its weights are not a constant matrix"
    return None


def fan_in(node: ir.Node) -> int:
    """How many inputs one output of a layer sums."""
    dims = ir.static_dims(node.inputs[1])  # type: ignore[arg-type]
    if node.op_type == "Conv":
        return prod(dims[1:])
    return dims[1] if node.op_type == "Gemm" and ir.attribute(node, "transB", 0) else dims[0]


def groups(node: ir.Node) -> int:
    """Of a Conv; 1 for a matrix."""
    return int(ir.attribute(node, "group", 1)) if node.op_type == "Conv" else 1


def collect_moments(
    model: ir.Model,
    dataset: Iterable[Mapping[str, ir.Array]],
    nodes: Sequence[ir.Node],
    *,
    columns: int = 49,
    seed: int = 0,
    threads: int | None = None,
) -> Iterator[tuple[ir.Node, Moments]]:
    """The moments of what each node reads in the float network, node by node.

    Args:
        model: the float network.
        dataset: samples in the ONNX layout, read once for each 256 MB of matrices.
        nodes: of `model`, to none of which there is an `objection`.
        columns: places of the output taken of each sample.
        seed: of their choice.
        threads: of the runtime.
    """
    waves = list(in_waves(nodes, lambda node: groups(node) * fan_in(node) ** 2))
    # The network may be changed between two results, but not under the feet of a wave.
    reference = model.clone() if len(waves) > 1 else model
    for wave in waves:
        sums = _sums(reference, dataset, wave, columns, np.random.default_rng(seed), threads)
        for node in wave:
            yield node, sums.pop(node)


def in_waves(items: Iterable[T], elements: Callable[[T], int]) -> Iterator[list[T]]:
    """Items in order, as many at once as 256 MB of float32 hold; one that needs more comes alone.

    Args:
        items: what is held.
        elements: how many numbers each needs.
    """
    wave: list[T] = []
    size = 0
    for item in items:
        need = elements(item)
        if wave and size + need > _ELEMENTS:
            yield wave
            wave, size = [], 0
        wave.append(item)
        size += need
    if wave:
        yield wave


def _sums(
    model: ir.Model,
    dataset: Iterable[Mapping[str, ir.Array]],
    nodes: Sequence[ir.Node],
    columns: int,
    rng: np.random.Generator,
    threads: int | None,
) -> dict[ir.Node, Moments]:
    from edgecc.runtime.ort import OrtRunner

    fed = {str(v.name) for v in model.graph.inputs}
    read = {node: str(node.inputs[0].name) for node in nodes if node.inputs[0] is not None}
    inner = [name for name in dict.fromkeys(read.values()) if name not in fed]
    runner = OrtRunner.from_model(model, threads=threads, extra_outputs=inner)
    sums = {node: _Sum(node, columns, rng) for node in nodes}
    for sample in dataset:
        answers = runner.run(sample)
        for node, name in read.items():
            array = sample[name] if name in sample else answers[name]
            sums[node].add(array)
    return {node: found.result() for node, found in sums.items()}


class Columns:
    """Takes of what a layer reads the columns that meet its weights, at some places of its output."""

    def __init__(self, node: ir.Node, most: int, rng: np.random.Generator) -> None:
        """Takes at most so many places of each sample, chosen by `rng`."""
        self._node, self._rng, self._most = node, rng, most
        self._windows: dict[tuple[int, ...], list[_Windows]] = {}
        self._samples = 0

    def taken(self, array: ir.Array) -> Iterator[ir.Array]:
        """Of one sample, (groups, fan_in, places) for each image in it; of a matrix all rows at once."""
        if self._node.op_type == "Conv":
            sizes = array.shape[2:]
            if sizes not in self._windows:
                self._windows[sizes] = [
                    windows(self._node, sizes, self._most, self._rng) for _ in range(_PLACEMENTS)
                ]
            for one in array:
                yield take_windows(one, groups(self._node), self._windows[sizes][self._samples % _PLACEMENTS])
        else:
            yield take_rows(array, self._most, self._rng)
        self._samples += 1


class _Sum:
    """The sums of one layer."""

    def __init__(self, node: ir.Node, columns: int, rng: np.random.Generator) -> None:
        size = fan_in(node)
        self._columns = Columns(node, min(columns, _FEW) if size <= _SMALL else columns, rng)
        self._second = np.zeros((groups(node), size, size), np.float32)
        self._total = np.zeros((groups(node), size), np.float64)
        self._count = 0
        self._held: list[ir.Array] = []

    def add(self, array: ir.Array) -> None:
        """Takes what the layer reads of one sample."""
        self._held += self._columns.taken(array)
        if len(self._held) >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        if not self._held:
            return
        columns = np.concatenate(self._held, axis=2)
        self._held.clear()
        if len(columns) == 1:  # numpy computes half of a product with its own transpose
            self._second[0] += columns[0] @ columns[0].T
        else:
            self._second += columns @ columns.transpose(0, 2, 1)
        self._total += columns.sum(axis=2, dtype=np.float64)
        self._count += columns.shape[2]

    def result(self) -> Moments:
        """Over all samples."""
        self._flush()
        count = max(self._count, 1)
        return Moments(self._second.astype(np.float64) / count, self._total / count, self._count)


@dataclass(frozen=True)
class _Windows:
    """Where the inputs of some outputs of a Conv lie, (taps, places) each.

    Attributes:
        index: in the flattened image.
        inside: 1.0, and 0.0 where the kernel lies on the padding; None: nowhere.
    """

    index: ir.Array
    inside: ir.Array | None


def windows(node: ir.Node, sizes: Sequence[int], most: int, rng: np.random.Generator) -> _Windows:
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
    return _Windows(index, None if inside.all() else inside)


def take_windows(array: ir.Array, count: int, chosen: _Windows) -> ir.Array:
    """What some outputs of a Conv of `count` groups sum, (groups, fan_in, places); array: (channels, ...)."""
    index = chosen.index
    found = np.take(array.reshape(len(array), -1), index.reshape(-1), axis=1).reshape(-1, *index.shape)
    if chosen.inside is not None:
        found *= chosen.inside
    return found.reshape(count, -1, index.shape[1])


def take_rows(array: ir.Array, most: int, rng: np.random.Generator) -> ir.Array:
    """What some rows of a product sum, (1, fan_in, at most `most`); array: (..., fan_in)."""
    rows = array.reshape(-1, array.shape[-1])
    if len(rows) > most:
        rows = rows[np.sort(rng.choice(len(rows), most, replace=False))]
    return np.ascontiguousarray(rows.T)[None]


def spread(dataset: Iterable[Mapping[str, ir.Array]], most: int) -> Iterable[Mapping[str, ir.Array]]:
    """At most so many samples, evenly over the data (often sorted by class); the first where nobody knows how many."""
    try:
        count = len(dataset)  # type: ignore[arg-type]
    except TypeError:
        return _Some(dataset, 1, most)
    return _Some(dataset, -(-count // most), most)


@dataclass(frozen=True)
class _Some:
    """Every so many samples; can be read again."""

    dataset: Iterable[Mapping[str, ir.Array]]
    step: int
    most: int

    def __iter__(self) -> Iterator[Mapping[str, ir.Array]]:
        return islice(self.dataset, 0, self.step * self.most, self.step)
