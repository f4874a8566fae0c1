"""Makes a dense Conv depthwise and pointwise, where the network answers nearly as before and runs faster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgecc import ir
from edgecc.analysis.cost import layer_cycles
from edgecc.ir import Array
from edgecc.passes import _rewrite as rw
from edgecc.passes._bilinear import MOST, Bilinear
from edgecc.passes._factors import Factor, Price, Site, conv_attributes, elements, sites, write
from edgecc.passes._low_rank import Option, Weighed, allot
from edgecc.passes._weighing import Weighing, WeighingPass, given_one
from edgecc.pipeline import PassContext, PassResult
from edgecc.target import CostSpec

_DEAR = "multiply-accumulates and the target's predicted cycles do not both fall with any number of terms"


@dataclass(frozen=True, kw_only=True)
class SeparateConv(WeighingPass):
    """Makes a Conv k x k of one group a depthwise Conv k x k and a pointwise one (Howard et al. 2017, section 3.1).

    W[o, i] becomes the sum of r terms P[o, i] D[i], each a kernel of channel i alone: the singular vectors of the
    kernels of each input channel in the metric of what they read (r terms: Guo et al. 2018, "Network decoupling",
    section 3), then least squares for P and for D in turn, on what the layer reads once those before it are separated.
    The share of the multiply-accumulates is about r / k^2; the inputs are repeated r times (Concat), since runtimes
    have fast depthwise kernels only for one output a channel.

    A layer is separated only where multiply-accumulates and the target's predicted cycles fall. Exactly one of `rank`,
    `error` and `ratio` says how far.

    Attributes:
        rank: r of all layers.
        error: of each layer the smallest r that loses at most this share of the energy of its outputs.
        ratio: share of the multiply-accumulates of the dense k x k Convs that is left, allotted among them so that the
            errors add up to least.
        weighted, onward, sequential, precision, damping, columns, samples: as of split_gemm.
    """

    name: ClassVar[str] = "separate_conv"
    exact: ClassVar[bool] = False
    compresses: ClassVar[bool] = True
    rank: int | None = None
    error: float | None = None
    ratio: float | None = None

    def apply(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrites `model` in place; needs `ctx.data` unless `weighted` is false."""
        from threadpoolctl import threadpool_limits

        given_one(self, rank=None, error=1, ratio=1)
        weighing = Weighing(self, ctx)
        tally = rw.Tally()
        found = [site for site in sites(model, ("Conv",), tally) if _fits(site, tally)]
        if not found:
            return tally.result()
        with threadpool_limits(1, user_api="blas"):
            weighed = weighing.weighed(model, found)
            rates = CostSpec() if ctx.target is None else ctx.target.cost
            choices = [self._options(site, weighed[site.index], rates) for site in found]
            options = self._choose(found, choices, tally)
            chosen = [(s, o) for s, o in zip(found, options, strict=True) if o.rank is not None]
            for site, option, fresh in weighing.in_turn(model, chosen, weighed):
                assert option.rank is not None
                factors = _Separate(site, fresh).factors(option.rank, shifted=self.weighted)
                _repeat_input(site, option.rank)
                write(site.layer, factors)
        tally.rewritten = len(chosen)
        return tally.result()

    def _options(self, site: Site, weighed: Weighed, rates: CostSpec) -> list[Option]:
        """As it is, and the numbers of terms at which it is cheaper."""
        whole = site.price(self.precision, rates)
        made = [Option(whole.macs, 0.0, None)]
        separate = _Separate(site, weighed)
        for rank in range(1, separate.most + 1):
            price = _price(site, rank, self.precision, rates)
            if price.macs < whole.macs and price.cycles < whole.cycles:
                share = separate.lost(rank)
                made.append(Option(price.macs, share * weighed.scale, rank, share=share))
        return made

    def _choose(
        self, found: Sequence[Site], choices: Sequence[list[Option]], tally: rw.Tally
    ) -> list[Option]:
        if self.ratio is not None:
            chosen = allot(choices, self.ratio * sum(options[0].macs for options in choices))
        else:
            chosen = [self._first(options) for options in choices]
        for site, options, option in zip(found, choices, chosen, strict=True):
            if option.rank is None:
                reason = _DEAR if len(options) == 1 else "it would lose more than the option allows"
                tally.refuse(site.node, reason)
        return chosen

    def _first(self, options: Sequence[Option]) -> Option:
        """Of the options that are allowed, the cheapest."""
        if self.rank is not None:
            return next((o for o in options if o.rank == self.rank), options[0])
        return next((o for o in options[1:] if o.share <= (self.error or 0)), options[0])


