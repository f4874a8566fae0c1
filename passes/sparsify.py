"""Sets weights to zero: those that the answers need least."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from edgecc import ir
from edgecc.errors import UsageError
from edgecc.passes import _obs as obs
from edgecc.passes import _rewrite as rw
from edgecc.passes import _scores as sc
from edgecc.passes._scores import Cut, Scores
from edgecc.passes._weights import Weights, layers
from edgecc.pipeline import Pass, PassContext, PassResult

if TYPE_CHECKING:
    from edgecc.calibration.moments import Moments

# So many times as many blocks of an output get a price as would go if each cost what it costs alone, and this share of
# its blocks besides. Chosen by the error of layers of resnet56 and EfficientNet-Lite0.
_MARGIN, _SPARE = 1.5, 0.05


@dataclass(frozen=True, kw_only=True)
class Sparsify(Pass):
    """Sets to zero the weights of Conv, Gemm and MatMul that the answers need least.

    What a weight is worth, by `criterion`:

    magnitude: |w|. Needs no data.
    gradient: |g w|, with the mean square of the derivatives of the answers: g^2 = G E[x^2], where x is what the
        weight is multiplied with and G, of a layer, is measured by finite differences: half of its weights are
        removed, and the change of the answers is compared with that of the layer's output.
    entropy: bits of the histogram of the channel that the weight reads, times |w| by the mean |w| of the layer.
    hessian: what the error of the layer's output grows by when the weight is removed and the others are refitted
        by least squares, weight after weight (optimal brain surgeon, see _obs.py); between layers times G.

    With data the bias takes the mean of what is lost.

    Attributes:
        ratio: share of zeros among the weights afterwards. Neither ratio nor threshold: 0.5.
        threshold: instead, weights below it go: magnitude |w|; gradient the root mean square change of the answers
            by their own; entropy bits. hessian: the power of all errors, as a share of the power of the answers
            (scope global) or of each layer's output (scope layer).
        scope: the weights of all layers compete, or those of one.
        criterion: as said.
        pattern: free; N:M, so many of M neighbouring input channels stay (needs no ratio); or blocks as 1x4, so
            many neighbouring input channels of one output go together.
        most: share of an output's weights that may go, with hessian.
        damping: what is added to the diagonal of the moments, as a share of its mean.
        samples: at most so many calibration samples are run. A matrix product sees one row of each: lenet_caffe, with
            800 inputs, needs hundreds.
        columns: places of the output taken of each sample.
    """

    name: ClassVar[str] = "sparsify"
    exact: ClassVar[bool] = False
    compresses: ClassVar[bool] = True
    constants_only: ClassVar[bool] = True
    ratio: float | None = None
    threshold: float | None = None
    scope: Literal["global", "layer"] = "global"
    criterion: Literal["magnitude", "gradient", "entropy", "hessian"] = "hessian"
    pattern: str = "free"
    most: float = 0.95
    damping: float = 0.01
    samples: int = 512
    columns: int = 49

    def __post_init__(self) -> None:
        pattern = _pattern(self.pattern)
        if self.threshold is not None and (self.ratio is not None or pattern.group):
            raise UsageError(
                "a threshold says how many weights go, and so does the rest",
                node=self.name,
                remedy="give one of ratio, threshold and a pattern N:M",
            )
        if self.ratio is not None and pattern.group:
            raise UsageError(
                f"the pattern {self.pattern} says how many weights go",
                node=self.name,
                remedy="leave the ratio out",
            )
        if self.ratio is not None and not 0 <= self.ratio < 1:
            raise UsageError(
                f"{self.ratio} is no share", node=f"{self.name}:ratio", remedy="from 0 to below 1"
            )

    def apply(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Changes weights and biases in place.

        Raises:
            UsageError: the criterion needs calibration data, and there is none.
        """
        from threadpoolctl import threadpool_limits

        if self.criterion != "magnitude" and ctx.data is None:
            raise UsageError(
                f"the criterion {self.criterion} is measured on calibration data, and there is none",
                node=self.name,
                remedy="give --data, or choose criterion=magnitude",
            )
        tally, cut = rw.Tally(), Cut(_pattern(self.pattern))
        found = []
        for layer in layers(model, tally):
            size, width = cut.pattern.block * (cut.pattern.group or 1), layer.channels
            if width % size:
                tally.refuse(layer.node, f"its {width} input channels are no multiple of {size}")
            else:
                found.append(layer)
        if not found or self._done(found, cut):
            return tally.result()
        # Beside other work on the machine, threads of BLAS wait for each other.
        with threadpool_limits(1, user_api="blas"):
            scores = self._scores(model, ctx, found, cut)
            gone = self._chosen(scores, cut)
            tally.rewritten = self._remove(model, ctx, scores, gone, cut)
        return tally.result()

    def _done(self, found: Sequence[Weights], cut: Cut) -> bool:
        """Whether there are zeros enough already."""
        blocks: list[ir.Array] = [_zero(layer, cut) for layer in found]
        if cut.pattern.group:
            return all((_grouped(b, cut).sum(axis=2) >= cut.pattern.removable).all() for b in blocks)
        if self.threshold is not None:
            return False
        parts = blocks if self.scope == "layer" else [np.concatenate([b.reshape(-1) for b in blocks])]
        return all(int(part.sum()) >= self._count(part.size) for part in parts)

    def _count(self, blocks: int) -> int:
        return round((0.5 if self.ratio is None else self.ratio) * blocks)

    def _scores(
        self, model: ir.Model, ctx: PassContext, found: Sequence[Weights], cut: Cut
    ) -> dict[Weights, Scores]:
        from edgecc.calibration.moments import spread

        if self.criterion == "magnitude" and ctx.data is None:
            return {layer: sc.magnitude(layer, cut) for layer in found}
        data = spread(ctx.data, self.samples)
        nodes = [layer.node for layer in found]
        bits = sc.channel_bits(model, data, nodes, 1) if self.criterion == "entropy" else {}

        def first(layer: Weights, moments: Moments) -> Scores:
            if self.criterion == "magnitude":
                return replace(sc.magnitude(layer, cut), mean=moments.mean)
            if self.criterion == "gradient":
                return sc.gradient(layer, moments, cut)
            if self.criterion == "entropy":
                return sc.entropy(layer, bits[layer.node], moments.mean, cut)
            return sc.hessian(layer, moments, cut, self.damping)

        scores: dict[Weights, Scores] = {}
        trials: dict[Weights, Callable[[], float]] = {}
        for layer, moments in self._read(model, ctx, found):
            scores[layer] = first(layer, moments)
            if self.scope == "global" and self.criterion in ("gradient", "hessian"):
                trials[layer] = partial(sc.trial, layer, moments, scores[layer], cut)
        gains = sc.answer_gains(model, data, trials)
        trials.clear()  # and the moments that they hold
        if self.criterion == "hessian":
            most = self._most({layer: _priced(one, gains.get(layer)) for layer, one in scores.items()}, cut)
            for layer, moments in self._read(model, ctx, found):
                scores[layer] = sc.hessian(layer, moments, cut, self.damping, most[layer])
        return {layer: _priced(one, gains.get(layer)) for layer, one in scores.items()}

    def _read(
        self, model: ir.Model, ctx: PassContext, found: Sequence[Weights]
    ) -> Iterator[tuple[Weights, Moments]]:
        from edgecc.calibration.moments import collect_moments, spread

        by_node, data = {layer.node: layer for layer in found}, spread(ctx.data, self.samples)
        for node, moments in collect_moments(
            model, data, list(by_node), columns=self.columns, seed=ctx.seed, threads=1
        ):
            yield by_node[node], moments

    def _most(self, scores: Mapping[Weights, Scores], cut: Cut) -> dict[Weights, ir.Array]:
        """How many blocks of each output get a price, (outputs,).

        The time grows with their square: somewhat more than would go if each cost what it costs alone, and hardly
        more than twice the ratio, which takes from few rows.
        """
        ratio = 0.5 if self.ratio is None else self.ratio
        most = self.most if self.threshold is not None else min(self.most, 2 * ratio)
        found = {}
        for layer, gone in self._chosen(scores, cut).items():
            wanted = np.ceil(_MARGIN * gone.sum(axis=1) + _SPARE * gone.shape[1])
            found[layer] = np.minimum(wanted, int(most * gone.shape[1])).astype(np.int64)
        return found

    def _chosen(self, scores: Mapping[Weights, Scores], cut: Cut) -> dict[Weights, ir.Array]:
        """Of each layer the blocks that are zero afterwards, (outputs, blocks) bool."""
        priced = {}
        for layer, found in scores.items():
            priced[layer] = np.where(_zero(layer, cut), -1.0, found.price / found.energy)
        if cut.pattern.group:
            return {
                layer: _least(_grouped(p, cut), cut.pattern.removable).reshape(p.shape)
                for layer, p in priced.items()
            }
        parts = [[layer] for layer in priced] if self.scope == "layer" else [list(priced)]
        gone = {}
        for part in parts:
            prices = np.concatenate([priced[layer].reshape(-1) for layer in part])
            taken = self._taken(prices)
            at = 0
            for layer in part:
                size = priced[layer].size
                gone[layer] = taken[at : at + size].reshape(priced[layer].shape)
                at += size
        return gone

    def _taken(self, prices: ir.Array) -> ir.Array:
        order = np.argsort(prices, kind="stable")
        if self.threshold is None:
            number = self._count(prices.size)
        elif self.criterion == "hessian":  # errors of different weights add up
            number = int((np.cumsum(np.maximum(prices[order], 0.0)) <= self.threshold).sum())
        else:
            limit = self.threshold**2 if self.criterion == "gradient" else self.threshold
            number = int((prices < limit).sum())
        number = max(min(number, int(np.isfinite(prices).sum())), int((prices < 0).sum()))
        taken = np.zeros(prices.size, bool)
        taken[order[:number]] = True
        return taken

    def _remove(
        self,
        model: ir.Model,
        ctx: PassContext,
        scores: Mapping[Weights, Scores],
        gone: Mapping[Weights, ir.Array],
        cut: Cut,
    ) -> int:
        keep = {layer: ~cut.spread(layer, chosen) for layer, chosen in gone.items()}
        keep = {layer: mask for layer, mask in keep.items() if layer.matrix()[~mask].any()}
        if self.criterion == "hessian":
            sc.refit(model, ctx, keep, damping=self.damping, samples=self.samples, columns=self.columns)
            return len(keep)
        for layer, mask in keep.items():
            matrix = layer.matrix()
            mean = scores[layer].mean
            lost = np.where(mask, 0.0, matrix)
            layer.store(matrix - lost, None if mean is None else np.einsum("goi,gi->go", lost, mean))
        return len(keep)


