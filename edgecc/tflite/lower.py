"""The driver: sites in, artifact out, every node that cannot be served listed at once before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from typing import Any, Literal

from edgecc import __version__, ir, registry
from edgecc.analysis.layout import Layout, channels_last, choose_layout, identity
from edgecc.analysis.qdq import PORTS
from edgecc.analysis.refusals import reason_and_remedy
from edgecc.analysis.sites import FLOAT_MARK, Site, SiteGraph, site_graph
from edgecc.artifact import Artifact, Port
from edgecc.errors import Finding, UnsupportedError
from edgecc.quant.params import QuantParams
from edgecc.tflite import LOWERINGS, Lowering
from edgecc.tflite.builder import Builder, NeedsFloat, NotMade, Transposition, Unservable, is_batched
from edgecc.tflite.graph import Graph
from edgecc.tflite.half import is_finer, rounded
from edgecc.tflite.kernels import runtime_id
from edgecc.tflite.versions import missing_in_2_14
from edgecc.tflite.weights import remarks

_FAMILIES = (
    "conv", "gemm", "pool", "elementwise", "shape", "reduce", "resize", "index", "scan", "math", "logic",
    "spatial", "windows", "product", "linear", "sample", "quantized", "qdq", "cast", "norm",
)  # fmt: skip

IoLayout = Literal["auto", "onnx", "nhwc"]
IoDtype = Literal["float32", "int8", "uint8", "int16"]


def lowerings() -> dict[str, Lowering]:
    """Every lowering by ONNX operator, those of other packages included."""
    for family in _FAMILIES:
        import_module(f"edgecc.tflite.lower_{family}")
    registry.load_lowerings()
    return LOWERINGS


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

    lowered = lower_graph(model, io_layout=io_layout, io_dtype=io_dtype)
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
        name=model.graph.name or "model", description=description, version=__version__,
        inputs=lowered.inputs, outputs=lowered.outputs,
    )  # fmt: skip
    data = write(lowered.graph, description=description, metadata=metadata, more={METADATA: standard})
    return Artifact(data, "tflite", precision, target, lowered.inputs, lowered.outputs, lowered.notes)


def lower_graph(model: ir.Model, *, io_layout: IoLayout = "auto", io_dtype: IoDtype = "float32") -> Lowered:
    """Lowers a graph, with or without Q/DQ nodes, as far as all can be known of the file: nothing is written.

    Args:
        model: with static shapes but for the batch.
        io_layout: see `choose_layout`.
        io_dtype: type of inputs and outputs that the network takes quantized.

    Raises:
        UnsupportedError: naming every node that has no lowering.
    """
    sites = site_graph(model)
    layout = choose_layout(sites, io_layout)
    builder = Builder(sites, layout)
    table, findings, islands = lowerings(), [], []
    inputs = []
    for value in sites.inputs:
        try:
            inputs.append(_input(builder, value, io_dtype))
        except Unservable as error:
            findings.append(Finding(str(value.name), "input", error.reason, error.remedy))
    for site in sites.sites:
        try:
            if not _lower_site(builder, site, table) or FLOAT_MARK in site.node.metadata_props:
                islands.append(site)
        except Unservable as error:
            if not isinstance(error, NotMade) or not findings:
                findings.append(Finding(site.name, site.op_type, error.reason, error.remedy))
            _pretend(builder, site)
    if findings:
        raise UnsupportedError("these nodes cannot be written as TFLite", findings)
    try:
        outputs = _outputs(builder, sites, layout, io_layout, io_dtype)
    except Unservable as error:
        found = Finding(builder.at, "output", error.reason, error.remedy)
        raise UnsupportedError("this output cannot be written as TFLite", [found]) from error
    return _lowered(builder, inputs, outputs, islands)


def _lower_site(b: Builder, site: Site, table: dict[str, Lowering]) -> bool:
    """Lowers one site; False where a quantized site had to be lowered on real values."""
    lowering = table.get(site.op_type)
    if lowering is None:
        raise Unservable(*reason_and_remedy(site.node))
    if any(not ir.is_static(r.value) for r in site.outputs if r.value.name):
        raise NotMade("its output shape is not known when compiling", "bind it with --input-shape")
    unknown = [
        o.value.name for o in site.inputs if o is not None and o.array is None and not ir.is_static(o.value)
    ]
    if unknown:
        raise NotMade(
            f"the shape of its input {unknown[0]!r} is not known when compiling", "bind it with --input-shape"
        )
    before = len(b.graph.tensors), len(b.graph.operators)
    for unsigned in (False, True) if site.quantized and lowering.int8 else ():
        if unsigned and not _has_zero_point(site):
            break
        try:
            b.begin(site, quantized=True, unsigned=unsigned)
            lowering.function(site, b)
            return True
        except NeedsFloat:
            b.forget(*before)
    b.begin(site, quantized=False)
    lowering.function(site, b)
    return not site.quantized


_UNSIGNED = frozenset({"Conv", "Gemm", "MatMul"})  # whose kernels on uint8 take weights with a zero point


def _has_zero_point(site: Site) -> bool:
    """Whether its weights have a zero point."""
    weight = site.inputs[1] if site.op_type in _UNSIGNED else None
    if weight is None or weight.array is None or weight.quant is None:
        return False
    return not weight.quant.symmetric


def _lacking(site: Site) -> str:
    """Why a quantized site works on real values."""
    kinds = [o.quant.dtype for o in site.inputs if o is not None and o.quant is not None and o.array is None]
    return f"TFLite has no {kinds[0] if kinds else 'int8'} kernel for it"


def _conversions(graph: Graph) -> int:
    """How many operators inside the network only turn one way of storing activations into another."""
    ports = {*graph.inputs, *graph.outputs}
    return sum(
        op.code in ("QUANTIZE", "DEQUANTIZE")
        and not ports.intersection((*op.inputs, *op.outputs))
        and graph.tensors[op.inputs[0]].data is None
        for op in graph.operators
    )


def _pretend(b: Builder, site: Site) -> None:
    """Gives the results of a node that cannot be served a tensor, so that the rest can be checked too."""
    b.begin(site, quantized=False)
    for position, result in enumerate(site.outputs):
        if ir.dims(result.value) is not None and ir.is_static(result.value):
            with suppress(Unservable):
                b.output(position)


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
    b: Builder, inputs: list[tuple[int, Port]], outputs: list[tuple[int, Port]], islands: list[Site]
) -> Lowered:
    graph = b.graph
    graph.inputs, graph.input_names = [i for i, _ in inputs], [p.name for _, p in inputs]
    graph.outputs, graph.output_names = [i for i, _ in outputs], [p.name for _, p in outputs]
    transposes = _drop_unread(b)
    names = {t.name for t in graph.tensors}
    layouts = {
        str(value.name): list(order)
        for value, order in b.layout.orders.items()
        if isinstance(order, tuple) and order != tuple(range(len(order))) and value.name in names
    }
    notes = {
        "operators": graph.histogram(),
        "not_in_tflite_runtime_2_14": missing_in_2_14(graph),
        "transposes": [asdict(t) for t in transposes],
        "float_islands": [
            {
                "node": s.name,
                "op_type": s.op_type,
                "reason": s.node.metadata_props.get(FLOAT_MARK) or _lacking(s),
            }
            for s in islands
        ],
        "conversions": _conversions(graph),
        "remarks": remarks(graph),
    }
    ports = tuple(p for _, p in inputs), tuple(p for _, p in outputs)
    return Lowered(graph, *ports, dict(sorted(layouts.items())), notes)


__all__ = ["Lowered", "Transposition", "lower", "lower_graph", "lowerings"]
