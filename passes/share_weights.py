"""Lets the weights of a layer take few values, so that packing needs few bits for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from edgecc import ir
from edgecc.errors import UsageError
from edgecc.passes import _rewrite as rw
from edgecc.passes._weights import Weights, layers
from edgecc.pipeline import Pass, PassContext, PassResult
from edgecc.quant.params import DEAD
from edgecc.quant.shared_values import MOST_SHARED, shares_steps, steps

if TYPE_CHECKING:
    from edgecc.calibration.moments import Moments

# Steps of Lloyd's algorithm: hardly any weight moves after so many.
_STEPS = 200


@dataclass(frozen=True, kw_only=True)
class ShareWeights(Pass):
    """Gives the weights of each Conv, Gemm and MatMul 2^bits shared values, found by k-means.

    The values start evenly spaced between the least and the largest weight, which serves the few large ones best
    (Han et al. 2016, "Deep Compression", section 3). With data an error counts as often as the mean square of what
    the weight is multiplied with says (Choi et al. 2017, arXiv:1612.01543, section 3: the diagonal of the Hessian),
    and the bias takes the mean of what is lost. Zeros stay zero: in layers that have zeros, zero is one of the values.

    In integers a layer of which all channels have the same few values has one scale, and its weights are rounded to
    nearest; steps of a channel's largest weight are the integers that its own scale makes.

    Attributes:
        bits: of the index of a value.
        scope: what shares values: `steps`, the weights of a tensor as parts (k/127) of the largest in their channel;
            `tensor`, the weights themselves; `channel`, those of each output channel, many in integers.
        samples: at most so many calibration samples are run.
        min_elements: smaller weights stay as they are: the values would take as much room.
    """

    name: ClassVar[str] = "share_weights"
    exact: ClassVar[bool] = False
    compresses: ClassVar[bool] = True
    constants_only: ClassVar[bool] = True
    bits: int = 5
    scope: Literal["steps", "tensor", "channel"] = "steps"
    samples: int = 64
    min_elements: int = 256

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= MOST_SHARED:
            raise UsageError(
                f"there are no codebooks of {self.bits} bits", node=f"{self.name}:bits",
                remedy=f"choose 1 to {MOST_SHARED}; int8 weights need no more than 8",
            )  # fmt: skip

    def apply(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Changes weights and biases in place."""
        from edgecc.calibration.moments import collect_moments, spread

        tally = rw.Tally()
        found: dict[ir.Node, Weights] = {}
        for layer in layers(model, tally):
            matrix = layer.matrix()
            if matrix.size < self.min_elements:
                tally.refuse(
                    layer.node, f"its weights are {matrix.size} numbers, fewer than {self.min_elements}"
                )
            elif not self._few(matrix):
                found[layer.node] = layer
        if ctx.data is None:
            for layer in found.values():
                self._share(layer, None)
        else:
            data = spread(ctx.data, self.samples)
            for node, moments in collect_moments(model, data, list(found), seed=ctx.seed, threads=1):
                self._share(found[node], moments)
        tally.rewritten = len(found)
        return tally.result()

    def _few(self, matrix: ir.Array) -> bool:
        """Whether there are no more values than wanted."""
        if self.scope == "steps":
            flat = matrix.reshape(-1, matrix.shape[2])
            return shares_steps(flat, 0) and np.unique(np.rint(steps(flat))).size <= 2**self.bits
        return all(np.unique(part).size <= 2**self.bits for part in self._parts(matrix))

    def _parts(self, matrix: ir.Array) -> ir.Array:
        """What has values of its own: (1, elements) or (outputs, fan_in)."""
        return matrix.reshape((-1, matrix.shape[2]) if self.scope == "channel" else (1, -1))

    def _share(self, layer: Weights, moments: Moments | None) -> None:
        matrix = layer.matrix()
        importance = np.ones_like(matrix)
        if moments is not None:
            second = np.diagonal(moments.second, axis1=1, axis2=2)
            if layer.bias is not None:
                second = second - moments.mean**2
            importance *= np.maximum(second, 1e-6 * max(float(second.max()), 1e-30))[:, None, :]
        unit, taken = np.ones((*matrix.shape[:2], 1)), matrix
        if self.scope == "steps":
            top = np.abs(matrix).max(axis=2, keepdims=True)
            unit = np.where(top > DEAD, top, 1.0)
            taken = np.where(top > DEAD, matrix, 0.0)  # neurons that do nothing: integers have 0 there
        parts = zip(self._parts(taken / unit), self._parts(importance * unit**2), strict=True)
        found = [clustered(row, weight, 2**self.bits, self.scope == "steps") for row, weight in parts]
        shared = unit * np.stack(found).reshape(matrix.shape)
        shift = None if moments is None else np.einsum("goi,gi->go", matrix - shared, moments.mean)
        layer.store(shared, shift)


def clustered(values: ir.Array, importance: ir.Array, count: int, stepped: bool = False) -> ir.Array:
    """Each value replaced by one of at most `count`, so that the weighted sum of squares is small; zeros stay zero.

    In one dimension the clusters are intervals: sums over sorted values give their means. (Lloyd 1982.)

    Args:
        values: (elements,) float64.
        importance: (elements,) float64, positive.
        count: with zero, where there is one (with `stepped` two besides it at least).
        stepped: values within -1 to 1 become multiples of 1/127, the largest and the least of them -1 and 1.
    """
    taken = values != 0
    some, weight = values[taken], importance[taken]
    count = max(count - int(not taken.all()), 2 if stepped else 0)
    if not some.size or count < 1:
        return np.zeros_like(values)
    order = np.argsort(some, kind="stable")
    line = some[order]
    if not stepped and np.unique(line).size <= count:
        return values
    mass = np.concatenate([[0.0], np.cumsum(weight[order])])
    moment = np.concatenate([[0.0], np.cumsum(weight[order] * line)])
    ends = (-1.0, 1.0) if stepped else (line[0], line[-1])
    centres = np.linspace(ends[0], ends[1], count)
    edges = None
    for _ in range(_STEPS):
        found = np.concatenate([[0], np.searchsorted(line, (centres[1:] + centres[:-1]) / 2), [line.size]])
        if edges is not None and np.array_equal(found, edges):
            break
        edges = found
        held = np.diff(mass[edges])
        centres = np.where(held > 0, np.diff(moment[edges]) / np.where(held > 0, held, 1.0), centres)
        if stepped:  # the largest weight of each channel stays what it is
            centres[0], centres[-1] = ends
    assert edges is not None
    result = np.zeros_like(values)
    spread = np.empty_like(some)
    # Values as they are stored, so that they are as few in float32.
    stored = np.rint(127 * centres) / 127 if stepped else centres.astype(np.float32)
    spread[order] = np.repeat(stored, np.diff(edges))
    result[taken] = spread
    return result
