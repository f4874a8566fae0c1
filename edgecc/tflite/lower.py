"""The driver: sites in, artifact out, every node that cannot be served listed at once before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from edgecc import __version__, ir
from edgecc.analysis.layout import Layout, channels_last, choose_layout, identity
from edgecc.analysis.qdq import PORTS
from edgecc.analysis.sites import SiteGraph, site_graph
from edgecc.artifact import Artifact, Port
from edgecc.errors import Finding, ModelError, UnsupportedError
from edgecc.input_shapes import binding
from edgecc.quant.params import QuantParams
from edgecc.tflite.builder import Builder, Transposition, Unservable, is_batched
from edgecc.tflite.graph import Graph
from edgecc.tflite.half import is_finer, rounded
from edgecc.tflite.kernels import MICRO, runtime_id
from edgecc.tflite.legality import lacking
from edgecc.tflite.order import order_operators
from edgecc.tflite.place import Placed, lower_sites, lowerings
from edgecc.tflite.sparse import store_sparse
from edgecc.tflite.weights import remarks

IoLayout = Literal["auto", "onnx", "nhwc"]
IoDtype = Literal["float32", "int8", "uint8", "int16"]


@dataclass(frozen=True)
class Lowered:
    """A TFLite graph that could be written.

    Attributes:
        graph: its constants are the model's own arrays wherever they need not be rearranged.
        inputs, outputs: how the ports of the ONNX model are stored.
        layouts: for each tensor that holds an ONNX value in another order, the order of its axes.
        notes: see `Artifact`.
    """

    graph: Graph
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    layouts: Mapping[str, list[int]]
    notes: Mapping[str, Any]


def lower(
    model: ir.Model,
    *,
    precision: str,
    target: str,
    io_layout: IoLayout = "auto",
    io_dtype: IoDtype = "float32",
    runtime: str = "litert",
) -> Artifact:
    """Lowers a graph, with or without Q/DQ nodes, to the bytes of a .tflite file.

    Args:
        model: with static shapes but for the batch.
        precision, target: recorded in the artifact.
        io_layout, io_dtype: see `lower_graph`.
        runtime: that the target names; recorded unless it is LiteRT.

    Raises:
        UnsupportedError: naming every node that has no lowering; or the file would exceed 2 GB.
    """
    from edgecc.tflite.metadata import NAME as METADATA
    from edgecc.tflite.metadata import model_metadata
    from edgecc.tflite.writer import write

    lowered = lower_graph(model, io_layout=io_layout, io_dtype=io_dtype, runtime=runtime)
    reordered = order_operators(lowered.graph) if runtime_id(runtime) == MICRO else None
    notes = lowered.notes if reordered is None else {**lowered.notes, "reordered": reordered}
    metadata = {
        "version": __version__,
        "target": target,
        "precision": precision,
        "inputs": [asdict(p) for p in lowered.inputs],
        "outputs": [asdict(p) for p in lowered.outputs],
        "layouts": lowered.layouts,
    }
    if (name := runtime_id(runtime)) != "litert":
        metadata["runtime"] = name
    description = f"edgecc {__version__}, {precision} for {target}"
    standard = model_metadata(
        name=model.graph.name or "model", description="compiled from an ONNX model", version=__version__,
        inputs=lowered.inputs, outputs=lowered.outputs,
    )  # fmt: skip
    data = write(lowered.graph, description=description, metadata=metadata, more={METADATA: standard})
    return Artifact(data, "tflite", precision, target, lowered.inputs, lowered.outputs, notes)


def lower_graph(
    model: ir.Model,
    *,
    io_layout: IoLayout = "auto",
    io_dtype: IoDtype = "float32",
    runtime: str = "litert",
) -> Lowered:
    """Lowers a graph, with or without Q/DQ nodes, as far as all can be known of the file: nothing is written.

    Args:
        model: with static shapes but for the batch.
        io_layout: see `choose_layout`.
        io_dtype: type of inputs and outputs that the network takes quantized.
        runtime: whose kernels must serve every operator: see edgecc/tflite/kernels.py.

    Raises:
        UnsupportedError: naming every node that has no lowering.
    """
    sites = site_graph(model)
    layout = _layout(sites, io_layout)
    builder = Builder(sites, layout, runtime)
    inputs, findings = _inputs(builder, io_dtype)
    placed, refused = lower_sites(builder)
    if findings or refused:
        unserved = [*findings, *refused]
        remedy = binding(model) if any("--input-shape" in f.remedy for f in unserved) else None
        raise UnsupportedError("these nodes cannot be written as TFLite", unserved, remedy=remedy)
    try:
        outputs = _outputs(builder, sites, layout, io_layout, io_dtype)
    except Unservable as error:
        found = Finding(builder.at, "output", error.reason, error.remedy)
        raise UnsupportedError("this output cannot be written as TFLite", [found]) from error
    return _lowered(builder, inputs, outputs, placed)


def _layout(sites: SiteGraph, io_layout: IoLayout) -> Layout:
    """As `choose_layout`.

    Raises:
        ModelError: axes that an operator names are not there.
    """
    try:
        return choose_layout(sites, io_layout)
    except (LookupError, TypeError, ValueError) as error:
        raise ModelError(
            f"axes or shapes of its operators do not fit each other: {type(error).__name__} {error}",
            remedy="check that the network runs in ONNX Runtime; if it does, report this",
        ) from error


def survey(
    model: ir.Model, *, runtime: str = "litert", io_dtype: IoDtype = "float32"
) -> tuple[tuple[Placed, ...], tuple[Finding, ...]]:
    """What each node of a graph becomes, and which nodes and inputs no kernel serves; nothing is raised for these.

    Args:
        model, runtime, io_dtype: as for `lower_graph`.
    """
    sites = site_graph(model)
    builder = Builder(sites, _layout(sites, "auto"), runtime)
    _, findings = _inputs(builder, io_dtype)
    placed, refused = lower_sites(builder)
    return tuple(placed), (*findings, *refused)


def _inputs(b: Builder, io_dtype: IoDtype) -> tuple[list[tuple[int, Port]], list[Finding]]:
    made: list[tuple[int, Port]] = []
    findings: list[Finding] = []
    for value in b.sites.inputs:
        try:
            made.append(_input(b, value, io_dtype))
        except Unservable as error:
            findings.append(Finding(str(value.name), "input", error.reason, error.remedy))
    return made, findings


def _conversions(graph: Graph) -> int:
    """How many operators inside the network only turn one way of storing activations into another."""
    ports = {*graph.inputs, *graph.outputs}
    return sum(
        op.code in ("QUANTIZE", "DEQUANTIZE")
        and not ports.intersection((*op.inputs, *op.outputs))
        and graph.tensors[op.inputs[0]].data is None
        for op in graph.operators
    )


def _input(b: Builder, value: ir.Value, io_dtype: IoDtype) -> tuple[int, Port]:
    order = b.permutation(value)
    shape = ir.static_dims(value)
    kind = str(value.dtype).lower()
    raw = kind in PORTS  # the network takes integers: only their scale is added
    quant = _port_quant(b.sites.input_quant.get(value), kind if raw else io_dtype)  # type: ignore[arg-type]
    index = b.tensor(
        str(value.name), [shape[a] for a in order], b.dtype(value) if quant is None else quant.dtype,
        quant=quant, batched=is_batched(value),
    )  # fmt: skip
    b.store_input(value, index)
    return index, _port(b, str(value.name), index, value, order, raw=raw)


def _port_quant(quant: QuantParams | None, io_dtype: IoDtype) -> QuantParams | None:
    """How a port stores integers; uint8 is int8 with its zero point moved by 128."""
    stored = "int16" if io_dtype == "int16" else "int8"
    if io_dtype == "float32" or quant is None or quant.dtype != stored:
        return None
    return quant.as_unsigned() if io_dtype == "uint8" else quant


def _outputs(
    b: Builder, sites: SiteGraph, layout: Layout, io_layout: IoLayout, io_dtype: IoDtype
) -> list[tuple[int, Port]]:
    found: list[tuple[int, Port]] = []
    for name, operand in sites.outputs:
        b.finish(name)
        order = b.permutation(operand.value)
        last = channels_last(len(order))
        if io_layout == "nhwc":
            order = last
        elif io_layout == "onnx" or order != last:
            order = identity(operand.value)
        raw = sites.stored_outputs.get(name)
        quant = _port_quant(operand.quant, raw or io_dtype)  # type: ignore[arg-type]
        b.quantized = quant is not None
        index = b.read(replace(operand, quant=quant or operand.quant), order)
        if quant is None and is_finer(operand.value):
            index = rounded(b, index, operand.value.dtype)
        index = _named(b, index, name, [i for i, _ in found])
        found.append((index, _port(b, name, index, operand.value, order, raw=raw is not None)))
    return found


def _named(b: Builder, index: int, name: str, taken: list[int]) -> int:
    """The output tensor under its ONNX name; a copy where the tensor is an input, a constant or an output already."""
    tensor = b.graph.tensors[index]
    made = any(index in op.outputs for op in b.graph.operators)
    if tensor.name == name and index not in taken and made:
        return index
    if made and index not in taken:
        clash = next((t for t in b.graph.tensors if t.name == name), None)
        if clash is not None:
            clash.name = f"{name}_stored"
        tensor.name = name
        return index
    copy = b.tensor(name, tensor.shape, tensor.dtype, quant=tensor.quant, batched=tensor.batched)
    return b.reshape(index, copy)


def _port(
    b: Builder, name: str, index: int, value: ir.Value, order: tuple[int, ...], *, raw: bool = False
) -> Port:
    """What is fed or read under a name; `raw`: the stored integers themselves."""
    tensor = b.graph.tensors[index]
    batch = (-1,) if tensor.batched else tensor.shape[:1]
    onnx_shape = ir.static_dims(value)
    return Port(
        name,
        (-1, *onnx_shape[1:]) if tensor.batched else onnx_shape,
        (*batch, *tensor.shape[1:]),
        tensor.dtype,
        None if order == tuple(range(len(order))) else order,
        None if raw or tensor.quant is None else float(tensor.quant.scale[0]),
        None if raw or tensor.quant is None else int(tensor.quant.zero_point[0]),
    )


def _drop_unread(b: Builder) -> list[Transposition]:
    """Removes operators whose results nobody reads and renumbers the tensors that are left.

    Returns:
        The transposes that remain.
    """
    graph = b.graph
    alive = set(graph.outputs)
    kept = []
    for op in reversed(graph.operators):
        if alive.intersection(op.outputs):
            kept.append(op)
            alive.update(i for i in op.inputs if i >= 0)
    graph.operators = kept[::-1]
    remaining = b.transpositions
    used = alive | set(graph.inputs) | {i for op in graph.operators for i in op.outputs}
    order = [i for i in range(len(graph.tensors)) if i in used]
    number = {old: new for new, old in enumerate(order)} | {-1: -1}
    graph.tensors = [graph.tensors[i] for i in order]
    for op in graph.operators:
        op.inputs, op.outputs = tuple(number[i] for i in op.inputs), tuple(number[i] for i in op.outputs)
    graph.inputs, graph.outputs = [number[i] for i in graph.inputs], [number[i] for i in graph.outputs]
    return remaining


def _lowered(
    b: Builder, inputs: list[tuple[int, Port]], outputs: list[tuple[int, Port]], placed: list[Placed]
) -> Lowered:
    graph = b.graph
    graph.inputs, graph.input_names = [i for i, _ in inputs], [p.name for _, p in inputs]
    graph.outputs, graph.output_names = [i for i, _ in outputs], [p.name for _, p in outputs]
    transposes = _drop_unread(b)
    store_sparse(graph, b.wanted)
    names = {t.name for t in graph.tensors}
    layouts = {
        str(value.name): list(order)
        for value, order in b.layout.orders.items()
        if isinstance(order, tuple) and order != tuple(range(len(order))) and value.name in names
    }
    notes = {
        "operators": graph.histogram(),
        "not_in_tflite_runtime_2_14": lacking(graph, "tflite-runtime-2.14"),
        "transposes": [asdict(t) for t in transposes],
        "float_islands": [
            {"node": p.node, "op_type": p.op_type, "reason": p.reason} for p in placed if p.reason
        ],
        "conversions": _conversions(graph),
        "remarks": remarks(graph),
    }
    ports = tuple(p for _, p in inputs), tuple(p for _, p in outputs)
    return Lowered(graph, *ports, dict(sorted(layouts.items())), notes)


__all__ = ["Lowered", "Placed", "Transposition", "lower", "lower_graph", "lowerings", "survey"]
