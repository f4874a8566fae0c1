"""What a layer of a compressed network reads, beside what it read in the original: for fitting its weights again.

With x the inputs now and z those of the original at the same place of the output, the weights that answer most
like W z are W E[z x^T] E[x x^T]^-1 (least squares).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgecc import ir
from edgecc.calibration import moments as mo
from edgecc.calibration.columns import Columns, fan_in, groups

# Elements of x and z that are held before they are multiplied: 32 MB of float32.
_HELD = 8_000_000


@dataclass(frozen=True)
class PairedMoments:
    """Of what meets one set of weights: x (fan_in,) now, z (fan_in before,) in the original.

    Attributes:
        second: (groups, fan_in, fan_in) float64, mean of x x^T.
        cross: (groups, fan_in before, fan_in) float64, mean of z x^T.
        mean: (groups, fan_in) float64, of x.
        mean_before: (groups, fan_in before) float64, of z.
        count: of columns that were seen.
    """

    second: ir.Array
    cross: ir.Array
    mean: ir.Array
    mean_before: ir.Array
    count: int


def pairs_in_turn(
    model: ir.Model,
    original: ir.Model,
    dataset: Iterable[Mapping[str, ir.Array]],
    pairs: Sequence[tuple[ir.Node, ir.Node]],
    *,
    columns: int,
    seed: int,
) -> Iterator[tuple[ir.Node, PairedMoments]]:
    """The moments of each pair of layers, pair by pair, in the network as it is by then: whoever iterates changes it.

    The original, which stays as it is, runs for as many layers at once as 256 MB hold of what they read. Both networks
    run only as far as the layers need, in one thread.

    Args:
        model: the compressed network.
        original: the network that it was made of.
        dataset: samples in the ONNX layout, read once for each pair and once for each 256 MB.
        pairs: a layer of `model` and the one of `original` whose place it takes, in the order of the graph; of the same
            places of output and as many groups, and no `moments.objection` to either.
        columns: places of the output taken of each sample.
        seed: of their choice.
    """
    count = sum(1 for _ in dataset)
    waves = mo.in_waves(pairs, lambda p: count * columns * groups(p[1]) * fan_in(p[1]))
    for wave in list(waves):
        places = [Columns(old, columns, np.random.default_rng(seed)) for _, old in wave]
        reader = _Reader(original, [old for _, old in wave])
        kept: list[list[list[ir.Array]]] = [[] for _ in wave]
        for sample in dataset:
            for found, taken, z in zip(kept, places, reader.read(sample), strict=True):
                found.append([np.array(each) for each in taken.taken(z)])
        for (new, old), before in zip(wave, kept, strict=True):
            now, sums = _Reader(model, [new]), _PairSum(new, old, columns, seed)
            for sample, taken_before in zip(dataset, before, strict=True):
                sums.add(now.read(sample)[0], taken_before)
            before.clear()
            yield new, sums.result()


class _Reader:
    """Reads what some layers of a network are fed."""

    def __init__(self, model: ir.Model, nodes: Sequence[ir.Node]) -> None:
        from edgecc.runtime.ort import OrtRunner

        fed = {str(v.name) for v in model.graph.inputs}
        self._names = [str(node.inputs[0].name) for node in nodes]  # type: ignore[union-attr]
        self._inner = [name for name in dict.fromkeys(self._names) if name not in fed]
        self._runner = OrtRunner.from_model(model, threads=1, extra_outputs=self._inner)

    def read(self, sample: Mapping[str, ir.Array]) -> list[ir.Array]:
        answers = self._runner.run(sample, only=self._inner) if self._inner else {}
        return [sample[name] if name in sample else answers[name] for name in self._names]


class _PairSum:
    """The sums of one pair of layers."""

    def __init__(self, new: ir.Node, old: ir.Node, columns: int, seed: int) -> None:
        self._now = Columns(new, columns, np.random.default_rng(seed))
        size, was, count = fan_in(new), fan_in(old), groups(new)
        self._second = np.zeros((count, size, size), np.float64)
        self._cross = np.zeros((count, was, size), np.float64)
        self._mean, self._mean_before = np.zeros((count, size)), np.zeros((count, was))
        self._count = self._elements = 0
        self._held: list[tuple[ir.Array, ir.Array]] = []

    def add(self, now: ir.Array, before: Iterable[ir.Array]) -> None:
        """Takes what the layer reads of one sample now, and the columns at the same places before."""
        for x, z in zip(self._now.taken(now), before, strict=True):
            self._held.append((x, z))
            self._elements += x.size + z.size
        if self._elements >= _HELD:
            self._flush()

    def _flush(self) -> None:
        if not self._held:
            return
        x, z = (np.concatenate([pair[k] for pair in self._held], axis=2) for k in (0, 1))
        self._held.clear()
        self._elements = 0
        turned = x.transpose(0, 2, 1)
        self._second += x @ turned
        self._cross += z @ turned
        self._mean += x.sum(axis=2, dtype=np.float64)
        self._mean_before += z.sum(axis=2, dtype=np.float64)
        self._count += x.shape[2]

    def result(self) -> PairedMoments:
        self._flush()
        n = max(self._count, 1)
        return PairedMoments(
            self._second / n, self._cross / n, self._mean / n, self._mean_before / n, self._count
        )
