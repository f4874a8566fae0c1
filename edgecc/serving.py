"""What a target makes of each node of a network in each precision, without data and without writing anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgecc import ir
from edgecc.errors import EdgeccError, Finding
from edgecc.options import IoDtype
from edgecc.pipeline import PassContext, Pipeline
from edgecc.presets import quantized_passes
from edgecc.resolve import QUANTIZED
from edgecc.target import Target

if TYPE_CHECKING:
    from edgecc.quant.plan import QuantPlan


@dataclass(frozen=True)
class NodeServing:
    """How one node runs.

    Attributes:
        node, op_type: after the target's passes.
        operators: of the artifact; empty where they are not known (ONNX Runtime chooses its kernels itself).
        stored: how these hold their data, in words.
        reason: why it works on real values although the precision is an integer one; empty where it does not.
    """

    node: str
    op_type: str
    operators: tuple[str, ...]
    stored: tuple[str, ...]
    reason: str = ""


@dataclass(frozen=True)
class Serving:
    """What a target makes of a network in one format and precision.

    Attributes:
        operators: of the artifact, and how often each occurs, constants left to fold and unread ones included.
        nodes: those that run, and how.
        findings: those that cannot run, and why.
        on_cpu: operators of the artifact that the target's NPU leaves to the CPU beside it, and why.
    """

    target: str
    format: str
    precision: str
    operators: Mapping[str, int]
    nodes: tuple[NodeServing, ...]
    findings: tuple[Finding, ...]
    on_cpu: tuple[Finding, ...] = ()


def servings(floats: ir.Model, device: Target) -> Iterable[Serving]:
    """Every format and precision of a target but the mixed one, which is chosen on data.

    Args:
        floats: after the target's passes.
        device: the target.
    """
    for form in device.formats:
        for precision in device.precisions:
            if precision == "mixed" or form not in device.only_as.get(precision, (form,)):
                continue
            yield serving(floats, device, form, precision)
            ir.release(floats)


def serving(floats: ir.Model, device: Target, form: str, precision: str) -> Serving:
    """One format and precision. Scales are made up, as if every value lay between -1 and 1: real ones may differ."""
    try:
        if form == "onnx":
            nodes = _in_onnx_runtime(floats, device, precision)
            return Serving(device.name, form, precision, _counts(n.op_type for n in nodes), nodes, ())
        from edgecc.tflite.lower import survey

        runtime = device.runtimes.get("tflite", "LiteRT")
        written = _written(floats, device, precision)
        placed, findings = survey(written, runtime=runtime, io_dtype=_ports(device, precision))
        on_cpu = () if findings else _on_cpu(written, device, precision)
    except EdgeccError as error:
        found = getattr(error, "findings", ()) or (Finding("all", "-", error.message, error.remedy or ""),)
        return Serving(device.name, form, precision, {}, (), tuple(found))
    counts = _counts(code for p in placed for code in p.operators)
    nodes = tuple(NodeServing(p.node, p.op_type, p.operators, p.stored, p.reason) for p in placed)
    return Serving(device.name, form, precision, counts, nodes, findings, on_cpu)


def _written(floats: ir.Model, device: Target, precision: str) -> ir.Model:
    """The graph with the precision in it, as `compile` makes it."""
    plan = _plan(floats, device, precision, "tflite") if precision in QUANTIZED else None
    passes = Pipeline(quantized_passes(precision, _ports(device, precision), planned=plan is not None))
    return passes.run(floats, PassContext(target=device, plan=plan, check=False))[0]


def _ports(device: Target, precision: str) -> IoDtype:
    """The type of inputs and outputs that are quantized."""
    return device.io_dtype if precision in QUANTIZED else "float32"


def _on_cpu(written: ir.Model, device: Target, precision: str) -> tuple[Finding, ...]:
    """What the NPU does not take of the artifact; empty where the target has none."""
    if device.vela is None:
        return ()
    from edgecc.tflite.lower import lower
    from edgecc.tflite.npu import left_to_cpu

    artifact = lower(
        written, precision=precision, target=device.name, io_dtype=_ports(device, precision),
        runtime=device.runtimes.get("tflite", "LiteRT"),
    )  # fmt: skip
    return left_to_cpu(artifact.data, device.vela.accelerator_config)


def _plan(floats: ir.Model, device: Target, precision: str, form: str) -> QuantPlan:
    from edgecc.calibration.observers import Statistics
    from edgecc.quant.plan import make_plan

    values = [*floats.graph.inputs, *(out for node in floats.graph for out in node.outputs)]
    ranges = {str(v.name): (-1.0, 1.0) for v in values if v.dtype == ir.DataType.FLOAT}
    plan = make_plan(
        floats,
        Statistics(ranges=ranges, samples=0),
        precision=precision,  # type: ignore[arg-type]
        per_channel=device.per_channel,
    )
    return plan.for_runtime(form, floats, device)  # type: ignore[arg-type]


def _in_onnx_runtime(floats: ir.Model, device: Target, precision: str) -> tuple[NodeServing, ...]:
    """Which nodes have integer kernels, by the rules; ONNX Runtime runs all others in float."""
    kept: Mapping[str, str] = {}
    if precision in QUANTIZED:
        from edgecc.quant.units import integer_units

        plan = _plan(floats, device, precision, "onnx")
        _, reasons = integer_units(floats, "onnx", plan)
        kept = {**reasons, **plan.kept_float}
    stored = device.activation_dtype if precision in QUANTIZED else "float32"
    return tuple(
        NodeServing(
            ir.label(node), node.op_type, (), ("float32" if ir.label(node) in kept else stored,),
            kept.get(ir.label(node), ""),
        )
        for node in floats.graph
    )  # fmt: skip


def _counts(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items(), key=lambda item: (-item[1], item[0])))