class _Separate(Bilinear):
    """W[o, i, t] = sum over m of P[o, i, m] D[i, m, t]; the first factor is D (i, m, t)."""

    def __init__(self, site: Site, weighed: Weighed) -> None:
        super().__init__(weighed)
        self._site = site
        weight = site.layer.weight
        self._inputs, self._taps = weight.shape[1], int(np.prod(weight.shape[2:]))
        self.most = min(self._taps, len(weight))

    def _start(self) -> Array:
        shape = (self._inputs, self._taps)
        kernels = (self.root @ self.best).reshape(-1, *shape).transpose(1, 0, 2)  # (i, out, t)
        near = np.einsum("itiu->itu", self.second.reshape(*shape, *shape))
        values, vectors = np.linalg.eigh(near)
        scale = np.sqrt(np.maximum(values, 1e-9 * np.maximum(values.mean(axis=1, keepdims=True), 1e-30)))
        right = np.linalg.svd(kernels @ (vectors * scale[:, None, :]), full_matrices=False)[2]
        return np.asarray(right @ (vectors / scale[:, None, :]).transpose(0, 2, 1))

    def _first(self, rank: int) -> Array:
        return self.start[:, :rank]

    def _spread(self, first: Array) -> Array:
        made = np.zeros((*first.shape[:2], self._inputs, self._taps))
        each = np.arange(self._inputs)
        made[each, :, each] = first
        return made.reshape(first.shape[0] * first.shape[1], -1)

    def _gather(self, spread: Array) -> Array:
        each = np.arange(self._inputs)
        return spread.reshape(self._inputs, -1, self._inputs, self._taps)[each, :, each]

    def factors(self, rank: int, *, shifted: bool) -> list[Factor]:
        """Depthwise over the repeated inputs, with the bias that makes the mean of what it gives 0, and pointwise."""
        kernels, points = self.fitted(rank)
        node, weight, bias = self._site.node, self._site.layer.weight, self._site.layer.bias
        spread, middle = self._spread(kernels), None
        if shifted:
            middle = -spread @ self.weighed.found.metric.mean
            bias = self.weighed.shift(points @ spread) - points @ middle + (0 if bias is None else bias)
        order = np.arange(self._inputs * rank).reshape(self._inputs, rank).T.reshape(-1)  # term after term
        kernels, points = kernels.reshape(-1, 1, *weight.shape[2:])[order], points[:, order]
        middle = None if middle is None else middle[order]
        ones = [1] * (weight.ndim - 2)
        point = conv_attributes(
            node, kernel_shape=ones, strides=ones, dilations=ones, pads=[0] * 2 * len(ones)
        )
        return [
            Factor(kernels, middle, conv_attributes(node, group=self._inputs * rank)),
            Factor(points.reshape(*points.shape, *ones), bias, point),
        ]


def _repeat_input(site: Site, rank: int) -> None:
    """Lays the inputs of a layer one after the other `rank` times, as kernels of depth multiplier 1 want them.

    XNNPACK computes a depthwise convolution of another multiplier as one small matrix product a channel: ic_resnet8 in
    int8 took 4 to 14 times as long.
    """
    node, source = site.node, site.node.inputs[0]
    assert source is not None
    assert isinstance(node.graph, ir.Graph)
    if rank == 1:
        return
    repeat = rw.new_node("Concat", [source] * rank, source, {"axis": 1}, name=f"{ir.label(node)}_repeat")
    out = repeat.outputs[0]
    out.name = ir.fresh_name(node.graph, f"{site.layer.out.name}_repeat")
    assert source.shape is not None
    out.shape = ir.Shape([source.shape[0], rank * site.layer.inputs, *source.shape[2:]])
    node.graph.insert_before(node, repeat)
    node.replace_input_with(0, out)


def _fits(site: Site, tally: rw.Tally) -> bool:
    kernel = site.layer.weight.shape[2:]
    if max(kernel) == 1 or site.layer.inputs == 1:
        return False  # it is pointwise, or depthwise, already
    if site.rows.shape[1] > MOST:
        tally.refuse(site.node, f"an output sums {site.rows.shape[1]} inputs, more than {MOST}")
        return False
    return True


def _price(site: Site, rank: int, precision: str, rates: CostSpec) -> Price:
    """Of r depthwise kernels a channel, for which the inputs are repeated, and the pointwise layer."""
    assert site.node.inputs[0] is not None
    between = rank * site.layer.inputs
    weights = between * (site.rows.shape[1] // site.layer.inputs + site.layer.outputs)
    read = elements(site.node.inputs[0])
    repeated = 2 * rank * read if rank > 1 else 0  # written and read
    seen = read + repeated + elements(site.layer.out) + 2 * between * site.places
    count = weights * site.places
    operators = 2 + (rank > 1)
    return Price(count, layer_cycles(count, seen, weights, precision, rates, operators=operators))
