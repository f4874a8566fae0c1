"""The cheapest precisions that answer faithfully enough: a minimum cut of costs and noise, its price found by trials.

Cost and noise of an assignment are weighed as cost + price * noise. What is best at some price is the lower hull of all
assignments; trials on data tell which of them is faithful enough, and the last steps between two of the hull are
taken unit by unit. Costs are cycles of the target, or bytes where all that is chosen is the width of weights.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from edgecc import ir
from edgecc.analysis.cost import cycles
from edgecc.analysis.two_labels import TwoLabels
from edgecc.quant import NodePrecision, rules
from edgecc.quant.islands import DEARER, FLOAT, INTEGER, cut_problem, reasoned
from edgecc.quant.params import QuantParams
from edgecc.quant.sensitivity import Source
from edgecc.quant.units import REAL, integer_units, unit_outputs

if TYPE_CHECKING:
    from edgecc.quant.plan import QuantPlan
    from edgecc.target import CostSpec

NOISY = "in int8 it would err more than the limits on the answers leave room for"
_QUIET = ("quiet",)
# Wider precision -> what errs in it still: weights (True), or activations (False). Else nothing does.
_ERRS = {"int16x8": True, "int8": False}
# Assignments whose noise differs by less (0.2 dB) have none looked for between them.
_NEAR = 1.05


@dataclass(frozen=True)
class Assignment:
    """Which units are raised to a wider precision.

    Attributes:
        raised: in the order of the graph.
        cost: of the whole: cycles, as the target's numbers say, or bytes of weights.
        noise: predicted power at the outputs, as a share of theirs, weighted by output.
        worst: that of the output with most.
    """

    raised: tuple[ir.Node, ...]
    cost: float
    noise: float
    worst: float


@dataclass(frozen=True)
class Choice:
    """The problem of choosing precisions.

    What is kept small is the sum of noise over the outputs, in which those that err most count most.

    Attributes:
        model: the float network.
        plan: everything in integers but what is pinned.
        sources: of noise.
        problem: costs of units: label 0 is raised, 1 is the plan's.
        wider: what each unit becomes when it is raised.
        units: operators with an integer kernel.
        pinned: units that keep their precision.
        tensors: parameters of weights that are others when their unit is raised, by name.
    """

    model: ir.Model
    plan: QuantPlan
    sources: Sequence[Source]
    problem: TwoLabels = field(repr=False)
    wider: Mapping[ir.Node, NodePrecision]
    units: tuple[ir.Node, ...]
    pinned: frozenset[ir.Node] = frozenset()
    tensors: Mapping[str, QuantParams] = field(default_factory=dict, repr=False)
    _weights: ir.Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        everything = np.sum([s.noise for s in self.sources], axis=0) if self.sources else np.zeros(1)
        object.__setattr__(self, "_weights", everything / max(everything.max(), 1e-30))

    def shares(self) -> list[tuple[str, float]]:
        """The value at which noise enters, and its share of all, for each source when everything is in integers."""
        noise = [float(np.dot(s.noise, self._weights)) for s in self.sources]
        return [(s.name, n / max(sum(noise), 1e-30)) for s, n in zip(self.sources, noise, strict=True)]

    def assignment(self, raised: Collection[ir.Node]) -> Assignment:
        """What raising these units comes to."""
        chosen = set(raised)
        labels = {v: self.problem.pins.get(v, INTEGER) for v in self.problem.costs}
        labels.update(dict.fromkeys(chosen, FLOAT))
        noise = np.zeros(len(self._weights))
        for source in self.sources:
            if any(self._noisy(source, node, node in chosen) for node in source.nodes):
                noise += source.noise
        ordered = tuple(n for n in self.units if n in chosen)
        return Assignment(
            ordered, self.problem.total(labels), float(noise @ self._weights), float(noise.max())
        )

    def at(self, price: float) -> Assignment:
        """The assignment of least cost + price * noise."""
        weighed = TwoLabels(dict(self.problem.costs), dict(self.problem.pins), list(self.problem.values))
        weighed.pin(_QUIET, FLOAT)
        for source in self.sources:
            paid = price * float(np.dot(source.noise, self._weights))
            always = [n for n in source.nodes if n in self.pinned or self._noisy(source, n, True)]
            if always:
                continue  # nothing that can be chosen takes it away
            if len(source.nodes) == 1:
                raised, integer = weighed.costs[source.nodes[0]]
                weighed.costs[source.nodes[0]] = (raised, integer + paid)
            else:  # paid once, whichever of the units is in integers
                weighed.value(_QUIET, source.nodes, paid)
        labels = weighed.solve()
        return self.assignment([n for n in self.units if labels[n] == FLOAT and n not in self.pinned])

    def hull(self) -> list[Assignment]:
        """The best assignments at all prices, the cheapest (and noisiest) first.

        Two neighbours on the hull cost the same at one price; where nothing costs less at it, none lies between
        (Eisner and Severance 1976).
        """
        cheapest = self.at(0.0)
        quietest = self.assignment(self.free)
        found = {cheapest.raised: cheapest, quietest.raised: quietest}
        pending = [(cheapest, quietest)]
        while pending:
            a, b = pending.pop()
            if a.noise <= _NEAR * b.noise or b.cost <= a.cost:
                continue
            price = (b.cost - a.cost) / (a.noise - b.noise)
            middle = self.at(price)
            weighed = a.cost + price * a.noise
            if middle.raised in found or middle.cost + price * middle.noise >= weighed * (1 - 1e-9):
                continue
            found[middle.raised] = middle
            pending += [(a, middle), (middle, b)]
        return sorted(found.values(), key=lambda x: (x.cost, x.noise))

    def between(self, cheap: Assignment, dear: Assignment) -> list[Assignment]:
        """Steps from a cheap assignment to a dear one, unit by unit: what saves most for its noise goes last."""
        kept = set(cheap.raised)
        steps = [dear]
        while left := [n for n in steps[-1].raised if n not in kept]:
            now = steps[-1]
            tried = [self.assignment([n for n in now.raised if n is not node]) for node in left]
            steps.append(max(tried, key=lambda t: (now.cost - t.cost) / max(t.noise - now.noise, 1e-30)))
        useful: list[Assignment] = []
        for step in sorted(steps, key=lambda s: (s.noise, s.cost)):  # none that is noisier and dearer
            if not useful or step.cost < useful[-1].cost:
                useful.append(step)
        return useful[::-1]

    def planned(self, chosen: Assignment) -> QuantPlan:
        """The plan with these precisions, and the reasons of nodes that are real then."""
        raised = set(chosen.raised)
        precisions = {n: self.wider[n] if n in raised else self.plan.precision_of(n) for n in self.units}
        cheaper = set(self.at(0.0).raised)
        real = [node for node in chosen.raised if precisions[node] in REAL]
        reasons = {**self.plan.kept_float, **reasoned([n for n in real if n in cheaper], DEARER)}
        reasons |= reasoned([n for n in real if n not in cheaper], NOISY)
        labelled: dict[str, NodePrecision] = {ir.label(n): p for n, p in precisions.items()}
        weights = {str(w.name) for n in raised if (w := rules.weight_of(n)) is not None}
        stored = {name: params for name, params in self.tensors.items() if name in weights}
        return replace(
            self.plan,
            precisions={**self.plan.precisions, **labelled},
            kept_float=reasons,
            tensors={**self.plan.tensors, **stored},
        )

    @property
    def free(self) -> tuple[ir.Node, ...]:
        """The units that have a choice."""
        return tuple(n for n in self.units if n not in self.pinned)

    def _noisy(self, source: Source, node: ir.Node, raised: bool) -> bool:
        """Whether a unit brings noise: int16 activations have no steps to speak of, but int8 weights."""
        return not raised or _ERRS.get(self.wider[node]) is source.weights


def choices(
    model: ir.Model,
    plan: QuantPlan,
    sources: Sequence[Source],
    rates: CostSpec,
    *,
    runtime: rules.Runtime,
    ports: bool = False,
) -> list[Choice]:
    """The problem with float as the wider precision, and with int16x8 where that takes less time, if it does anywhere.

    Args:
        model: the float network.
        plan: in which nodes that are to keep their precision have one.
        sources: of noise, of the units of this runtime.
        rates: of the target.
        runtime: whose kernels are meant.
        ports: whether inputs and outputs of the network are integers.
    """
    units = tuple(integer_units(model, runtime, plan)[0])
    pinned = frozenset(n for n in units if ir.label(n) in plan.precisions)
    real: dict[ir.Node, NodePrecision] = dict.fromkeys(units, "fp32")
    wide: dict[ir.Node, NodePrecision] = {
        **real,
        **{n: "int16x8" for n in units if _wide_is_less(n, runtime, rates)},
    }
    precisions = {node: plan.precision_of(node) for node in units}
    found = []
    for wider in [real] if wide == real else [real, wide]:
        problem = cut_problem(model, units, precisions, rates, ports=INTEGER if ports else FLOAT, wider=wider)
        for node in pinned:
            problem.pin(node, INTEGER)
        found.append(Choice(model, plan, sources, problem, wider, units, pinned))
    return found


def weight_choice(
    model: ir.Model, plan: QuantPlan, wide: Mapping[str, QuantParams], sources: Sequence[Source]
) -> Choice:
    """The problem of which weights take 8 bits instead of 4: what costs is their bytes.

    Noise of int8 weights, a hundredth of that of int4 ones, is not counted.

    Args:
        model: the float network.
        plan: everything that may be in int4 is.
        wide: the int8 parameters of those weights, by name.
        sources: of noise under the plan.
    """
    owners: dict[str, ir.Node] = {}  # a matrix that several nodes read is the first one's
    problem = TwoLabels()
    for node in model.graph:
        weight = rules.weight_of(node)
        if weight is not None and weight.name in wide and str(weight.name) not in owners:
            owners[str(weight.name)] = node
            size = prod(ir.static_dims(weight))
            problem.add(node, size, (size + 1) // 2)
    owned = [replace(s, nodes=tuple(_owner(n, owners) for n in s.nodes)) for s in sources]
    units = tuple(owners.values())
    everyone = {n for s in owned for n in s.nodes}
    wider: dict[ir.Node, NodePrecision] = dict.fromkeys((*units, *everyone), "int8")
    return Choice(model, plan, owned, problem, wider, units, frozenset(everyone.difference(units)), wide)


def _owner(node: ir.Node, owners: Mapping[str, ir.Node]) -> ir.Node:
    weight = rules.weight_of(node)
    return node if weight is None else owners.get(str(weight.name), node)


def _wide_is_less(node: ir.Node, runtime: rules.Runtime, rates: CostSpec) -> bool:
    if isinstance(rules.column(node, runtime, "int16"), str):
        return False
    wide, real = (cycles(node, unit_outputs(node), p, rates) for p in ("int16x8", "fp32"))
    return wide < real
