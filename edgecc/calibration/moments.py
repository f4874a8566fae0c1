"""Second moments of what linear layers read: in which directions of the weights an error matters.

One pass over the data for as many layers as fit in memory; of each sample some places of the output are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np

from edgecc import ir
from edgecc.calibration.columns import Columns, fan_in, groups
from edgecc.calibration.picked import add_index, add_picked

T = TypeVar("T")

# Samples whose columns are multiplied at once: large products are fast, and few columns are held.
_BATCH = 16
# Of layers with few inputs, as depthwise ones, fewer places say enough.
_SMALL, _FEW = 64, 16
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

    sums = {node: _Sum(node, columns, rng) for node in nodes}
    copy = model.clone()
    graph = copy.graph
    by_name = {str(v.name): v for v in graph.inputs} | {str(v.name): v for n in graph for v in n.outputs}
    read: dict[ir.Node, str] = {}
    fed: dict[ir.Node, str] = {}
    for node, found in sums.items():
        assert node.inputs[0] is not None
        value = by_name[str(node.inputs[0].name)]
        if (count := found.columns.foresee(graph, value)) is not None:
            index = add_index(graph, "edgecc_places", count)
            fed[node], read[node] = str(index.name), add_picked(graph, value, index)
        else:
            read[node] = str(value.name)
    whole = {name for node, name in read.items() if node not in fed} - {str(v.name) for v in graph.inputs}
    runner = OrtRunner.from_model(copy, threads=threads, extra_outputs=sorted(whole))
    for sample in dataset:
        answers = runner.run({**sample, **{name: sums[node].columns.index() for node, name in fed.items()}})
        for node, name in read.items():
            sums[node].add(sample[name] if name in sample else answers[name])
    return {node: found.result() for node, found in sums.items()}


class _Sum:
    """The sums of one layer."""

    def __init__(self, node: ir.Node, columns: int, rng: np.random.Generator) -> None:
        size = fan_in(node)
        self.columns = Columns(node, min(columns, _FEW) if size <= _SMALL else columns, rng)
        self._second = np.zeros((groups(node), size, size), np.float32)
        self._total = np.zeros((groups(node), size), np.float64)
        self._count = 0
        self._held: list[ir.Array] = []

    def add(self, array: ir.Array) -> None:
        """Takes what the layer reads of one sample."""
        self._held += self.columns.taken(array)
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
