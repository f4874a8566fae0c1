"""Two layers of a given structure in the place of one: least squares in the metric of the data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property

import numpy as np

from edgecc.ir import Array
from edgecc.passes._low_rank import Weighed

# Fan-ins above which the equations, which grow with its square, are not solved.
MOST = 2304
# Rounds of solving for one factor and for the other, and steps of conjugate gradients in each. On resnet20 more gain
# nothing.
_ROUNDS, _STEPS = 4, 15


class Bilinear(ABC):
    """Weights W = B F(a): a first layer a, spread into a matrix F by its structure, and a second, B (out, k).

    For given a, B is what least squares give; for given B, a follows by conjugate gradients; in turn, from a start.

    Attributes:
        weighed: the layer and its metric.
        best: (out, n), the weights of full rank that fit most. second: (n, n), moments of the inputs.
        root: (out, out), root^T root is the importance of errors. lanes: rows of F for each channel between.
    """

    lanes: int = 1

    def __init__(self, weighed: Weighed) -> None:
        self.weighed = weighed

    @cached_property
    def second(self) -> Array:
        return self.weighed.found.metric.second

    @cached_property
    def root(self) -> Array:
        unroot = self.weighed.unroot
        return np.eye(len(self.weighed.rows)) if unroot is None else np.linalg.inv(unroot)

    @cached_property
    def best(self) -> Array:
        found, unroot = self.weighed.found, self.weighed.unroot
        best = (found.left * found.values) @ found.right
        return np.asarray(best if unroot is None else unroot @ best)

    @cached_property
    def start(self) -> Array:
        """First layers of all ranks."""
        return self._start()

    @abstractmethod
    def _start(self) -> Array: ...

    @abstractmethod
    def _first(self, rank: int) -> Array:
        """The first layer of a rank to start from."""

    @abstractmethod
    def _spread(self, first: Array) -> Array:
        """F (k, n)."""

    @abstractmethod
    def _gather(self, spread: Array) -> Array:
        """The transpose of `_spread`."""

    def lost(self, rank: int) -> float:
        """The share of the energy lost with the first layer to start from: a little more than at last."""
        matrix = self._spread(self._first(rank))
        gap = self.root @ (self.best - self._solved(matrix) @ matrix)
        energy = float((self.weighed.found.values**2).sum())
        return float(np.einsum("on,on->", gap, gap @ self.second)) / max(energy, 1e-300)

    def fitted(self, rank: int) -> tuple[Array, Array]:
        """The first layer and B; each channel between has the mean square 1 about its mean."""
        first = self._first(rank)
        for _ in range(_ROUNDS):
            first = self._better(first, self._solved(self._spread(first)))
            matrix = self._spread(first)
            energy = np.einsum("kn,kn->k", matrix @ self.second, matrix).reshape(-1, self.lanes).mean(axis=1)
            scale = 1 / np.sqrt(np.maximum(energy, 1e-12))
            first = first * scale.reshape(*first.shape[:-1], 1)
        return first, self._solved(self._spread(first))

    def _solved(self, matrix: Array) -> Array:
        """B for given F, by least squares."""
        mixed = matrix @ self.second
        square = mixed @ matrix.T
        square += 1e-9 * max(float(np.trace(square)) / len(square), 1e-12) * np.eye(len(square))
        return np.asarray(np.linalg.solve(square, mixed @ self.best.T).T)

    def _better(self, first: Array, rows: Array) -> Array:
        """The first layer for given B, some steps of conjugate gradients on from where it is."""
        turned = rows.T @ self.root.T

        def back(gap: Array) -> Array:
            return self._gather(turned @ (self.root @ gap) @ self.second)

        rest = back(self.best - rows @ self._spread(first))
        step, size = rest, float((rest**2).sum())
        for _ in range(_STEPS):
            along = back(rows @ self._spread(step))
            slope = float((step * along).sum())
            if slope <= 0:
                break
            first = first + size / slope * step
            rest = rest - size / slope * along
            new = float((rest**2).sum())
            step, size = rest + new / size * step, new
        return first
