"""How much noise each quantization alone causes at the outputs of the network, measured on data.

A unit (an operator with an integer kernel) errs in two ways: its weights are rounded, and what it writes is rounded.
Each of these errors is injected into the float network alone: the value is replaced by its quantized form, and what
follows it is run once more. Errors of different places are nearly uncorrelated, so their powers add up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from edgecc import ir
from edgecc.quant import rules
from edgecc.quant.probe import Probe
from edgecc.quant.units import integer_units, unit_outputs

if TYPE_CHECKING:
    from edgecc.quant.plan import QuantPlan

Sample = Mapping[str, ir.Array]


@dataclass(frozen=True)
class Source:
    """A place where noise enters.

    Attributes:
        name: of the value that errs.
        nodes: units any of which, computed in int8, brings this noise; one for weights.
        noise: power at each output of the network, as a share of the output's own power.
        weights: whether weights make it; else it is the rounding of an activation.
    """

    name: str
    nodes: tuple[ir.Node, ...]
    noise: tuple[float, ...]
    weights: bool


def noise_sources(
    model: ir.Model,
    plan: QuantPlan,
    dataset: Iterable[Sample],
    *,
    rounded: ir.Model | None = None,
    threads: int | None = None,
) -> list[Source]:
    """All places where noise enters when every unit is quantized as the plan says.

    Args:
        model: the float network.
        plan: specialised for a runtime.
        dataset: a handful of samples; read once for each 256 MB of values.
        rounded: the network with the weights that the units are to have, as passes round them; None: `model`'s own.
        threads: of the runtime.
    """
    assert plan.runtime is not None
    units, _ = integer_units(model, plan.runtime, plan)
    readers = _activations(model, plan, units)
    rounding = {value: plan.tensors[str(value.name)] for value in readers}
    makers = {out: node for node in units for out in unit_outputs(node) if rules.weight_of(node) is not None}
    probe = Probe(model, rounded or model, plan, makers, threads=threads)
    samples = list(dataset)
    found: list[Source] = []
    for wave in _waves(model, list(dict.fromkeys((*readers, *makers)))):
        for value, weights, noise in probe.run(wave, rounding, samples):
            nodes = (makers[value],) if weights else readers[value]
            found.append(Source(str(value.name), nodes, noise, weights))
    return found


def _activations(
    model: ir.Model, plan: QuantPlan, units: Mapping[ir.Node, rules.Column]
) -> dict[ir.Value, tuple[ir.Node, ...]]:
    """The values that are rounded, each with the units that want it rounded.

    What moves rounded values without another scale rounds nothing: who reads the result reads its source.
    """
    found: dict[ir.Value, dict[ir.Node, None]] = {}
    roots: dict[ir.Value, tuple[ir.Value, ...]] = {}
    values = [*model.graph.inputs, *(out for node in model.graph for out in node.outputs)]
    written = {out: node for node in units for out in unit_outputs(node)}
    for value in values:
        if str(value.name) not in plan.tensors or ir.constant(value) is not None:
            continue
        readers = [u.node for u in value.uses() if u.node in units and u.idx in rules.data_inputs(u.node)]
        node = written.get(value)
        wanted = [*readers, *([] if node is None else [node])]
        if not wanted:
            continue
        roots[value] = _origins(value, node, units, plan, roots)
        for root in roots[value]:
            found.setdefault(root, {}).update(dict.fromkeys(wanted))
    return {value: tuple(nodes) for value, nodes in found.items()}


def _origins(
    value: ir.Value,
    node: ir.Node | None,
    units: Mapping[ir.Node, rules.Column],
    plan: QuantPlan,
    roots: Mapping[ir.Value, tuple[ir.Value, ...]],
) -> tuple[ir.Value, ...]:
    if node is None or not rules.RULES[node.op_type].hull:
        return (value,)
    params = plan.tensors[str(value.name)]
    sources = [v for i in rules.data_inputs(node) if (v := node.inputs[i]) is not None]
    if any(v not in roots or plan.tensors.get(str(v.name)) != params for v in sources):
        return (value,)
    return tuple(dict.fromkeys(root for v in sources for root in roots[v]))


def _waves(model: ir.Model, values: Sequence[ir.Value]) -> Iterator[list[ir.Value]]:
    """Values in the order of the graph, as many at once as may be held for all samples."""
    from edgecc.calibration.moments import in_waves

    order = {out: i for i, out in enumerate(out for node in model.graph for out in node.outputs)}
    ordered = sorted(values, key=lambda v: order.get(v, -1))
    return in_waves(ordered, lambda value: prod(d or 1 for d in ir.dims(value) or ()) * 24)
