"""What is in a model, and what a target can run of it, without compiling it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from edgecc import ir
from edgecc.analysis.cost import NodeCost, node_costs, total_macs, total_parameters
from edgecc.collection import rare_collections
from edgecc.datafiles import identity
from edgecc.importer import load
from edgecc.options import CompileOptions
from edgecc.pipeline import PassContext, Pipeline
from edgecc.presets import float_passes
from edgecc.report.schema import ModelFacts, model_facts
from edgecc.report.terminal import Table
from edgecc.serving import Serving, servings
from edgecc.target import Target
from edgecc.target import target as find_target


@dataclass(frozen=True)
class Inspection:
    """The answer of `edgecc inspect`.

    Attributes:
        model: names, operators, shapes.
        macs, parameters: of one inference with batch 1.
        weight_bytes: of all constants.
        peak_activation_bytes: the most that lives at once when nodes run in order, in float32.
        costs: a row a node.
        targets: what each can run of it, in every format and precision.
    """

    model: ModelFacts
    macs: int
    parameters: int
    weight_bytes: int
    peak_activation_bytes: int | None
    costs: tuple[NodeCost, ...]
    targets: tuple[Serving, ...]


def inspect_model(
    source: str | Path,
    *,
    targets: Sequence[str] = ("arm",),
    input_shape: Mapping[str, Sequence[int]] | None = None,
) -> Inspection:
    """Reads a model and tries every format of the targets on it; nothing is written.

    Raises:
        ModelError, UsageError: the model cannot be read, or there is no such target.
    """
    with rare_collections():
        return _inspected(source, [find_target(name) for name in targets], input_shape)


def _inspected(
    source: str | Path, devices: Sequence[Target], input_shape: Mapping[str, Sequence[int]] | None
) -> Inspection:
    model = load(source, input_shape=input_shape)
    sha256, size = identity(source, model)
    return Inspection(
        model=model_facts(
            model, name=Path(source).stem, sha256=sha256, size_bytes=size, macs=total_macs(model)
        ),
        macs=total_macs(model),
        parameters=total_parameters(model),
        weight_bytes=sum(
            v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None
        ),
        peak_activation_bytes=peak_activations(model),
        costs=tuple(node_costs(model)),
        targets=tuple(
            found for device in devices for found in servings(_after_passes(model, device), device)
        ),
    )


def _after_passes(model: ir.Model, device: Target) -> ir.Model:
    passes = Pipeline(float_passes(device, CompileOptions(target=device.name)))
    return passes.run(model, PassContext(target=device, check=False))[0]


def peak_activations(model: ir.Model) -> int | None:
    """Bytes of float32 activations alive at once at most, nodes in order; None where a shape is unknown."""
    last: dict[ir.Value, int] = {}
    for position, node in enumerate(model.graph):
        for value in (*node.inputs, *node.outputs):
            if value is not None and not value.is_initializer():
                last[value] = position
    for out in model.graph.outputs:
        last[out] = model.graph.num_nodes()
    if any(not ir.is_static(v) for v in last):
        return None
    ends: dict[int, int] = {}
    alive = peak = 0
    for value in model.graph.inputs:
        size = 4 * prod(ir.static_dims(value))
        alive += size
        ends[last.get(value, 0)] = ends.get(last.get(value, 0), 0) + size
    for position, node in enumerate(model.graph):
        for value in node.outputs:
            size = 4 * prod(ir.static_dims(value))
            alive += size
            ends[last[value]] = ends.get(last[value], 0) + size
        peak = max(peak, alive)
        alive -= ends.pop(position, 0)
    return peak


def inspection_tables(found: Inspection, *, every: bool = False) -> list[Any]:
    """The tables of `edgecc inspect`; `every` lists all nodes instead of the ten that cost most."""
    facts, peak = found.model, found.peak_activation_bytes
    items: list[Any] = [
        f"{facts.name}: {found.macs:,} MACs, {found.parameters:,} parameters,"
        f" {found.weight_bytes:,} bytes of constants",
        f"activations in float32, most at once: {'unknown' if peak is None else f'{peak:,} bytes'}",
        *(f"input {name}: {'x'.join(map(str, shape))}" for name, shape in facts.inputs.items()),
        *(f"output {name}: {'x'.join(map(str, shape))}" for name, shape in facts.outputs.items()),
        Table("operators", ("operator", ">nodes"), [[k, str(v)] for k, v in facts.operators.items()]),
    ]
    costs = sorted(found.costs, key=lambda c: -c.macs)
    rows = [
        [c.name, c.op_type, f"{c.macs:,}", f"{c.parameters:,}"]
        for c in (found.costs if every else costs[:10])
    ]
    items.append(
        Table(
            "nodes" if every else "the nodes that cost most",
            ("node", "operator", ">MACs", ">parameters"),
            rows,
        )
    )
    for found_there in found.targets:
        items += _serving_items(found_there, every=every)
    return items


def _serving_items(found: Serving, *, every: bool) -> list[Any]:
    """A line for what runs, a table for what cannot, and one for what leaves the integers (`every`: for all nodes)."""
    where = f"{found.target}, {found.format} {found.precision}"
    items: list[Any] = []
    if found.findings:
        rows = [[f.node, f.op_type, f.reason] for f in found.findings]
        items.append(Table(f"{where} cannot run", ("node", "operator", "reason"), rows))
    elif found.format == "tflite":
        kinds = ", ".join(f"{n} {k}" for k, n in found.operators.items())
        items.append(f"{where} runs all of it: {kinds}")
    else:
        items.append(f"{where} runs all of it")
    if found.on_cpu:
        rows = [[f.node, f.op_type, f.reason] for f in found.on_cpu]
        title = f"{where} leaves these operators to the CPU beside the NPU"
        items.append(Table(title, ("result", "operator", "reason"), rows))
    shown = [n for n in found.nodes if every or n.reason]
    if shown:
        title = f"{where}, every node" if every else f"{where} runs these on real values"
        rows = [
            [n.node, n.op_type, ", ".join(dict.fromkeys(n.operators)), "; ".join(n.stored), n.reason]
            for n in shown
        ]
        items.append(Table(title, ("node", "operator", "kernels", "stored as", "reason"), rows))
    return items
