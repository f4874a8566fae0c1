"""Reads back what ONNX Runtime makes of an artifact: which kernels compute in integers, what stays float.

On x86 the runtime has integer kernels for uint8 activations only. It turns int8 ones into uint8 itself, but
not where a value has several readers or is constant (QDQS8ToU8Transformer, 1.31): a network with int8
activations, as Arm wants it, is computed partly in float there. So such an artifact is read back in a uint8
copy of the same real values, which shows what fuses on Arm (where both types have kernels).
"""

from __future__ import annotations

import platform
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecc import ir
from edgecc.errors import Finding
from edgecc.onnxfile import serialize
from edgecc.quant import rules

# Changes of layout that the runtime inserts for its own kernels.
_LAYOUT = frozenset({"Transpose", "ReorderInput", "ReorderOutput"})
_CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear"})
# Integer kernels that the runtime puts in the place of DequantizeLinear, operator, QuantizeLinear.
_INTEGER = ("QLinear", "QGemm", "QAttention", "MatMulInteger", "ConvInteger", "DynamicQuantize")
# Names that the runtime gives to float operators it fuses or re-arranges.
_ALIASES = {
    "FusedConv": "Conv",
    "FusedGemm": "Gemm",
    "FusedMatMul": "MatMul",
    "BiasGelu": "Gelu",
    "QuickGelu": "Gelu",
}


@dataclass(frozen=True)
class ReadBack:
    """The optimised graph in short.

    Attributes:
        kernels: integer kernels and how often each occurs; operators that only move integers are among them.
        floats: every operator computed in float, with the reason.
        unfused: nodes whose operands and results are all quantized, for which the table promises an integer
            kernel,
            and which the runtime computes in float all the same: a defect of the table or the exporter.
        conversions: QuantizeLinear and DequantizeLinear nodes left, those at inputs and outputs included.
    """

    kernels: Mapping[str, int]
    floats: tuple[Finding, ...]
    unfused: tuple[Finding, ...]
    conversions: int

    def notes(self) -> dict[str, Any]:
        """For the notes of an artifact, in the form that the report reads."""
        floats = Counter(f.op_type for f in self.floats)
        return {
            "operators": dict(Counter(self.kernels) + floats),
            "float_islands": [
                {"node": f.node, "op_type": f.op_type, "reason": f.reason} for f in self.floats
            ],
            "unfused": [f"{f.op_type} {f.node}: {f.reason}" for f in self.unfused],
            "conversions": self.conversions,
        }


def x86_notes() -> tuple[str, ...]:
    """What to say beside a latency of int8 activations that was measured on a machine that is no Arm."""
    if _on_arm():
        return ()
    return (
        "ONNX Runtime computes some int8 activations in float on x86, and none on Arm: expect less there;"
        " for x86 itself choose --target x86-64",
    )


def stores_int8(model: ir.Model) -> bool:
    """Whether an activation of a network with Q/DQ is stored in int8, as Arm wants it."""
    quantized = (node for node in model.graph if node.op_type == "QuantizeLinear")
    return any(node.outputs[0].dtype == ir.DataType.INT8 for node in quantized)


def _on_arm() -> bool:
    return platform.machine().lower() in ("aarch64", "arm64")


def read_back(data: bytes, *, as_stored: bool = False) -> ReadBack:
    """Optimises an artifact in ONNX Runtime's CPU provider and lists what became of its operators.

    Args:
        data: of an ONNX artifact.
        as_stored: read back int8 activations as they are, though this machine is no Arm.

    Raises:
        ModelError: the runtime cannot load it.
    """
    import onnx

    from edgecc.runtime.ort import OrtRunner

    before = ir.serde.deserialize_model(onnx.load_model_from_string(data))
    if not as_stored and not _on_arm():
        _use_unsigned_activations(before)
        data = serialize(before)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        OrtRunner(data, optimized=path, threads=1)
        del data  # `optimized` holds all weights, too
        optimized = onnx.load(path)
    return _compare(before, optimized)