def _priced(scores: Scores, gain: float | None) -> Scores:
    """In noise of the answers, where the gain of the layer is known."""
    return scores if gain is None else replace(scores, price=scores.price * gain, energy=1.0)


def _zero(layer: Weights, cut: Cut) -> ir.Array:
    """Which blocks are zero: (outputs, blocks) bool."""
    return np.asarray(~cut.blocks(layer, layer.matrix()).any(axis=2))


def _grouped(blocks: ir.Array, cut: Cut) -> ir.Array:
    return blocks.reshape(len(blocks), -1, cut.pattern.group)


def _least(prices: ir.Array, count: int) -> ir.Array:
    """Of the last axis the `count` lowest, as bool."""
    found = np.zeros(prices.shape, bool)
    np.put_along_axis(found, np.argsort(prices, axis=-1, kind="stable")[..., :count], True, axis=-1)
    return found


def _pattern(text: str) -> obs.Pattern:
    """`free`, `N:M` or `1xB`.

    Raises:
        UsageError: anything else.
    """
    if text == "free":
        return obs.Pattern()
    if (found := re.fullmatch(r"(\d+):(\d+)", text)) and 0 < int(found[1]) < int(found[2]):
        return obs.Pattern(1, int(found[2]), int(found[2]) - int(found[1]))
    if (found := re.fullmatch(r"1x(\d+)", text)) and int(found[1]) > 1:
        return obs.Pattern(int(found[1]))
    raise UsageError(f"{text!r} is no pattern", node="sparsify:pattern", remedy="write free, 2:4 or 1x4")
