"""From any ONNX model to the one form that everything after it sees.

The canonical form: default-domain opset 21 or later, no functions, no Constant nodes, no initializers among
the inputs, every node and value named once, every value typed and shaped, and only the batch (the first
dimension of the inputs) symbolic. Names of inputs, outputs and values stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

from edgecc import input_shapes, ir, modelfile, opset, repairs
from edgecc.analysis import shapes
from edgecc.errors import EdgeccError, ModelError

# The IR version that goes with opset 21 (onnx.helper.VERSION_TABLE). A later one of the file is of no use here:
# what it adds, element types and annotations of devices, no target computes.
_IR_VERSION = 10


def load(
    source: Path | str | bytes | onnx.ModelProto | ir.Model,
    *,
    input_shape: Mapping[str, Sequence[int]] | None = None,
) -> ir.Model:
    """Reads a model of any opset from 7 on and brings it to the canonical form.

    Args:
        source: path (external data lies in its folder and stays there, mapped into memory), serialised model,
            or a model in memory, which is not modified; weights are shared with it.
        input_shape: a number for every dimension of the inputs named.

    Raises:
        ModelError: unreadable, malformed or hostile; or a dimension is neither known nor given.
        UsageError: `input_shape` names no input or contradicts the model.
    """
    name = str(source) if isinstance(source, (str, Path)) else None
    try:
        return _canonical(modelfile.read(source), input_shape or {})
    except EdgeccError as error:
        error.node = error.node or name
        raise
    except Exception as error:  # wrapped: the file decides what goes wrong inside onnx and onnx_ir
        raise ModelError(
            f"the model is malformed: {type(error).__name__}: {shapes.first_lines(_root(error))}", node=name
        ) from error


def _canonical(model: ir.Model, input_shape: Mapping[str, Sequence[int]]) -> ir.Model:
    version = _versions(model)
    for graph in model.graphs():
        _unlist_initializers(graph)
        _check_defined(graph)
    model.ir_version = _IR_VERSION
    _sort(model)
    input_shapes.bind(model, input_shape)
    repairs.spell_out_padding(model)
    proto = shapes.skeleton(model)
    shapes.check(proto)
    declared = _forget_shapes(model)
    shapes.forget(proto, model)
    mixed = _inline(model, version)
    upgraded = False
    if not mixed:
        shapes.infer_static(model, strict=True, proto=None if model.functions else proto)
    if mixed or version < opset.CANONICAL:
        upgraded = opset.upgrade(model, version)
    lifted = _lift_constants(model)
    _name(model)
    model.opset_imports[""] = max(version, opset.CANONICAL)
    if mixed or upgraded or lifted:
        shapes.infer_static(model, strict=mixed)
    shapes.infer_open(model)
    _recall_shapes(model.graph, declared)
    shapes.infer_backward(model)
    return model


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _versions(model: ir.Model) -> int:
    """The opset of the default domain, under its short name everywhere."""
    imports = [model.opset_imports, *(function.opset_imports for function in model.functions.values())]
    for table in imports:
        if "ai.onnx" in table:
            table.setdefault("", table.pop("ai.onnx"))
        version = table.get("")
        if version is not None and version < opset.OLDEST:
            raise ModelError(
                f"the model has opset {version}; edgecc reads {opset.OLDEST} to {opset.NEWEST}",
                remedy="export it again, or use onnx.version_converter.convert_version(model, 13)",
            )
        if version is not None and version > opset.NEWEST:
            raise ModelError(
                f"the model has opset {version}; edgecc reads {opset.OLDEST} to {opset.NEWEST}",
                remedy=f"export it with opset {opset.CANONICAL}",
            )
    return model.opset_imports.get("", opset.CANONICAL)


def _unlist_initializers(graph: ir.Graph) -> None:
    """Before IR version 4 every initializer was listed as an input, whose default it then was."""
    inputs = [value for value in graph.inputs if value.name not in graph.initializers]
    if len(inputs) < len(graph.inputs):
        graph.inputs.clear()
        graph.inputs.extend(inputs)


def _check_defined(graph: ir.Graph) -> None:
    """Refuses a graph that reads or returns what nothing computes."""
    read = [(value, ir.label(node)) for node in graph for value in node.inputs if value is not None]
    for value, reader in (*read, *((value, "the graph's output") for value in graph.outputs)):
        if value.producer() is None and not value.is_graph_input() and not value.is_initializer():
            raise ModelError(f"nothing computes {value.name!r}, which it reads or returns", node=reader)


def _sort(model: ir.Model) -> None:
    """Puts nodes into an order of execution; the runtime accepts any, so files have any.

    Raises:
        ModelError: there is none.
    """
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        seen: set[ir.Node] = set()
        ordered = True
        for node in graph:
            above = (value.producer() for value in node.inputs if value is not None)
            ordered = ordered and all(p is None or p in seen or p.graph is not graph for p in above)
            seen.add(node)
        # Nodes of sub-graphs may read what only a later node computes: sorting sees to that too.
        if not ordered or any(map(ir.holds_graph, graph)):
            try:
                graph.sort()
            except ValueError as error:
                raise ModelError("the graph has a cycle", node=graph.name) from error


def _forget_shapes(model: ir.Model) -> dict[ir.Value, ir.Shape]:
    """Takes away the shapes that the file claims for computed values: they may be of another batch, or false.

    Operators of other domains keep theirs, as nothing can infer them.
    """
    declared: dict[ir.Value, ir.Shape] = {}
    for node in model.graph:
        for out in node.outputs if not node.domain else ():
            if out.shape is not None:
                declared[out], out.shape = out.shape, None
    return declared


def _recall_shapes(graph: ir.Graph, declared: Mapping[ir.Value, ir.Shape]) -> None:
    """Believes the file where nothing better is known: of single dimensions only if no input's batch is open."""
    fixed = all(ir.is_static(v) and None not in (ir.dims(v) or ()) for v in graph.inputs)
    for value, shape in declared.items():
        known = value.shape
        if known is None and all(
            d is None or input_shapes.number_of(d) or input_shapes.symbol_of(d) for d in shape.dims
        ):
            value.shape = shape
        elif known is not None and fixed and len(known) == len(shape):
            pairs = zip(known.dims, shape.dims, strict=True)
            value.shape = ir.Shape(
                [d if isinstance(d, int) else input_shapes.number_of(s) or d for d, s in pairs]
            )


