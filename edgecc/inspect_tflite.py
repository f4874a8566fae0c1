"""What is in a TFLite file, whoever made it, and which runtimes and targets have kernels for it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecc.analysis.cost import NodeCost
from edgecc.analysis.flat import FlatNetwork, FlatTensor
from edgecc.analysis.tflite_workload import layer_of, precision_of_graph
from edgecc.errors import EdgeccError, Finding, ModelError
from edgecc.micro import MemoryFacts, excess, file_facts, runs_in_micro
from edgecc.modelfile import read_bytes
from edgecc.report.memory import fact_lines
from edgecc.report.schema import ModelFacts
from edgecc.report.terminal import Table
from edgecc.serving import NodeServing, Serving
from edgecc.target import Target
from edgecc.target import target as find_target
from edgecc.tflite.flat import read_network
from edgecc.tflite.kernels import RUNTIMES, demanded
from edgecc.tflite.npu import left_to_cpu
from edgecc.tflite.reader import Graph, Operator, Tensor, read_graph
from edgecc.tflite.served import stored_in_words, unserved

_SHOWN, _WIDTH = 10, 48  # rows, and letters of a name
_NAMES = {"litert": "LiteRT", "tflite-runtime-2.14": "tflite-runtime 2.14", "tflite-micro": "TFLite Micro"}


@dataclass(frozen=True)
class FileOperator:
    """An operator of the file.

    Attributes:
        name: of its result.
        code, version: in the schema.
        stored: its data, and its weights if it has any, in words.
        inputs, outputs: shapes, those of constants left out.
        macs: multiply-accumulates of one inference.
        parameters, weight_bytes: elements and bytes of its constants.
    """

    name: str
    code: str
    version: int
    stored: str
    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...]
    macs: int
    parameters: int
    weight_bytes: int


@dataclass(frozen=True)
class FileInspection:
    """The answer of `edgecc inspect` to a TFLite file; fields as in `Inspection` where they are named alike.

    Attributes:
        model: names, operators, shapes.
        macs, parameters: of one inference.
        weight_bytes: of all constants, sparse ones as if they were dense.
        peak_activation_bytes: the most that lives at once in the order of the file, as it is stored.
        costs: a row an operator.
        precision: the word of `--precision` that most multiply-accumulates answer to.
        types: of inputs and outputs, with their quantization.
        subgraphs: of the file; only the first is looked at.
        operators: with types and shapes.
        runtimes: what each has no kernel for.
        targets: the same for the runtime of each target, and what its NPU leaves to the CPU.
        memories: what TFLite Micro takes, by target.
    """

    model: ModelFacts
    macs: int
    parameters: int
    weight_bytes: int
    peak_activation_bytes: int
    costs: tuple[NodeCost, ...]
    precision: str
    types: Mapping[str, str]
    subgraphs: int
    operators: tuple[FileOperator, ...]
    runtimes: Mapping[str, tuple[Finding, ...]]
    targets: tuple[Serving, ...]
    memories: Mapping[str, MemoryFacts]


def inspect_file(path: Path, targets: Sequence[str] = ("arm",)) -> FileInspection:
    """Reads a TFLite file; nothing is run or written.

    Raises:
        ModelError, UsageError: it is none, or it is damaged; or there is no such target.
    """
    devices = [find_target(name) for name in targets]
    data = read_bytes(path)
    try:
        return _inspected(path, data, devices)
    except (IndexError, ZeroDivisionError) as error:
        raise ModelError(
            "the TFLite file is damaged: an operator has not the operands of its kind", node=str(path)
        ) from error
    except EdgeccError as error:
        error.node = error.node or str(path)
        raise


def _inspected(path: Path, data: bytes, devices: Sequence[Target]) -> FileInspection:
    graph, network = read_graph(data), read_network(data)
    operators = _operators(graph, network)
    constants = [t for t in network.tensors if t.constant]
    macs, parameters = sum(o.macs for o in operators), sum(map(_parameters, constants))
    return FileInspection(
        model=ModelFacts(
            name=path.stem,
            sha256=hashlib.sha256(data).hexdigest(),
            size_bytes=len(data),
            operators=_by_count(operators),
            parameters=parameters,
            macs=macs,
            inputs={t.name: t.shape for t in graph.inputs},
            outputs={t.name: t.shape for t in graph.outputs},
        ),
        macs=macs,
        parameters=parameters,
        weight_bytes=sum(map(_bytes, constants)),
        peak_activation_bytes=_peak(network),
        costs=tuple(NodeCost(o.name, o.code, o.macs, o.parameters) for o in operators),
        precision=precision_of_graph(graph),
        types={t.name: _type(t) for t in (*graph.inputs, *graph.outputs)},
        subgraphs=graph.subgraphs,
        operators=operators,
        runtimes={name: unserved(graph, demanded(name)) for name in RUNTIMES},
        targets=tuple(_serving(graph, data, operators, device) for device in devices),
        memories={
            _called(device): file_facts(data, device) for device in devices if runs_in_micro(device, "tflite")
        },
    )


def _operators(graph: Graph, network: FlatNetwork) -> tuple[FileOperator, ...]:
    return tuple(
        _operator(op, stored, network)
        for op, stored in zip(graph.operators, stored_in_words(graph), strict=True)
    )


def _operator(op: Operator, stored: str, network: FlatNetwork) -> FileOperator:
    layer = layer_of(op)
    given = [network.tensors[t.index] for t in op.inputs if t is not None]
    constants = [t for t in given if t.constant]
    return FileOperator(
        name=op.outputs[0].name if op.outputs else "",
        code=op.code,
        version=op.version,
        stored=stored,
        inputs=tuple(t.shape for t in given if not t.constant),
        outputs=tuple(t.shape for t in op.outputs),
        macs=0 if layer is None else layer.macs,
        parameters=sum(map(_parameters, constants)),
        weight_bytes=sum(map(_bytes, constants)),
    )


def _type(tensor: Tensor) -> str:
    kind = tensor.kind.lower()
    if len(tensor.scales) != 1:
        return kind
    return f"{kind} (scale {tensor.scales[0]:.6g}, zero point {tensor.zero_point})"


def _parameters(tensor: FlatTensor) -> int:
    """Elements of a constant that stand for real numbers; not of shapes and axes."""
    return tensor.elements if tensor.scales or tensor.kind.startswith("float") else 0


def _bytes(tensor: FlatTensor) -> int:
    return (tensor.elements + 1) // 2 if tensor.kind == "int4" else tensor.bytes


def _peak(network: FlatNetwork) -> int:
    """Bytes of the tensors alone, without the buffers of any runtime's kernels."""
    last = {index: step for step, op in enumerate(network.operators) for index in (*op.inputs, *op.outputs)}
    last |= dict.fromkeys(network.outputs, len(network.operators))
    alive = {i for i in network.inputs if not network.tensors[i].constant}
    peak = sum(network.tensors[i].bytes for i in alive)
    for step, op in enumerate(network.operators):
        alive |= set(op.outputs)
        peak = max(peak, sum(network.tensors[i].bytes for i in alive))
        alive = {i for i in alive if last.get(i, -1) > step}
    return peak


