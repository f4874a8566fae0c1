"""Operators that TFLite has nothing for, replaced by their definition in simpler operators."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar

import onnx

from edgecc import ir, opset
from edgecc.analysis import shapes
from edgecc.passes import _contrib
from edgecc.passes import _rewrite as rw
from edgecc.passes.fold_constants import FoldConstants
from edgecc.pipeline import Pass, PassContext, PassResult

# Their definitions draw random numbers, or need a loop or a sequence: nothing is gained.
_KEPT = frozenset({"Bernoulli", "Range", "SequenceMap"})
_DOMAIN = "edgecc.definition"
# The deepest nesting in opset 26 is 3 (Attention, Softmax of opset 13, ...).
_ROUNDS = 6


@dataclass(frozen=True, kw_only=True)
class ExpandFunctions(Pass):
    """Replaces operators without a lowering by the function that the ONNX specification defines them with.

    Sizes that the definitions compute from static shapes are folded at once. Source: the function bodies of the
    operator schemas (onnx.defs); for operators of ONNX Runtime's own domain its documentation.
    """

    name: ClassVar[str] = "expand_functions"

    def apply(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrites `model` in place."""
        from edgecc.tflite.lower import lowerings

        tally, served = rw.Tally(), lowerings()
        if _unknown(model):  # a graph written in expanded form, which the runtime was too old to observe
            tally.rewritten += _settle(model, ctx)
        for _ in range(_ROUNDS):
            before = tally.rewritten
            _expand(model, served, tally)
            if tally.rewritten == before:
                break
            _settle(model, ctx)
        if tally.rewritten and _unknown(model):
            shapes.infer_open(model)
            shapes.infer_backward(model)
        return tally.result()


def _expand(model: ir.Model, served: Collection[str], tally: rw.Tally) -> None:
    """Every operator that can be, by one level."""
    version = rw.opset(model)
    bodies = {}
    for node in model.graph:
        if node.domain == _contrib.MICROSOFT:
            body = _contrib.definition(node) if f"{node.domain}::{node.op_type}" not in served else None
        elif node.domain not in rw.MAIN_DOMAINS or node.op_type in served:
            continue
        else:
            body = _definition(node, version)
        if body is None:
            continue
        if node.op_type in _KEPT and not node.domain:
            tally.refuse(node, "its definition has no kernels either")
        else:
            bodies[node] = body
    for count, (node, body) in enumerate(bodies.items()):
        _call(model, node, body, str(count), version)
    if bodies:
        from onnx_ir.passes.common import InlinePass

        InlinePass()(model)
        model.opset_imports.pop(_DOMAIN, None)
        opset.upgrade(model, version)
        rw.remove_unused(model)
        tally.rewritten += len(bodies)


def _definition(node: ir.Node, version: int) -> onnx.FunctionProto | None:
    """The function that defines `node`, where the specification of its operator set has one."""
    try:
        schema = onnx.defs.get_schema(node.op_type, version)
    except onnx.defs.SchemaError:
        return None
    data = _fixed(schema, version) or _dependent(schema, node, version)
    return onnx.FunctionProto.FromString(data) if data else None


def _fixed(schema: Any, version: int) -> bytes:
    written = [v for v in schema.function_opset_versions if v <= version]
    return bytes(schema.get_function_with_opset_version(max(written))) if written else b""


def _dependent(schema: Any, node: ir.Node, version: int) -> bytes:
    """A definition that depends on attributes and on which inputs are there; empty where the builder declines."""
    written = [v for v in schema.context_dependent_function_opset_versions if v <= version]
    if not written or any(v is not None and v.dtype is None for v in node.inputs):
        return b""
    types = [_type(value).SerializeToString() for value in node.inputs]
    proto = ir.serde.serialize_node(node).SerializeToString()
    return bytes(schema.get_context_dependent_function_with_opset_version(max(written), proto, types))


def _type(value: ir.Value | None) -> onnx.TypeProto:
    if value is None or value.dtype is None:
        return onnx.TypeProto()
    return onnx.helper.make_tensor_type_proto(int(value.dtype), ir.dims(value))


def _call(model: ir.Model, node: ir.Node, proto: onnx.FunctionProto, count: str, version: int) -> None:
    """Makes `node` a call of its definition, which gets names that tell where they come from."""
    label = ir.label(node)
    formals = {} if node.domain else onnx.defs.get_schema(node.op_type, version).attributes
    for name, formal in formals.items():
        if name not in node.attributes and formal.default_value.type:
            node.attributes.add(ir.serde.deserialize_attribute(formal.default_value))
    node.domain, node.overload = _DOMAIN, count
    proto.domain, proto.name, proto.overload = node.domain, node.op_type, count
    _complete(proto, len(node.outputs))
    function = ir.serde.deserialize_function(proto)
    own = function.opset_imports.get("", version)
    for inner in function.graph.all_nodes():
        inner.name = f"{label}/{inner.name or inner.op_type}"
        inner.version = None if inner.domain else own
        for out in inner.outputs:
            out.name = f"{label}/{out.name}" if out.name else out.name
    function.opset_imports[""] = model.opset_imports[""]
    model.functions[function.identifier()] = function


def _complete(proto: onnx.FunctionProto, wanted: int) -> None:
    """Some definitions leave out what computes an output that is not asked for: it gets any value."""
    del proto.output[wanted:]
    made = {name for node in proto.node for name in node.output} | set(proto.input)
    for name in proto.output:
        if name not in made:
            proto.node.append(onnx.helper.make_node("Identity", [proto.input[0]], [name]))


def _unknown(model: ir.Model) -> bool:
    return any(not shapes.is_known(model, value) for value in shapes.node_outputs(model.graph))


def _settle(model: ir.Model, ctx: PassContext) -> int:
    """Folds what the definitions compute from shapes; each folding lets inference tell more shapes.

    Returns:
        How many nodes were folded.
    """
    count = 0
    for graph in model.graphs():
        if graph is not model.graph:
            _lift(model, graph)
    while True:
        shapes.infer_static(model)
        folded = FoldConstants().apply(model, ctx).rewritten
        if not folded:
            return count
        count += folded


def _lift(model: ir.Model, graph: ir.Graph) -> None:
    """Constants of a branch become its initializers, as everywhere after import."""
    for node in tuple(graph):
        array = opset.constant_output(node)
        if array is None or node.outputs[0].is_graph_output():
            continue
        name = ir.fresh_name(model.graph, node.outputs[0].name or "constant")
        node.outputs[0].name = None
        ir.convenience.replace_all_uses_with(node.outputs[0], ir.add_initializer(graph, array, name))
        graph.remove(node, safe=True)
