"""Splits layers into two of lower rank, where the network answers nearly as before and runs faster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

from edgecc import ir
from edgecc.analysis.cost import total_macs
from edgecc.passes import _rewrite as rw
from edgecc.passes._factors import SPLIT, Factor, Site, conv_attributes, sites, write
from edgecc.passes._low_rank import Option, Weighed, allot
from edgecc.passes._spatial import Spatial, can_be_spatial, most_spatial, spatial_price
from edgecc.passes._weighing import Weighing, WeighingPass, given_one
from edgecc.pipeline import PassContext, PassResult
from edgecc.target import CostSpec

_OPERATORS: Mapping[str, tuple[str, ...]] = {"all": SPLIT, "gemm": ("Gemm", "MatMul"), "conv": ("Conv",)}
# The ratios that are tried to keep within an error: multiples of a sixty-fourth.
_RATIOS = 64


@dataclass(frozen=True, kw_only=True)
class SplitGemm(WeighingPass):
    """Makes Gemm, MatMul and Conv two layers of lower rank: (in -> r) and (r -> out).

    W x becomes A (B x), of all matrices of rank r that one whose answers on the calibration data err least (singular
    values of W S^1/2, S the moments of x; the bias takes the mean error), an error counting by what the layers after
    it make of it (`edgecc.calibration.onward`). A k x k Conv becomes a k x k Conv to r channels and a 1 x 1 Conv.
    After Denton et al. 2014 (section 3.2), weighted as by Zhang et al. 2016 (section 3); sources of the formulas stand
    in `_low_rank.py`.

    A layer is split only where multiply-accumulates and the target's predicted cycles fall. Exactly one of `energy`,
    `ratio`, `max_macs` and `error` says how far. Ranks are multiples of the target's vector width, smaller ones of 4.

    Attributes:
        energy: share of the (weighted) energy of each layer that is kept: 0.95 loses about 13 dB a layer.
        ratio: share of the multiply-accumulates of the layers in `operators` that is left, allotted among them so that
            the errors add up to least.
        max_macs: likewise, of the whole network, in multiply-accumulates.
        error: the least ratio (to a sixty-fourth) at which the answers change by no more than this share of their
            power, measured on calibration data: 0.01 is 20 dB. Takes six times as long.
        operators: gemm (with MatMul), conv or all.
        kernels: what becomes of a k x k Conv: k x k and 1 x 1 (channel), k x 1 and 1 x k (spatial), or what loses less.
        weighted: by the inputs on the calibration data; false is the plain SVD, which needs none.
        onward: weigh errors by what the layers after make of them, too.
        sequential: fit each layer to what it reads once those before it are split.
        precision: in which the target's cycles are counted.
        damping: of the moments, as a share of their mean, besides what chance makes of few data.
        columns: places of the output taken of each sample.
        samples: at most so many calibration samples are run, fewer where layers have many places.
    """

    name: ClassVar[str] = "split_gemm"
    exact: ClassVar[bool] = False
    compresses: ClassVar[bool] = True
    energy: float | None = None
    ratio: float | None = None
    max_macs: float | None = None
    error: float | None = None
    operators: Literal["all", "gemm", "conv"] = "all"
    kernels: Literal["auto", "channel", "spatial"] = "auto"

    def apply(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrites `model` in place; needs `ctx.data` unless `weighted` is false."""
        from threadpoolctl import threadpool_limits

        given_one(self, energy=1, ratio=1, max_macs=None, error=None)
        if self.error is not None:
            return self._within(self.error, model, ctx)
        weighing = Weighing(self, ctx)
        tally = rw.Tally()
        found = list(sites(model, _OPERATORS[self.operators], tally))
        if not found:
            return tally.result()
        with threadpool_limits(1, user_api="blas"):
            weighed = weighing.weighed(model, found)
            rates = CostSpec() if ctx.target is None else ctx.target.cost
            width = 16 if ctx.target is None else ctx.target.vector_width
            choices = [self._options(s, weighed[s.index], rates, width, tally) for s in found]
            options = self._choose(model, choices)
            chosen = [(s, o) for s, o in zip(found, options, strict=True) if o.rank is not None]
            for site, option, fresh in weighing.in_turn(model, chosen, weighed):
                assert option.rank is not None
                make = Spatial(site, fresh).factors if option.spatial else partial(_factors, site, fresh)
                write(site.layer, make(option.rank, shifted=self.weighted))
        for site, ways, option in zip(found, choices, options, strict=True):
            if option.rank is None and len(ways) > 1:
                tally.refuse(site.node, "what it would lose is worth more than what it costs")
        tally.rewritten = len(chosen)
        return tally.result()

    def _within(self, error: float, model: ir.Model, ctx: PassContext) -> PassResult:
        """Splits by the least ratio whose measured error is allowed."""
        from edgecc.effect import measure_effect

        low, high = 0, _RATIOS
        while high - low > 1:
            middle, trial = (low + high) // 2, model.clone()
            step = replace(self, error=None, ratio=middle / _RATIOS)
            step.apply(trial, ctx)
            good = 10 ** (-measure_effect(step, model, trial, ctx).sqnr_db / 10) <= error
            low, high = (low, middle) if good else (middle, high)
        return replace(self, error=None, ratio=high / _RATIOS).apply(model, ctx)

    def _options(
        self, site: Site, weighed: Weighed, rates: CostSpec, width: int, tally: rw.Tally
    ) -> list[Option]:
        """As it is, and the ranks at which it is cheaper."""
        whole = site.price(self.precision, rates)
        made = [Option(whole.macs, 0.0, None)]
        lost, fewer = weighed.found.lost(), False
        ways = [False, True] if self.kernels != "channel" and can_be_spatial(site) else [False]
        for apart in ways if self.kernels != "spatial" else ways[-1:]:
            price_of = spatial_price if apart else Site.price_of_rank
            spatial = Spatial(site, weighed) if apart else None
            for rank in _steps(most_spatial(site) if apart else len(lost) - 1, width):
                price = price_of(site, rank, self.precision, rates)
                fewer |= price.macs < whole.macs
                if price.macs < whole.macs and price.cycles < whole.cycles:
                    share = float(lost[rank]) if spatial is None else spatial.lost(rank)
                    made.append(Option(price.macs, share * weighed.scale, rank, apart, share))
        if len(made) == 1:
            what = (
                "the target's predicted cycles do not fall" if fewer else "no multiply-accumulates are saved"
            )
            tally.refuse(site.node, f"{what} at any rank of its matrix of {_by(site.rows.shape)}")
        return made

    def _choose(self, model: ir.Model, choices: Sequence[list[Option]]) -> list[Option]:
        if self.energy is not None:
            most = 1 - self.energy
            return [min((o for o in way if o.share <= most), key=lambda o: o.macs) for way in choices]
        whole = sum(options[0].macs for options in choices)
        rest = total_macs(model) - whole
        budget = self.ratio * whole if self.ratio is not None else (self.max_macs or 0) - rest
        return allot(choices, budget)


def _factors(site: Site, weighed: Weighed, rank: int, *, shifted: bool) -> list[Factor]:
    """(in -> rank) and (rank -> out); with a bias each, so that what is between has the mean 0."""
    a, b = weighed.factors(rank)
    middle, bias = None, site.layer.bias
    if shifted and site.centred:
        middle = -b @ weighed.found.metric.mean
        bias = weighed.shift(a @ b) - a @ middle + (0 if bias is None else bias)
    if site.node.op_type != "Conv":
        return [Factor(b, middle, {}), Factor(a, bias, {})]
    weight = site.layer.weight
    ones = [1] * (weight.ndim - 2)
    point = conv_attributes(
        site.node, kernel_shape=ones, strides=ones, dilations=ones, pads=[0] * 2 * len(ones)
    )
    return [
        Factor(b.reshape(rank, *weight.shape[1:]), middle, conv_attributes(site.node)),
        Factor(a.reshape(*a.shape, *ones), bias, point),
    ]


def _steps(most: int, width: int) -> list[int]:
    """The ranks below the full one that are tried: multiples of the vector width, small ones of 4, the smallest all."""
    step = 4 if most > 8 else 1
    return [*range(step, min(width, most), step), *range(width, most, width)]


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