def _serving(graph: Graph, data: bytes, operators: Sequence[FileOperator], device: Target) -> Serving:
    precision = precision_of_graph(graph)
    if "tflite" not in device.formats:
        reason = Finding("all", "-", f"{device.name} takes {' and '.join(device.formats)} files")
        return Serving(_called(device), "tflite", precision, {}, (), (reason,))
    findings = unserved(graph, demanded(device.runtimes.get("tflite", "LiteRT")))
    nodes = tuple(NodeServing(o.name, o.code, (o.code,), (o.stored,)) for o in operators)
    on_cpu = () if device.vela is None else left_to_cpu(data, device.vela.accelerator_config)
    return Serving(_called(device), "tflite", precision, _by_count(operators), nodes, findings, on_cpu)


def _by_count(operators: Sequence[FileOperator]) -> dict[str, int]:
    return dict(sorted(Counter(o.code for o in operators).items(), key=lambda item: (-item[1], item[0])))


def _called(device: Target) -> str:
    return device.board or device.name


def file_tables(found: FileInspection, *, every: bool = False) -> list[Any]:
    """The tables of `edgecc inspect`; `every` lists all operators instead of the ten that cost most."""
    facts = found.model
    others = f", {found.subgraphs - 1} more graphs that are not looked at" if found.subgraphs > 1 else ""
    items: list[Any] = [
        f"{facts.name}: {found.precision}, {found.macs:,} MACs, {found.parameters:,} parameters,"
        f" {found.weight_bytes:,} bytes of constants, a file of {facts.size_bytes:,} bytes{others}",
        f"activations as stored, most at once: {found.peak_activation_bytes:,} bytes",
        *(f"input {name}: {_shapes([shape])} {found.types[name]}" for name, shape in facts.inputs.items()),
        *(f"output {name}: {_shapes([shape])} {found.types[name]}" for name, shape in facts.outputs.items()),
        Table("operators", ("operator", "stored as", ">operators"), _kinds(found.operators)),
    ]
    chosen = found.operators if every else sorted(found.operators, key=lambda o: -o.macs)[:_SHOWN]
    rows = [
        [_short(o.name), o.code, _shapes(o.inputs), _shapes(o.outputs), f"{o.macs:,}", f"{o.weight_bytes:,}"]
        for o in chosen
    ]
    title = "operators, in order" if every else "the operators that cost most"
    heads = ("result", "operator", "inputs", "outputs", ">MACs", ">bytes of constants")
    items.append(Table(title, heads, rows))
    verdicts = [
        [
            _NAMES[name],
            "all of it" if not lacks else f"lacks {len(lacks)} of {len(found.operators)}",
            _first(lacks),
        ]
        for name, lacks in found.runtimes.items()
    ]
    items.append(Table("kernels, by edgecc's table", ("runtime", "serves", "reason"), verdicts))
    for serving in found.targets:
        items += _target_items(serving, found.memories, every=every)
    return items


