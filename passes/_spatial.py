"""A Conv k x k as k x 1 and 1 x k: the sum of r products of a column and a row that answers most alike."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from edgecc import ir
from edgecc.analysis.cost import layer_cycles
from edgecc.ir import Array
from edgecc.passes._factors import Factor, Price, Site, conv_attributes, elements
from edgecc.passes._low_rank import Weighed
from edgecc.target import CostSpec

# Fan-ins above which the equations, which grow with its square, are not solved.
MOST = 2304
# Rounds of solving for one factor and for the other, and steps of conjugate gradients in each: more gain nothing.
_ROUNDS, _STEPS = 4, 15


class Spatial:
    """Of one layer: W[o, i, y, x] = sum over r of H[o, r, x] V[r, i, y].

    Without weights that is the singular value decomposition of (i y) by (o x) (Jaderberg et al. 2014, section 2;
    closed form: Tai et al. 2016, section 2.1). In the metric of the data, which couples x with i and y, it is where
    least squares for H and for V in turn start from.
    """

    def __init__(self, site: Site, weighed: Weighed) -> None:
        self._shape = site.layer.weight.shape
        self._weighed, self._places = weighed, site.places

    @cached_property
    def _parts(self) -> tuple[Array, Array, Array, Array, Array, Array, float]:
        """Best weights of full rank (out, n), moments (n, n), importance (out, out), the columns to start from
        (rank, i y), their own moments, those about 0, and the energy of all.
        """
        out, into, high, wide = self._shape
        found, unroot = self._weighed.found, self._weighed.unroot
        root = np.eye(out) if unroot is None else np.linalg.inv(unroot)
        best = (found.left * found.values) @ found.right
        best = best if unroot is None else unroot @ best
        second, mean = found.metric.second, found.metric.mean
        near = np.einsum("pxqx->pq", second.reshape(into * high, wide, into * high, wide)) / wide
        means = mean.reshape(into * high, wide)
        values, vectors = np.linalg.eigh(near)
        scale = np.sqrt(np.maximum(values, 1e-9 * values.mean()))
        turned = (root @ best).reshape(out, into * high, wide).transpose(1, 0, 2).reshape(into * high, -1)
        left = np.linalg.svd((scale[:, None] * vectors.T) @ turned, full_matrices=False)[0]
        columns = left.T @ (vectors / scale).T
        raw = near + means @ means.T / wide
        return best, second, root.T @ root, columns, near, raw, float((found.values**2).sum())

    def lost(self, rank: int) -> float:
        """The share of the energy lost with the columns to start from: a little more than at last."""
        best, second, gram, columns, *_, energy = self._parts
        rows = self._rows(columns[:rank])
        gap = best - self._product(columns[:rank], rows)
        return float(np.einsum("on,on->", gram @ gap, gap @ second)) / max(energy, 1e-300)

    def fitted(self, rank: int) -> tuple[Array, Array]:
        """V (rank, i y) and H (out, rank, x); each channel between has the mean square 1."""
        columns = self._parts[3][:rank]
        raw = self._parts[5]
        for _ in range(_ROUNDS):
            columns = self._better(columns, self._rows(columns))
            columns = (
                columns / np.sqrt(np.maximum(np.einsum("rp,pq,rq->r", columns, raw, columns), 1e-12))[:, None]
            )
        return columns, self._rows(columns)

    def _product(self, columns: Array, rows: Array) -> Array:
        made = np.einsum("orx,rp->opx", rows, columns, optimize=True)
        return np.asarray(made.reshape(len(rows), -1))

    def _rows(self, columns: Array) -> Array:
        """H for given V, by least squares."""
        best, second, wide = self._parts[0], self._parts[1], self._shape[3]
        count, size = columns.shape
        moments = second.reshape(size, wide, -1)
        mixed = np.einsum("rp,pxn->rxn", columns, moments, optimize=True)
        square = np.einsum("rxpz,sp->rxsz", mixed.reshape(count, wide, size, wide), columns, optimize=True)
        square = square.reshape(count * wide, -1)
        square += 1e-9 * max(float(np.trace(square)) / len(square), 1e-12) * np.eye(len(square))
        found = np.linalg.solve(square, mixed.reshape(count * wide, -1) @ best.T)
        return np.asarray(found.T.reshape(len(best), count, wide))

    def _better(self, columns: Array, rows: Array) -> Array:
        """V for given H, some steps of conjugate gradients from where it is."""
        best, second, gram = self._parts[:3]

        def back(gap: Array) -> Array:
            moved = (gram @ gap @ second).reshape(len(best), -1, self._shape[3])
            return np.asarray(np.einsum("orx,opx->rp", rows, moved, optimize=True))

        rest = back(best - self._product(columns, rows))
        step, size = rest, float((rest**2).sum())
        for _ in range(_STEPS):
            along = back(self._product(step, rows))
            slope = float((step * along).sum())
            if slope <= 0 or size <= 0:
                break
            columns = columns + size / slope * step
            rest = rest - size / slope * along
            new = float((rest**2).sum())
            step, size = rest + new / size * step, new
        return columns

    def factors(self, site: Site, rank: int, *, shifted: bool) -> list[Factor]:
        """The two layers; only the second has a bias, as it pads."""
        columns, rows = self.fitted(rank)
        out, into, high, wide = self._shape
        bias = site.layer.bias
        if shifted:
            bias = self._weighed.shift(self._product(columns, rows)) + (0 if bias is None else bias)
        (tall, flat), sizes = _both(site.node), _between(site)
        return [
            Factor(columns.reshape(rank, into, high, 1), None, tall, sizes),
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
