"""Splits layers into two of lower rank, where the network answers nearly as before and runs faster."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from edgecc import ir
from edgecc.analysis.cost import total_macs
from edgecc.calibration import moments as mo
from edgecc.calibration.pairs import collect_pairs
from edgecc.errors import UsageError
from edgecc.passes import _rewrite as rw
from edgecc.passes._factors import SPLIT, Factor, Site, conv_attributes, sites, write
from edgecc.passes._low_rank import Metric, Option, Weighed, allot, weigh
from edgecc.passes._spatial import Spatial, can_be_spatial, most_spatial, spatial_price
from edgecc.pipeline import Pass, PassContext, PassResult
from edgecc.target import CostSpec

_OPERATORS: Mapping[str, tuple[str, ...]] = {"all": SPLIT, "gemm": ("Gemm", "MatMul"), "conv": ("Conv",)}
# Columns of data for each input that a layer sums: with fewer the moments say more about the data than about the
# network (dnn_l: 1 for each 7.9 dB, 4 for each 8.5 dB).
_COLUMNS_EACH = 4
# How often Relus are open is known after a few.
_GATE_SAMPLES = 64


@dataclass(frozen=True, kw_only=True)
class SplitGemm(Pass):
    """Makes Gemm, MatMul and Conv two layers of lower rank: (in -> r) and (r -> out).

    W x becomes A (B x), of all matrices of rank r that one whose answers on the calibration data err least (singular
    values of W S^1/2, S the moments of x; the bias takes the mean error), an error counting by what the layers after
    it make of it (`edgecc.calibration.onward`). A k x k Conv becomes a k x k Conv to r channels and a 1 x 1 Conv.
    After Denton et al. 2014 (section 3.2), weighted as by Zhang et al. 2016 (section 3); sources of the formulas stand
    in `_low_rank.py`.

    A layer is split only where multiply-accumulates and the target's predicted cycles fall. Exactly one of `energy`,
    `ratio` and `max_macs` says how far. Ranks are multiples of the target's vector width, smaller ones of 4.

    Attributes:
        energy: share of the (weighted) energy of each layer that is kept: 0.95 loses about 13 dB a layer.
        ratio: share of the multiply-accumulates of the layers in `operators` that is left, allotted among them so that
            the errors add up to least.
        max_macs: likewise, of the whole network, in multiply-accumulates.
        operators: gemm (with MatMul), conv or all.
        kernels: what becomes of a k x k Conv: k x k and 1 x 1 (channel), k x 1 and 1 x k (spatial), or what loses less.
        weighted: by the inputs on the calibration data; false is the plain SVD, which needs none.
        onward: weigh errors by what the layers after make of them, too.
        sequential: fit each layer to what it reads once those before it are split.
        precision: in which the target's cycles are counted.
        damping: of the moments, as a share of their mean.
        columns: places of the output taken of each sample.
        samples: at most so many calibration samples are run, fewer where layers have many places.
    """

    name: ClassVar[str] = "split_gemm"
    exact: ClassVar[bool] = False
    energy: float | None = None
    ratio: float | None = None
    max_macs: float | None = None
    operators: Literal["all", "gemm", "conv"] = "all"
    kernels: Literal["auto", "channel", "spatial"] = "auto"
    weighted: bool = True
    onward: bool = True
    sequential: bool = True
    precision: Literal["int8", "fp32"] = "int8"
    damping: float = 0.1
    columns: int = 49
    samples: int = 2000

    def apply(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrites `model` in place; needs `ctx.data` unless `weighted` is false."""
        from threadpoolctl import threadpool_limits

        self._check(ctx)
        tally = rw.Tally()
        found = list(sites(model, _OPERATORS[self.operators], tally))
        if not found:
            return tally.result()
        with threadpool_limits(1, user_api="blas"):
            weighed = self._weighed(model, ctx, found)
            rates = CostSpec() if ctx.target is None else ctx.target.cost
            width = 16 if ctx.target is None else ctx.target.vector_width
            choices = [self._options(s, weighed[s.index], rates, width, tally) for s in found]
            options = self._choose(model, choices, [weighed[s.index] for s in found])
            chosen = [(s, o) for s, o in zip(found, options, strict=True) if o.rank is not None]
            self._write(model, ctx, chosen, weighed)
        for site, ways, option in zip(found, choices, options, strict=True):
            if option.rank is None and len(ways) > 1:
                tally.refuse(site.node, "what it would lose is worth more than what it costs")
        tally.rewritten = len(chosen)
        return tally.result()

    def _check(self, ctx: PassContext) -> None:
        given = {n: v for n in ("energy", "ratio", "max_macs") if (v := getattr(self, n)) is not None}
        if len(given) != 1:
            raise UsageError(
                f"{len(given)} of energy, ratio and max_macs are given",
                node=self.name,
                remedy="give one, as in --pass split_gemm:ratio=0.5",
            )
        if not 0 < next(iter(given.values())) <= (float("inf") if "max_macs" in given else 1):
            raise UsageError(f"{given} is not a share between 0 and 1", node=self.name)
        if self.weighted and ctx.data is None:
            raise UsageError(
                "weighting by the inputs needs calibration data",
                node=self.name,
                remedy="give --data, or the option weighted=false",
            )

    def _samples(self, ctx: PassContext, found: Sequence[Site]) -> Iterable[Mapping[str, ir.Array]]:
        need = max(-(-_COLUMNS_EACH * site.rows.shape[1] // min(site.places, self.columns)) for site in found)
        return mo.spread(ctx.data, min(max(need, _GATE_SAMPLES), self.samples))

    def _weighed(self, model: ir.Model, ctx: PassContext, found: Sequence[Site]) -> dict[int, Weighed]:
        """What each rank of each layer loses, in the network as it is; by the sites' index."""
        if not self.weighted:
            return {s.index: weigh(s.rows, Metric.plain(s.rows.shape[1])) for s in found}
        by_node = {s.node: s for s in found}
        grams = self._grams(model, ctx)
        collected = mo.collect_moments(
            model, self._samples(ctx, found), list(by_node), columns=self.columns, seed=ctx.seed, threads=1
        )
        made = {}
        for node, moments in collected:
            site = by_node[node]
            second, mean = moments.second[0], moments.mean[0]
            metric = self._metric(site, second, second, mean, mean)
            made[site.index] = weigh(site.rows, metric, grams.get(site.layer.out), site.places)
        return made

    def _metric(self, site: Site, *given: ir.Array) -> Metric:
        return Metric.measured(*given, damping=self.damping, centred=site.centred)

    def _grams(self, model: ir.Model, ctx: PassContext) -> dict[ir.Value, ir.Array]:
        from edgecc.calibration.onward import onward

        return onward(model, mo.spread(ctx.data, _GATE_SAMPLES)) if self.onward else {}

    def _options(
        self, site: Site, weighed: Weighed, rates: CostSpec, width: int, tally: rw.Tally
    ) -> list[Option]:
        """As it is, and the ranks at which it is cheaper."""
        whole = site.price(self.precision, rates)
        made = [Option(whole.macs, 0.0, None)]
        lost, spatial = weighed.found.lost(), Spatial(site, weighed)
        fewer = False
        ways = [False, True] if self.kernels != "channel" and can_be_spatial(site) else [False]
        for apart in ways if self.kernels != "spatial" else ways[-1:]:
            price_of = spatial_price if apart else Site.price_of_rank
            for rank in _steps(most_spatial(site) if apart else len(lost) - 1, width):
                price = price_of(site, rank, self.precision, rates)
                fewer |= price.macs < whole.macs
                if price.macs < whole.macs and price.cycles < whole.cycles:
                    share = spatial.lost(rank) if apart else float(lost[rank])
                    made.append(Option(price.macs, share * weighed.scale, rank, apart))
        if len(made) == 1:
            what = (
                "the target's predicted cycles do not fall" if fewer else "no multiply-accumulates are saved"
            )
            tally.refuse(site.node, f"{what} at any rank of its matrix of {_by(site.rows.shape)}")
        return made

    def _choose(
        self, model: ir.Model, choices: Sequence[list[Option]], weighed: Sequence[Weighed]
    ) -> list[Option]:
        if self.energy is not None:
            limits = [(1 - self.energy) * w.scale for w in weighed]
            kept = [
                [o for o in options if o.loss <= most] for options, most in zip(choices, limits, strict=True)
            ]
            return [min(options, key=lambda o: o.macs) for options in kept]
        whole = sum(options[0].macs for options in choices)
        rest = total_macs(model) - whole
        budget = self.ratio * whole if self.ratio is not None else (self.max_macs or 0) - rest
        return allot(choices, budget)

    def _write(
        self,
        model: ir.Model,
        ctx: PassContext,
        chosen: Sequence[tuple[Site, Option]],
        weighed: Mapping[int, Weighed],
    ) -> None:
        """Splits layer after layer, each fitted to what it reads by then."""
        original = model.clone()
        before = list(original.graph)
        fitted = self.weighted and self.sequential
        data = self._samples(ctx, [s for s, _ in chosen]) if fitted and chosen else None
        grams = self._grams(original, ctx) if fitted and chosen else {}
        for number, (site, option) in enumerate(chosen):
            found = weighed[site.index]
            if data is not None and number:
                old = before[site.index]
                pairs = collect_pairs(
                    model, original, data, [(site.node, old)], columns=self.columns, seed=ctx.seed
                )
                moments = next(iter(pairs))[1]
                metric = self._metric(
                    site, moments.second[0], moments.cross[0], moments.mean[0], moments.mean_before[0]
                )
                found = weigh(site.rows, metric, grams.get(old.outputs[0]), site.places)
            assert option.rank is not None
            make = Spatial(site, found).factors if option.spatial else partial(_factors, weighed=found)
            write(site.layer, make(site, rank=option.rank, shifted=self.weighted))


def _factors(site: Site, *, weighed: Weighed, rank: int, shifted: bool) -> list[Factor]:
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