def _kinds(operators: Sequence[FileOperator]) -> list[list[str]]:
    counts = Counter((o.code, o.stored) for o in operators)
    return [
        [code, stored, str(n)] for (code, stored), n in sorted(counts.items(), key=lambda i: (-i[1], i[0]))
    ]


def _shapes(shapes: Iterable[Sequence[int | str]]) -> str:
    return ", ".join("x".join(map(str, shape)) or "scalar" for shape in shapes)


def _short(name: str) -> str:
    """TensorFlow names a result by all that was fused into it."""
    return name if len(name) <= _WIDTH else f"..{name[2 - _WIDTH :]}"


def _first(lacks: Sequence[Finding]) -> str:
    return lacks[0].reason if lacks else ""


def _target_items(found: Serving, memories: Mapping[str, MemoryFacts], *, every: bool) -> list[Any]:
    where = f"{found.target}, tflite {found.precision}"
    items: list[Any] = []
    if found.findings:
        shown = found.findings if every else found.findings[:_SHOWN]
        more = f" ({len(shown)} of {len(found.findings)})" if len(shown) < len(found.findings) else ""
        rows = [[_short(f.node), f.op_type, f.reason] for f in shown]
        items.append(Table(f"{where} has no kernel for{more}", ("result", "operator", "reason"), rows))
    else:
        items.append(f"{where} has a kernel for every operator")
    if found.on_cpu:
        rows = [[_short(f.node), f.op_type, f.reason] for f in found.on_cpu]
        items.append(
            Table(
                f"{where} leaves these operators to the CPU beside the NPU",
                ("result", "operator", "reason"),
                rows,
            )
        )
    facts = memories.get(found.target)
    if facts is not None:
        items += [f"{found.target}: {line}" for line in fact_lines(facts)]
        items += [f"{found.target}: does not fit: {line}" for line in excess(facts, found.target) if line]
    return items
