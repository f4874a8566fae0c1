"""Removes whole channels, and fits what reads them to those that stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from edgecc import ir
from edgecc.analysis.channels import ChannelGroup, Channels, find_channels
from edgecc.analysis.shrunk_cost import ShrunkCost
from edgecc.calibration import moments as mo
from edgecc.errors import BudgetError, UsageError
from edgecc.options import COUNTS, SIZES, share_or
from edgecc.passes import _channel_importance as ci
from edgecc.passes import _rewrite as rw
from edgecc.passes._refit import refit, refittable
from edgecc.passes._shrink import shrink
from edgecc.pipeline import Pass, PassContext, PassResult
from edgecc.quant import rules
from edgecc.target import CostSpec

_GOALS = {"max_macs": "macs", "max_size": "size", "max_latency": "latency"}
_UNITS = {"max_macs": COUNTS, "max_size": SIZES, "max_latency": COUNTS}
_PROBED = 32  # samples on which it is measured what a group is worth
Sample = Mapping[str, ir.Array]


@dataclass(frozen=True, kw_only=True)
class PruneChannels(Pass):
    """Removes the channels that matter least from convolutions and matrices, with all that is tied to them.

    What must go together is found by `analysis.channels`: through residual Adds, Concats, depthwise and grouped
    convolutions, shuffles and reshapes. With data, groups are weighed by what their loss does to the answers, and the
    layers after are fitted again, one after another, to answer as before (least squares: He et al. 2017,
    arXiv:1707.06168, extended here to what the shrunk network itself feeds them).

    Options:
        ratio: the share of channels to remove; 0.3 where no other goal is given.
        max_macs, max_size, max_latency: or until the network has no more multiply-accumulates (50M), bytes of
            float32 constants (1MB), cycles by the target's numbers; each may be a share of what it has (70%).
        scope: `global` takes the channels that cost least for what they save; `layer` the same share of each group.
        criterion: what a channel is worth: l1, l2 norm of the weights that make it; gamma, of the BatchNormalization
            after it (before that is folded); activation, its energy; entropy, its bits; gradient, what the answers
            lose to first order; reconstruction, what the layers that read it lose even when fitted again.
        align: channels of a group stay a multiple of this; None: of the target's vector, or of half of it and so on
            where a group has fewer than four times as many.
        samples: at most so many calibration samples are used; columns: places of each.
        damping: of least squares, as a share of the mean second moment.
        max_fan_in: layers with more inputs an output are not fitted again: time grows with its cube.
    """

    name: ClassVar[str] = "prune_channels"
    exact: ClassVar[bool] = False
    compresses: ClassVar[bool] = True
    ratio: float | None = None
    max_macs: str | None = None
    max_size: str | None = None
    max_latency: str | None = None
    scope: Literal["global", "layer"] = "global"
    criterion: Literal["l1", "l2", "gamma", "activation", "entropy", "gradient", "reconstruction"] = (
        "reconstruction"
    )
    align: int | None = None
    samples: int = 128
    columns: int = 49
    damping: float = 0.001
    max_fan_in: int = 4608

    def __post_init__(self) -> None:
        """Checks the goal."""
        given = [name for name in ("ratio", *_GOALS) if getattr(self, name) is not None]
        if len(given) > 1:
            raise UsageError(
                f"{' and '.join(given)} are both given", node=self.name, remedy="choose one goal"
            )
        if self.ratio is not None and not 0 < self.ratio < 1:
            raise UsageError(f"the ratio {self.ratio} is not between 0 and 1", node=self.name)
        if given and given[0] in _GOALS and self.scope == "layer":
            raise UsageError("with scope=layer only a ratio can be met", node=self.name)

    def apply(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Shrinks `model` in place."""
        from threadpoolctl import threadpool_limits

        tally = rw.Tally()
        if self.criterion in ci.DATA_DRIVEN and ctx.data is None:
            raise UsageError(
                f"the criterion {self.criterion} looks at calibration data",
                node=self.name,
                remedy="give --data, or criterion=l2",
            )
        channels = find_channels(model)
        self._refuse(model, channels, tally)
        if not channels.groups:
            return tally.result()
        data = None if ctx.data is None else list(mo.spread(ctx.data, self.samples))
        with threadpool_limits(1, user_api="blas"):
            layers = [n for n in model.graph if refittable(n, self.max_fan_in)]
            seen, held_out = _parted(data or [])
            moments = (
                dict(mo.collect_moments(model, seen, layers, columns=self.columns, seed=ctx.seed))
                if seen
                else {}
            )
            evidence = ci.Evidence(model, channels, data, layers, moments, max(self.damping, 1e-4), ctx.seed)
            curves, silent = ci.curves(evidence, self.criterion)
            if self.criterion == "gamma" and not curves:
                raise UsageError(
                    "no BatchNormalization is left to look at",
                    node=self.name,
                    remedy="run prune_channels before fold_batchnorm, or choose another criterion",
                )
            for group in silent:
                self._silent(group, tally)
            factors = [1.0] * len(curves)
            if data is not None and self.scope == "global":
                factors = ci.sensitivities(model, curves, held_out)
            removed = self._choose(model, ctx, channels, curves, factors)
            if removed:
                self._remove(evidence, removed)
        tally.rewritten = len(removed)
        return tally.result()

    def _silent(self, group: ChannelGroup, tally: rw.Tally) -> None:
        maker = next((v.producer() for v, _ in group.axes if v.producer() is not None), None)
        if maker is not None:
            tally.refuse(maker, f"the criterion {self.criterion} says nothing of its channels")

    def _refuse(self, model: ir.Model, channels: Channels, tally: rw.Tally) -> None:
        for node in model.graph:
            axis = 1 if node.op_type in ("Conv", "ConvTranspose", "Gemm") else -1
            out = node.outputs[0]
            if not rw.is_op(node, "Conv", "ConvTranspose", "Gemm", "MatMul") or out.shape is None:
                continue
            place = (out, axis % len(out.shape))
            if place not in channels.unit:
                tally.refuse(
                    node, f"its channels stay: {channels.reasons.get(place, 'nothing else depends on them')}"
                )

    def _align(self, count: int, ctx: PassContext) -> int:
        """The multiple that a group of so many channels keeps to."""
        if self.align is not None:
            return self.align
        width = ctx.target.vector_width if ctx.target is not None else 1
        while width > 1 and 4 * width > count:
            width //= 2
        return width

    def _choose(
        self,
        model: ir.Model,
        ctx: PassContext,
        channels: Channels,
        curves: Sequence[ci.Curve],
        factors: Sequence[float],
    ) -> set[int]:
        """The units that go."""
        steps = [self._align(len(c.group.units), ctx) for c in curves]
        if self.scope == "layer":
            taken = [_whole(len(c.group.units), self._share(), s) for c, s in zip(curves, steps, strict=True)]
        else:
            cost = ShrunkCost(
                model, ctx.target.cost if ctx.target is not None else CostSpec(), set(channels.unit)
            )
            taken = self._greedy(cost, curves, factors, steps)
        return {u for curve, count in zip(curves, taken, strict=True) for u in curve.order[:count]}

    def _share(self) -> float:
        return 0.3 if self.ratio is None else self.ratio

    def _wanted(self, goal: str, total: float) -> float:
        return share_or(getattr(self, goal), _UNITS[goal], _GOALS[goal], total)

    def _greedy(
        self, cost: ShrunkCost, curves: Sequence[ci.Curve], factors: Sequence[float], steps: Sequence[int]
    ) -> list[int]:
        """Of each group so many, by the least loss for what is saved, until the goal is met."""
        goal = next((g for g in _GOALS if getattr(self, g) is not None), None)
        kind = "units" if goal is None else _GOALS[goal]
        total = sum(len(c.group.units) for c in curves) if goal is None else getattr(cost, kind)({})
        wanted = total * (1 - self._share()) if goal is None else self._wanted(goal, total)
        taken, gone, left = [0] * len(curves), dict[tuple[ir.Value, int], int](), float(total)
        while left > wanted:
            best: tuple[float, int, int, float] | None = None
            for i, curve in enumerate(curves):
                first = (len(curve.group.units) - taken[i]) % steps[i] or steps[i]
                for count in range(
                    first, len(curve.order) - taken[i] + 1, steps[i]
                ):  # a whole vector may pay at once
                    saved = (
                        float(count) if goal is None else cost.saved(kind, gone, _with(gone, curve, count))
                    )
                    loss = factors[i] * float(curve.loss[taken[i] + count] - curve.loss[taken[i]])
                    if saved > 0 and (best is None or loss / saved < best[0]):
                        best = (loss / saved, i, count, saved)
            if best is None:
                raise BudgetError(
                    f"with all channels gone that may go {left:,.0f} {kind} are left, {wanted:,.0f} wanted",
                    node=f"{self.name}:{goal or 'ratio'}",
                    remedy="ask for less, a smaller align, or choose a smaller network",
                )
            _, i, count, saved = best
            gone = _with(gone, curves[i], count)
            taken[i] += count
            left -= saved
        return taken

    def _remove(self, evidence: ci.Evidence, removed: set[int]) -> None:
        model, data = evidence.model, evidence.data
        kept = evidence.channels.kept(removed)
        original = model.clone() if data is not None else None
        rows = {}
        for node in evidence.layers:
            weight = node.inputs[1]
            assert weight is not None
            axis = rules.channel_axis(node)
            rows[node] = kept.get((weight, axis), np.arange(ir.static_dims(weight)[axis]))
        shrink(model, kept)
        if data is None or original is None:
            return
        before = {node.outputs[0].name: node for node in original.graph}
        pairs = [(n, before[n.outputs[0].name], rows[n]) for n in evidence.layers]
        refit(model, original, data, pairs, damping=self.damping, columns=self.columns, seed=evidence.seed)


def _parted(data: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Samples to fit to, and others on which it is measured what that is worth; few samples are both."""
    every = max(4, len(data) // _PROBED)
    if len(data) < 2 * every:
        return list(data), list(data[:_PROBED])
    held_out = list(data[every - 1 :: every])[:_PROBED]
    return [s for i, s in enumerate(data) if i % every != every - 1], held_out


def _whole(count: int, share: float, step: int) -> int:
    """So many of `count` that about `share` go and a multiple of `step` stays."""
    stay = max(step, int(np.ceil(count * (1 - share) / step)) * step)
    return max(0, count - stay)


def _with(
    gone: Mapping[tuple[ir.Value, int], int], curve: ci.Curve, count: int
) -> dict[tuple[ir.Value, int], int]:
    found = dict(gone)
    for axis, each in curve.group.axes.items():
        found[axis] = found.get(axis, 0) + each * count
    return found
