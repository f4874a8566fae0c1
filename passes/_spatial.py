"""A Conv k x k as k x 1 and 1 x k: the sum of r products of a column and a row that answers most alike."""

from __future__ import annotations

import numpy as np

from edgecc import ir
from edgecc.analysis.cost import layer_cycles
from edgecc.ir import Array
from edgecc.passes._bilinear import MOST, Bilinear
from edgecc.passes._factors import Factor, Price, Site, conv_attributes, elements
from edgecc.passes._low_rank import Weighed
from edgecc.target import CostSpec


class Spatial(Bilinear):
    """W[o, i, y, x] = sum over r of H[o, r, x] V[r, i, y]; the first factor is V (r, i y).

    Without weights that is the singular value decomposition of (i y) by (o x) (Jaderberg et al. 2014, section 2;
    closed form: Tai et al. 2016, section 2.1). The metric of the data couples x with i and y.
    """

    def __init__(self, site: Site, weighed: Weighed) -> None:
        super().__init__(weighed)
        self._site, self._shape = site, site.layer.weight.shape
        self.lanes = self._shape[3]

    def _start(self) -> Array:
        out, into, high, wide = self._shape
        near = np.einsum("pxqx->pq", self.second.reshape(into * high, wide, into * high, wide)) / wide
        values, vectors = np.linalg.eigh(near)
        scale = np.sqrt(np.maximum(values, 1e-9 * values.mean()))
        kernels = (self.root @ self.best).reshape(out, into * high, wide)
        turned = kernels.transpose(1, 0, 2).reshape(into * high, -1)
        left = np.linalg.svd((scale[:, None] * vectors.T) @ turned, full_matrices=False)[0]
        return np.asarray(left.T @ (vectors / scale).T)

    def _first(self, rank: int) -> Array:
        return self.start[:rank]

    def _spread(self, first: Array) -> Array:
        made = np.einsum("rp,xy->rxpy", first, np.eye(self.lanes))
        return np.asarray(made.reshape(len(first) * self.lanes, -1))

    def _gather(self, spread: Array) -> Array:
        size = self._shape[1] * self._shape[2]
        return np.asarray(np.einsum("rxpx->rp", spread.reshape(-1, self.lanes, size, self.lanes)))

    def factors(self, rank: int, *, shifted: bool) -> list[Factor]:
        """The two layers; only the second has a bias, as it pads."""
        columns, rows = self.fitted(rank)
        out, into, high, wide = self._shape
        bias = self._site.layer.bias
        if shifted:
            bias = self.weighed.shift(rows @ self._spread(columns)) + (0 if bias is None else bias)
        tall, flat = _both(self._site.node)
        return [
            Factor(columns.reshape(rank, into, high, 1), None, tall, _between(self._site)),
            Factor(rows.reshape(out, rank, 1, wide), bias, flat),
        ]


def spatial_price(site: Site, rank: int, precision: str, rates: CostSpec) -> Price:
    """What (in -> rank, k x 1) and (rank -> out, 1 x k) cost."""
    assert site.node.inputs[0] is not None
    out, into, high, wide = site.layer.weight.shape
    first, second = rank * into * high, rank * out * wide
    places = int(np.prod(_between(site)))
    count = first * places + second * site.places
    seen = elements(site.node.inputs[0]) + elements(site.layer.out) + 2 * rank * places
    return Price(count, layer_cycles(count, seen, first + second, precision, rates, operators=2))


def can_be_spatial(site: Site) -> bool:
    """Whether there is a kernel of two axes to take apart."""
    shape = site.layer.weight.shape
    fits = site.node.op_type == "Conv" and len(shape) == 4 and site.rows.shape[1] <= MOST
    return fits and shape[2] > 1 and shape[3] > 1


def most_spatial(site: Site) -> int:
    """The full rank."""
    out, into, high, wide = site.layer.weight.shape
    return int(min(into * high, out * wide))


def _between(site: Site) -> tuple[int, int]:
    """Height and width between the two."""
    assert site.node.inputs[0] is not None
    return ir.static_dims(site.layer.out)[2], ir.static_dims(site.node.inputs[0])[3]


def _both(node: ir.Node) -> tuple[dict[str, object], dict[str, object]]:
    given = conv_attributes(node)
    kernel, strides, dilations = (given[n] for n in ("kernel_shape", "strides", "dilations"))
    top, left, bottom, right = given["pads"]
    tall = {"kernel_shape": [kernel[0], 1], "strides": [strides[0], 1], "dilations": [dilations[0], 1]}
    flat = {"kernel_shape": [1, kernel[1]], "strides": [1, strides[1]], "dilations": [1, dilations[1]]}
    return {**tall, "pads": [top, 0, bottom, 0], "group": 1}, {
        **flat,
        "pads": [0, left, 0, right],
        "group": 1,
    }
