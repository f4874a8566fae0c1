"""What the errors of layers cost, measured on calibration data, before any is compressed and layer after layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from edgecc import ir
from edgecc.calibration import moments as mo
from edgecc.calibration.onward import onward
from edgecc.calibration.pairs import pairs_in_turn
from edgecc.errors import UsageError
from edgecc.passes._factors import Site
from edgecc.passes._low_rank import Metric, Option, Weighed, weigh
from edgecc.pipeline import Pass, PassContext

# Columns of data for each input that a layer sums: with fewer the moments say more about the data than about the
# network (dnn_l: 1 for each 10.4 dB, 4 for each 11.0 dB).
_COLUMNS_EACH = 4
# How often Relus are open is known after a few.
_GATE_SAMPLES = 64


@dataclass(frozen=True, kw_only=True)
class WeighingPass(Pass):
    """A pass that fits layers to data. Its options mean in every such pass what split_gemm says of them."""

    weighted: bool = True
    onward: bool = True
    sequential: bool = True
    precision: Literal["int8", "fp32"] = "int8"
    damping: float = 0.1
    columns: int = 49
    samples: int = 2000


@dataclass(frozen=True)
class Weighing:
    """One run of a pass.

    Attributes:
        options, ctx: of the pass.
        grams: importance of the outputs' errors in the network as it was, by the sites' index.
    """

    options: WeighingPass
    ctx: PassContext
    grams: dict[int, ir.Array] = field(default_factory=dict)

    def weighed(self, model: ir.Model, found: Sequence[Site]) -> dict[int, Weighed]:
        """The layers in the network as it is, by the sites' index.

        Raises:
            UsageError: there are no data.
        """
        if not self.options.weighted:
            return {s.index: weigh(s.rows, Metric.plain(s.rows.shape[1])) for s in found}
        if self.ctx.data is None:
            raise UsageError(
                "weighting by what layers read needs calibration data",
                remedy="give --data, or the option weighted=false",
            )
        if self.options.onward:
            grams = onward(model, mo.spread(self.ctx.data, _GATE_SAMPLES))
            for site in found:
                gram = grams.get(site.layer.out)
                if gram is not None and gram.axis == site.layer.axis:
                    self.grams[site.index] = gram.matrix
        by_node = {s.node: s for s in found}
        collected = mo.collect_moments(
            model,
            self._samples(found),
            list(by_node),
            columns=self.options.columns,
            seed=self.ctx.seed,
            threads=1,
        )
        made = {}
        for node, moments in collected:
            second, mean = moments.second[0], moments.mean[0]
            made[by_node[node].index] = self._weigh(by_node[node], moments.count, second, second, mean, mean)
        return made

    def in_turn(
        self, model: ir.Model, chosen: Sequence[tuple[Site, Option]], weighed: Mapping[int, Weighed]
    ) -> Iterator[tuple[Site, Option, Weighed]]:
        """The layers in order, each in the network with those before it replaced, as whoever iterates does."""
        again = self.options.weighted and self.options.sequential and len(chosen) > 1
        original = model.clone() if again else model
        before = list(original.graph)
        data = self._samples([s for s, _ in chosen]) if again else ()
        for site, option in chosen[:1] if again else chosen:
            yield site, option, weighed[site.index]
        if not again:
            return
        pairs = [(site.node, before[site.index]) for site, _ in chosen[1:]]
        columns, seed = self.options.columns, self.ctx.seed
        measured = pairs_in_turn(model, original, data, pairs, columns=columns, seed=seed)
        for (site, option), (_, found) in zip(chosen[1:], measured, strict=True):
            means = (found.mean[0], found.mean_before[0])
            yield site, option, self._weigh(site, found.count, found.second[0], found.cross[0], *means)

    def _weigh(self, site: Site, count: int, *moments: ir.Array) -> Weighed:
        # By chance alone moments of n inputs, seen `count` times, are off by about n / count.
        damping = self.options.damping + site.rows.shape[1] / max(count, 1)
        metric = Metric.measured(*moments, damping=damping, centred=site.centred)
        return weigh(site.rows, metric, self.grams.get(site.index), site.places)

    def _samples(self, found: Sequence[Site]) -> Iterable[Mapping[str, ir.Array]]:
        most = self.options.columns
        need = max(-(-_COLUMNS_EACH * s.rows.shape[1] // min(s.places, most)) for s in found)
        return mo.spread(self.ctx.data, min(max(need, _GATE_SAMPLES), self.options.samples))


def given_one(step: Pass, **shares: float | None) -> None:
    """Checks that one of the options that say how far a pass goes is given, and is above 0.

    Args:
        step: the pass.
        **shares: the options and the most that each may be (None: anything).

    Raises:
        UsageError: none or several are given, or one is out of range.
    """
    given = {name: value for name in shares if (value := getattr(step, name)) is not None}
    if len(given) != 1:
        names = list(shares)
        raise UsageError(
            f"{len(given) or 'none'} of {', '.join(names[:-1])} and {names[-1]} are given, but one is wanted",
            node=step.name,
            remedy=f"for example --pass {step.name}:ratio=0.5",
        )
    (name, value), *_ = given.items()
    most = shares[name]
    if value <= 0 or (most is not None and value > most):
        raise UsageError(
            f"{name}={value} is not above 0" + ("" if most is None else f" and at most {most:g}"),
            node=step.name,
        )
