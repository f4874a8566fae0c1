"""Matrices of low rank that answer most like given ones, and how much rank each of many layers gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from edgecc.ir import Array

# Directions of the inputs with less than this share of the mean energy count as never seen.
_UNSEEN = 1e-9
# What is added to the diagonal of the outputs' importance, as a share of its mean. On dnn_l 0.001 to 0.1 are alike,
# 1 loses 0.2 dB.
_LEVEL = 0.1


@dataclass(frozen=True)
class Metric:
    """What a matrix W (out, n) reads: x now, z where it was trained; so W z is what it should answer.

    Attributes:
        second: (n, n), mean of x x^T; cross: (n, n), mean of z x^T; both about the means.
        mean, mean_before: (n,), of x and z.
    """

    second: Array
    cross: Array
    mean: Array
    mean_before: Array

    @classmethod
    def plain(cls, size: int) -> Metric:
        """All inputs alike: errors of weights count, whatever they meet."""
        return cls(np.eye(size), np.eye(size), np.zeros(size), np.zeros(size))

    @classmethod
    def measured(
        cls,
        second: Array,
        cross: Array,
        mean: Array,
        mean_before: Array,
        *,
        damping: float,
        centred: bool,
    ) -> Metric:
        """From raw moments.

        Args:
            second, cross, mean, mean_before: of one group of a layer's inputs (`PairedMoments`).
            damping: share of the mean energy that every direction of x is given besides, as if the network had been
                seen to answer there as before: fitted weights stay near the old ones where data say little.
            centred: a bias takes the mean of the error, so that only its variance counts.
        """
        if centred:
            second = second - np.outer(mean, mean)
            cross = cross - np.outer(mean_before, mean)
        else:
            mean, mean_before = np.zeros_like(mean), np.zeros_like(mean_before)
        ridge = max(damping * float(np.trace(second)) / len(second), 1e-12) * np.eye(len(second))
        return cls(second + ridge, cross + ridge, mean, mean_before)


@dataclass(frozen=True)
class Spectrum:
    """The best matrices of every rank in a metric.

    Attributes:
        left: (out, k) orthonormal. values: (k,), falling. right: (k, n). The best of rank r, of least mean
            |W z - M x|^2, is M = left[:, :r] * values[:r] @ right[:r]; rows of right give outputs of variance 1.
        metric: in which.
    """

    left: Array
    values: Array
    right: Array
    metric: Metric

    def lost(self) -> Array:
        """Share of the energy lost with rank 0, 1, ..., k: (k + 1,)."""
        energy = self.values**2
        rest = np.concatenate([np.cumsum(energy[::-1])[::-1], [0.0]])
        return np.asarray(rest / max(float(rest[0]), 1e-300))


def spectrum(weight: Array, metric: Metric) -> Spectrum:
    """The singular values of a matrix in the metric of what it reads.

    With S = mean x x^T = Q D Q^T and C = mean z x^T, mean |W z - M x|^2 is a constant plus |(W C S^-1 - M) Q D^1/2|^2
    (squares summed): the singular vectors of W C Q D^-1/2 are the answer (reduced-rank regression, Izenman 1975;
    for layers of networks, Zhang et al. 2016, "Accelerating very deep convolutional networks", section 3).
    With S = C = identity it is Eckart and Young's.
    """
    values, vectors = np.linalg.eigh(metric.second)
    values = np.maximum(values, _UNSEEN * float(values.mean()))
    back = vectors / np.sqrt(values)  # x -> variance 1 in all directions
    left, singular, right = np.linalg.svd(weight @ metric.cross @ back, full_matrices=False)
    return Spectrum(left, singular, right @ back.T, metric)


@dataclass(frozen=True)
class Weighed:
    """The singular values of a layer, errors weighed on both sides.

    Attributes:
        rows: (out, n), what the layer multiplies its inputs with.
        found: of root @ rows, where root^T root is the importance of errors of the outputs.
        unroot: (out, out), the inverse of root; None: all outputs alike.
        scale: what losing all energy costs.
    """

    rows: Array
    found: Spectrum
    unroot: Array | None
    scale: float

    def factors(self, rank: int) -> tuple[Array, Array]:
        """A (out, rank) and B (rank, n): the outputs of B have variance 1, so that one step of int8 serves all."""
        left = self.found.left[:, :rank] * self.found.values[:rank]
        return left if self.unroot is None else self.unroot @ left, self.found.right[:rank]

    def shift(self, fitted: Array) -> Array:
        """What the bias (out,) takes, for `fitted` x to be as large as W z in the mean."""
        metric = self.found.metric
        return np.asarray(self.rows @ metric.mean_before - fitted @ metric.mean)


def weigh(rows: Array, metric: Metric, gram: Array | None = None, places: int = 1) -> Weighed:
    """The best factors of a layer in the metric of what it reads and by what its errors cost.

    Args:
        rows: (out, n).
        metric: of the n inputs.
        gram: (out, out), an error e of the outputs of one place costs e^T gram e; None: all cost alike, and losing all
            costs 1. Levelled a little, as it is an estimate.
        places: how often the layer is computed.
    """
    if gram is None:
        return Weighed(rows, spectrum(rows, metric), None, 1.0)
    level = max(float(np.trace(gram)) / len(gram), 1e-30)
    values, vectors = np.linalg.eigh(gram + _LEVEL * level * np.eye(len(gram)))
    root = np.sqrt(np.maximum(values, 1e-3 * _LEVEL * level))
    found = spectrum((root[:, None] * vectors.T) @ rows, metric)
    return Weighed(rows, found, vectors / root, places * float((found.values**2).sum()))


@dataclass(frozen=True)
class Option:
    """One way to compute a layer.

    Attributes:
        macs: multiply-accumulates. loss: what its errors cost.
        rank: None: as it is.
        spatial: k x 1 and 1 x k in place of k x k and 1 x 1.
        share: of the layer's energy that is lost.
    """

    macs: int
    loss: float
    rank: int | None
    spatial: bool = False
    share: float = 0.0


def allot(layers: Sequence[Sequence[Option]], budget: float) -> list[Option]:
    """One option a layer, of least total loss, with at most `budget` multiply-accumulates together.

    The knapsack of multiple choice, along the lower convex hulls of the options, steepest first (Sinha and Zoltners
    1979): the best for the budgets at which a step ends. What is left over then goes to single options that fit.
    Where even the cheapest options need more, those.
    """
    hulls = [_hull(options) for options in layers]
    chosen = [hull[-1] for hull in hulls]  # the dearest
    total = sum(option.macs for option in chosen)
    steps = []  # down one hull after the other, in the order of what a saved multiply-accumulate costs
    for layer, hull in enumerate(hulls):
        for low, high in pairwise(hull):
            steps.append(((low.loss - high.loss) / (high.macs - low.macs), layer, low))
    for _, layer, low in sorted(steps, key=lambda step: step[0]):
        if total <= budget:
            break
        total += low.macs - chosen[layer].macs
        chosen[layer] = low
    while True:
        gains = [
            (chosen[layer].loss - option.loss, layer, option)
            for layer, options in enumerate(layers)
            for option in options
            if option.loss < chosen[layer].loss and total + option.macs - chosen[layer].macs <= budget
        ]
        if not gains:
            return chosen
        _, layer, option = max(gains, key=lambda gain: gain[0])
        total += option.macs - chosen[layer].macs
        chosen[layer] = option


def _hull(options: Sequence[Option]) -> list[Option]:
    """Options on the lower convex hull of loss over multiply-accumulates, cheapest first."""
    hull: list[Option] = []
    for option in sorted(options, key=lambda o: (o.macs, o.loss)):
        if hull and option.loss >= hull[-1].loss:
            continue
        while len(hull) > 1:
            (a, b) = hull[-2:]
            if (a.loss - b.loss) * (option.macs - b.macs) > (b.loss - option.loss) * (b.macs - a.macs):
                break
            hull.pop()
        hull.append(option)
    return hull
