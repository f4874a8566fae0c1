"""Which inputs a layer can do without: blocks of weights go, and those that stay make up for them.

Optimal brain surgeon for blocks: with H = E[x x^T], removing the columns b of W and changing the others for the
best costs tr(W_b [H^-1]_bb^-1 W_b^T). Source: Hassibi and Stork 1992; for blocks Kurtic et al. 2022
(arXiv:2203.07259), section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from edgecc import ir

# Rows of the inverse that are updated at once, so that what is subtracted from them stays in the cache.
_PANEL = 32
# Inputs that are gone are left out of the matrices once they are this share of them.
_GONE = 1 / 8


@dataclass
class Elimination:
    """The inputs of one layer, some of which are taken away.

    Attributes:
        blocks: (units, size), the inputs of each unit.
        energy: tr(W H W^T) at first: of the layer's answers.
    """

    _weights: ir.Array  # (outputs, held) float64, as they are now
    _inverse: ir.Array  # (held, held) float64, of the second moments of the inputs that are left
    blocks: ir.Array
    energy: float
    _place: ir.Array = field(init=False)  # (inputs,) of each among those that are held
    _left: ir.Array = field(init=False)  # (held,) bool

    def __post_init__(self) -> None:
        """Holds all inputs."""
        self._place = np.arange(len(self._inverse))
        self._left = np.ones(len(self._inverse), bool)

    @classmethod
    def of(cls, weights: ir.Array, second: ir.Array, blocks: ir.Array, damping: float) -> Elimination:
        """Of a layer (outputs, inputs) with these second moments (inputs, inputs)."""
        ridge = damping * max(float(np.diag(second).mean()), 1e-12)
        regular = second + ridge * np.eye(len(second))
        energy = float(np.einsum("oi,ij,oj->", weights, regular, weights, optimize=True))
        return cls(weights.astype(np.float64), np.linalg.inv(regular), blocks, max(energy, 1e-30))

    @property
    def weights(self) -> ir.Array:
        """(outputs, inputs) float64, as they are now: 0 for what is gone."""
        found = np.zeros((len(self._weights), len(self._place)))
        held = self._place >= 0
        found[:, held] = self._weights[:, self._place[held]]
        return found

    def losses(self, units: ir.Array) -> ir.Array:
        """The share of the layer's energy that is lost with each of these units."""
        chosen = self._place[self.blocks[units]]
        if chosen.shape[1] == 1:
            power = np.einsum("oi,oi->i", self._weights, self._weights)
            return np.asarray(
                (power / np.where(self._left, np.diag(self._inverse), 1.0))[chosen[:, 0]] / self.energy
            )
        inner = self._inverse[chosen[:, :, None], chosen[:, None, :]]
        columns = self._weights[:, chosen].transpose(1, 2, 0)  # (units, size, outputs)
        return np.asarray((columns * np.linalg.solve(inner, columns)).sum(axis=(1, 2)) / self.energy)

    def remove(self, unit: int) -> None:
        """Takes a unit away."""
        at = self._place[self.blocks[unit]]
        rows = self._inverse[at]
        gain = np.linalg.solve(rows[:, at], rows)  # (size, held)
        self._weights -= self._weights[:, at] @ gain
        for start in range(0, len(self._inverse), _PANEL):
            panel = slice(start, start + _PANEL)
            self._inverse[panel] -= rows[:, panel].T @ gain
        self._weights[:, at] = 0.0
        self._inverse[at] = 0.0
        self._inverse[:, at] = 0.0
        self._left[at] = False
        if np.count_nonzero(~self._left) >= _GONE * len(self._left):
            self._shrink()

    def _shrink(self) -> None:
        """Holds what is left only."""
        left = np.flatnonzero(self._left)
        place = np.full(len(self._left) + 1, -1)  # the last one: of what has no place
        place[left] = np.arange(len(left))
        self._place = place[self._place]
        self._weights, self._inverse = self._weights[:, left], self._inverse[np.ix_(left, left)]
        self._left = np.ones(len(left), bool)