def _use_unsigned_activations(model: ir.Model) -> None:
    """Stores every int8 activation, and every constant that is one, as uint8."""
    graph = model.graph
    weights = {
        value
        for node in graph
        if (rule := rules.RULES.get(node.op_type)) is not None and rule.weight is not None
        for dq in [_producer(node.inputs[rule.weight])]
        if dq is not None and dq.op_type == "DequantizeLinear" and _is_stored(dq.inputs[0])
        for value in dq.inputs
        if value is not None
    }
    shifted: set[ir.Value] = set()
    for node in graph:
        if node.op_type in _CONVERSIONS:
            shifted.update(v for v in node.inputs if v is not None and v not in weights)
        for out in node.outputs:
            if out.dtype == ir.DataType.INT8:
                out.type = None
    for value in shifted:
        array = ir.constant(value)
        if array is not None and array.dtype == np.int8:
            unsigned = (array.astype(np.int16) + 128).astype(np.uint8)
            value.const_value = ir.Tensor(unsigned, name=value.name)
            value.type = ir.TensorType(ir.DataType.UINT8)


def _is_stored(value: ir.Value | None) -> bool:
    """Whether a value is a constant, or the Cast of one (int4 to int8)."""
    cast = _producer(value)
    source = cast.inputs[0] if cast is not None and cast.op_type == "Cast" else value
    return ir.constant(source) is not None


def _compare(before: ir.Model, optimized: Any) -> ReadBack:
    nodes = {out.name: node for node in before.graph for out in node.outputs}
    named = {node.name: node for node in before.graph if node.name}
    integers = _integer_values(optimized.graph)
    kernels: Counter[str] = Counter()
    floats: list[Finding] = []
    unfused: list[Finding] = []
    conversions = 0
    for node in optimized.graph.node:
        if node.op_type in _CONVERSIONS:
            conversions += 1
        elif node.op_type.startswith(_INTEGER) or any(name in integers for name in node.output):
            kernels[node.op_type] += 1
        else:
            origin = next((nodes[o] for o in node.output if o in nodes), None) or named.get(node.name)
            if origin is None and node.op_type in _LAYOUT:
                continue
            op_type = origin.op_type if origin is not None else _ALIASES.get(node.op_type, node.op_type)
            finding = Finding(
                node.name or (node.output[0] if node.output else node.op_type),
                op_type,
                _reason(op_type, origin),
            )
            floats.append(finding)
            if origin is not None and _promised(origin):
                unfused.append(finding)
    return ReadBack(dict(sorted(kernels.items())), tuple(floats), tuple(unfused), conversions)


def _integer_values(graph: Any) -> set[str]:
    """Values that hold quantized integers: what QuantizeLinear or an integer kernel gives, moved or not."""
    import onnx

    found = {
        i.name for i in graph.initializer if i.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    }
    for node in graph.node:
        if node.op_type == "DequantizeLinear" or node.op_type.endswith("ToFloat"):
            continue
        computed = node.op_type == "QuantizeLinear" or node.op_type.startswith(_INTEGER)
        moves = node.op_type in rules.RULES or node.op_type == "NhwcMaxPool"
        if computed or (moves and node.input and node.input[0] in found):
            found.update(node.output)
    return found


def _promised(node: ir.Node) -> bool:
    """Whether the table has an integer kernel for it, and operands and results are all quantized."""
    if node.op_type in ("Relu", "Clip") or isinstance(rules.column(node, "onnx"), str):
        return False
    sources = [node.inputs[i] for i in rules.data_inputs(node)]
    makers = [_producer(v) for v in sources]
    if not all(maker is not None and maker.op_type == "DequantizeLinear" for maker in makers):
        return False
    return all(
        readers and all(reader.op_type == "QuantizeLinear" for reader in readers)
        for readers in (ir.consumers(out) for out in node.outputs)
    )


def _producer(value: ir.Value | None) -> ir.Node | None:
    return value.producer() if value is not None else None


def _reason(op_type: str, origin: ir.Node | None) -> str:
    if origin is not None:
        found = rules.column(origin, "onnx")
        if isinstance(found, str):
            return found
        if not _promised(origin):
            return "not every operand and result of it is quantized"
        return "ONNX Runtime did not fuse it though it has an integer kernel"
    rule = rules.RULES.get(op_type)
    return "ONNX Runtime has no integer kernel for it" if rule is None or rule.onnx is None else "it is float"
