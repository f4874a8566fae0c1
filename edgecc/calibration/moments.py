"""Second moments of what linear layers read: in which directions of the weights an error matters.

One pass over the data for as many layers as fit in memory; of each sample some places of the output are taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import prod

import numpy as np

from edgecc import ir

# Samples whose columns are multiplied at once: large products are fast, and few columns are held.
_BATCH = 8
# Elements of all matrices of one pass over the data: 256 MB of float32.
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
    waves: list[list[ir.Node]] = [[]]
    size = 0
    for node in nodes:
        need = groups(node) * fan_in(node) ** 2
        if waves[-1] and size + need > _ELEMENTS:
            waves.append([])
            size = 0
        waves[-1].append(node)
        size += need
    # The network may be changed between two results, but not under the feet of a wave.
    reference = model.clone() if len(waves) > 1 else model
    for wave in waves:
        sums = _sums(reference, dataset, wave, columns, np.random.default_rng(seed), threads)
        for node in wave:
            yield node, sums.pop(node)


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
    sums = {node: _Sum(groups(node), fan_in(node)) for node in nodes}
    for sample in dataset:
        answers = runner.run(sample)
        for node, name in read.items():
            array = sample[name] if name in sample else answers[name]
            sums[node].add(take_columns(node, array, columns, rng))
    return {node: found.result() for node, found in sums.items()}


class _Sum:
    def __init__(self, count: int, size: int) -> None:
        self._second = np.zeros((count, size, size), np.float32)
        self._total = np.zeros((count, size), np.float64)
        self._count = 0
        self._held: list[ir.Array] = []

    def add(self, columns: ir.Array) -> None:
        self._held.append(columns)
        if len(self._held) == _BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._held:
            columns = np.concatenate(self._held, axis=2)
            self._held.clear()
            self._second += columns @ columns.transpose(0, 2, 1)
            self._total += columns.sum(axis=2, dtype=np.float64)
            self._count += columns.shape[2]

    def result(self) -> Moments:
        self._flush()
        count = max(self._count, 1)
        return Moments(self._second.astype(np.float64) / count, self._total / count, self._count)


def take_columns(node: ir.Node, array: ir.Array, most: int, rng: np.random.Generator) -> ir.Array:
    """What some outputs of a layer sum: (groups, fan_in, at most `most`) float32.

    Args:
        array: what the layer reads, (batch, channels, ...) or (..., fan_in).
        most: so many places are chosen where the output has more.
    """
    if node.op_type != "Conv":
        rows = array.reshape(-1, array.shape[-1])
        if len(rows) > most:
            rows = rows[np.sort(rng.choice(len(rows), most, replace=False))]
        return np.ascontiguousarray(rows.T)[None]
    found = np.concatenate([_places(node, one, most, rng) for one in array], axis=2)
    if found.shape[2] > most:
        found = found[:, :, np.sort(rng.choice(found.shape[2], most, replace=False))]
    return np.ascontiguousarray(found)


def _places(node: ir.Node, array: ir.Array, most: int, rng: np.random.Generator) -> ir.Array:
    """`take_columns` of a Conv and one sample (channels, ...)."""
    kernel = ir.static_dims(node.inputs[1])[2:]  # type: ignore[arg-type]
    rank, sizes = len(kernel), array.shape[1:]
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
    # (channels, taps, places): zero where the kernel lies on the padding
    found = np.take(array.reshape(len(array), -1), index.reshape(-1), axis=1).reshape(-1, *index.shape)
    if any(pads):
        found = found * inside
    return found.reshape(groups(node), -1, len(chosen))


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