def _inline(model: ir.Model, version: int) -> bool:
    """Inlines functions, in place. Returns whether they bring nodes of another opset than the model's."""
    from onnx_ir.passes.common import InlinePass

    mixed = False
    for function in model.functions.values():
        own = function.opset_imports.get("", version)
        mixed = mixed or own != version
        for node in function.graph.all_nodes():
            if not node.domain:
                node.version = own
        for domain, wanted in function.opset_imports.items():  # each node knows its own: no mismatch is left
            function.opset_imports[domain] = model.opset_imports.setdefault(domain, wanted)
    if model.functions:
        InlinePass()(model)
        model.functions.clear()
    return mixed


def _lift_constants(model: ir.Model) -> int:
    """Constant nodes become initializers of their graph. Returns how many."""
    count = 0
    for graph in model.graphs():
        for node in tuple(graph):
            array = opset.constant_output(node)
            if array is None:
                continue
            old = node.outputs[0]
            if old.is_graph_output() and graph is not model.graph:
                continue  # the runtime wants a node behind every output of a sub-graph
            name, old.name = old.name or "", None
            tensor = _tensor(array, name)
            value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
            value.const_value = tensor
            graph.register_initializer(value)
            ir.convenience.replace_all_uses_with(old, value, replace_graph_outputs=True)
            graph.remove(node, safe=True)
            count += 1
    return count


def _tensor(array: ir.Array, name: str) -> ir.TensorProtocol:
    if array.dtype == object:
        texts = [text if isinstance(text, bytes) else str(text).encode() for text in array.ravel()]
        return ir.StringTensor(texts, shape=ir.Shape(array.shape), name=name)
    return ir.Tensor(array, dtype=ir.DataType.from_numpy(array.dtype), name=name)


def _name(model: ir.Model) -> None:
    """Every node gets a name that no other has."""
    taken = {node.name for node in model.graph.all_nodes() if node.name}
    seen: set[str] = set()
    for index, node in enumerate(model.graph.all_nodes()):
        name = node.name
        if not name or name in seen:
            stem, count = name or f"{node.op_type}_{index}", 0
            name = stem
            while name in taken:
                count += 1
                name = f"{stem}_{count}"
            node.name = name
            taken.add(name)
        seen.add(name)
