"""Which inputs a layer can do without: blocks of weights go, and those that stay make up for them.

Optimal brain surgeon for blocks: with H = E[x x^T], removing the columns b of W and changing the others for the
best costs tr(W_b [H^-1]_bb^-1 W_b^T). Source: Hassibi and Stork 1992; for blocks Kurtic et al. 2022
(arXiv:2203.07259), section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgecc import ir


@dataclass
class Elimination:
    """The inputs of one layer, some of which are taken away.

    Attributes:
        weights: (outputs, inputs) float64, as they are now.
        inverse: (inputs, inputs) float64, of the second moments of the inputs that are left.
        blocks: (units, size), the inputs of each unit.
        energy: tr(W H W^T) at first: of the layer's answers.
    """

    weights: ir.Array
    inverse: ir.Array
    blocks: ir.Array
    energy: float

    @classmethod
    def of(cls, weights: ir.Array, second: ir.Array, blocks: ir.Array, damping: float) -> Elimination:
        """Of a layer (outputs, inputs) with these second moments (inputs, inputs)."""
        ridge = damping * max(float(np.diag(second).mean()), 1e-12)
        regular = second + ridge * np.eye(len(second))
        energy = float(np.einsum("oi,ij,oj->", weights, regular, weights, optimize=True))
        return cls(weights.astype(np.float64), np.linalg.inv(regular), blocks, max(energy, 1e-30))

    def losses(self, units: ir.Array) -> ir.Array:
        """The share of the layer's energy that is lost with each of these units."""
        chosen = self.blocks[units]
        inner = self.inverse[chosen[:, :, None], chosen[:, None, :]]
        columns = self.weights[:, chosen].transpose(1, 2, 0)  # (units, size, outputs)
        if chosen.shape[1] == 1:
            return np.asarray((columns[:, 0] ** 2).sum(axis=1) / inner[:, 0, 0] / self.energy)
        return np.asarray((columns * np.linalg.solve(inner, columns)).sum(axis=(1, 2)) / self.energy)

    def remove(self, unit: int) -> None:
        """Takes a unit away."""
        at = self.blocks[unit]
        rows = self.inverse[at]
        gain = np.linalg.solve(rows[:, at], rows)  # (size, inputs)
        self.weights = self.weights - self.weights[:, at] @ gain
        self.inverse = self.inverse - rows.T @ gain
        self.weights[:, at] = 0.0
        self.inverse[at] = 0.0
        self.inverse[:, at] = 0.0
