"""The type and shape of every value: inferred statically, and observed in a run where that cannot tell."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx.checker
import onnx.shape_inference

from edgecc import ir
from edgecc.errors import ModelError

# No network for an edge device has an activation near this size: dimensions that ask for more are damage or
# an attack. A guess; it bounds what a run here may allocate in one piece.
LARGEST_BYTES = 4 * 2**30
# Withdrawn after models were exported with it: the checker refuses its opsets 18 to 20, edgecc does not.
_WITHDRAWN = {"GroupNormalization"}
_UNSIZED = (ir.DataType.STRING, ir.DataType.UNDEFINED)
# Larger initializers are left out of what onnx's C++ code is given: it reads them only to learn shapes.
_SMALL_BYTES = 1024


def infer_open(model: ir.Model) -> None:
    """Observes the shapes that static inference left open (beyond a symbolic batch), in place.

    One run of ONNX Runtime on random inputs, two where the batch is symbolic; not for values whose shape depends
    on the data.

    Raises:
        ModelError: a value beyond `LARGEST_BYTES`.
    """
    from edgecc.analysis.observe import observe

    open_values = [value for value in node_outputs(model.graph) if not is_known(model, value)]
    if open_values:
        observe(model, open_values)
        check_sizes(model)


def infer_static(model: ir.Model, *, strict: bool = False, proto: onnx.ModelProto | None = None) -> None:
    """Static inference alone, with data propagation; what is known stays unless inference knows better.

    Args:
        model: changed in place.
        strict: refuse operators whose types or shapes contradict each other.
        proto: `skeleton(model)`, where the caller has it.

    Raises:
        ModelError: contradictory types or shapes, or a value beyond `LARGEST_BYTES`.
    """
    proto = proto or skeleton(model)
    try:
        inferred = onnx.shape_inference.infer_shapes(
            proto, check_type=True, strict_mode=strict, data_prop=True
        )
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        # Strict inference is sometimes wrong, and without it, inference does not fail: the runtime decides.
        if strict:
            _let_runtime_decide(model, error)
            infer_static(model, proto=proto)
            return
        raise ModelError(f"shape inference failed: {first_lines(error)}") from error
    found = {info.name: info for info in (*inferred.graph.value_info, *inferred.graph.output)}
    for value in node_outputs(model.graph):
        info = found.get(value.name or "")
        if info is not None and info.HasField("type"):
            ir.serde.deserialize_value_info_proto(info, value)
    check_sizes(model)


# Operators of one operand whose result has its shape.
_SHAPED_ALIKE = frozenset(
    """
    Abs Acos Acosh Asin Asinh Atan Atanh Cast CastLike Ceil Celu Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid HardSwish
    Hardmax Identity IsInf IsNaN LeakyRelu Log LogSoftmax Mish Neg Not Reciprocal Relu Round Selu Sigmoid Sign Sin Sinh
    Softmax Softplus Softsign Sqrt Tan Tanh ThresholdedRelu
    """.split()  # noqa: SIM905 - a table reads better as words
)


def infer_backward(model: ir.Model) -> None:
    """Gives operands the shape of what is computed from them element by element, in place."""
    for node in reversed(model.graph):
        if node.op_type not in _SHAPED_ALIKE or node.domain or not node.inputs:
            continue
        operand, result = node.inputs[0], node.outputs[0]
        if operand is not None and operand.producer() is not None and result.shape is not None:
            known, wanted = ir.dims(operand), ir.dims(result) or ()
            if (known is None or None in known) and None not in wanted:
                operand.shape = ir.Shape(wanted)


def check(proto: onnx.ModelProto) -> None:
    """The ONNX project's own checker.

    Args:
        proto: a `skeleton`; outputs without a shape, which the checker does not take, get one (see `forget`).

    Raises:
        ModelError: the model does not conform to the ONNX specification.
    """
    for info in proto.graph.output:
        if info.type.HasField("tensor_type") and not info.type.tensor_type.HasField("shape"):
            info.type.tensor_type.shape.SetInParent()
    if any(node.op_type in _WITHDRAWN and not node.domain for node in proto.graph.node):
        return
    try:
        onnx.checker.check_model(proto)
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        raise ModelError(f"the model is invalid: {first_lines(error)}") from error


def forget(proto: onnx.ModelProto, model: ir.Model) -> None:
    """Takes the shapes out of `proto` that the values of `model` do not have either."""
    shapeless = {value.name for value in node_outputs(model.graph) if value.shape is None}
    for info in (*proto.graph.value_info, *proto.graph.output):
        if info.name in shapeless and info.type.HasField("tensor_type"):
            info.type.tensor_type.ClearField("shape")


def check_sizes(model: ir.Model) -> None:
    """Refuses inputs and values that are larger than any real network's.

    Raises:
        ModelError: naming the value.
    """
    for value in (*model.graph.inputs, *node_outputs(model.graph)):
        shape = ir.dims(value)
        if shape is None:
            continue
        size = 1.0 if value.dtype in (None, *_UNSIZED) else float(value.dtype.itemsize)
        for dim in shape:
            size *= 1 if dim is None else dim
        if size > LARGEST_BYTES:
            raise ModelError(f"the shape {list(shape)} asks for {size / 2**30:.3g} GiB", node=value.name)


def skeleton(model: ir.Model) -> onnx.ModelProto:
    """The model as protobuf, every large initializer turned into an input: what onnx's C++ code is given."""
    copy = model.clone()
    graph = copy.graph
    for name, value in tuple(graph.initializers.items()):
        tensor = value.const_value
        if tensor is not None and tensor.dtype != ir.DataType.STRING and tensor.nbytes > _SMALL_BYTES:
            value.const_value = None
            graph.initializers.pop(name)
            if not value.is_graph_input():
                graph.inputs.append(value)
    return ir.serde.serialize_model(copy)


def node_outputs(graph: ir.Graph) -> Iterator[ir.Value]:
    """Every value that a node of the graph computes; outputs left out have no name."""
    return (out for node in graph for out in node.outputs if out.name)


def is_known(model: ir.Model, value: ir.Value) -> bool:
    """Whether type and shape are known, counting the batch's symbol in any place as known."""
    if value.shape is None or value.type is None:
        return False
    batch = batch_symbols(model)
    return all(isinstance(d, int) or (d.value is not None and d.value in batch) for d in value.shape.dims)


def batch_symbols(model: ir.Model) -> set[str]:
    """The names of the inputs' symbolic first dimensions."""
    first = [value.shape.dims[0] for value in model.graph.inputs if value.shape]
    return {d.value for d in first if isinstance(d, ir.SymbolicDim) and d.value is not None}


def first_lines(error: BaseException) -> str:
    """An error of a library, short enough to read."""
    return " ".join(str(error).split())[:500] or type(error).__name__


def _let_runtime_decide(model: ir.Model, error: BaseException) -> None:
    from edgecc.runtime.ort import OrtRunner

    if any(node.domain for node in model.graph.all_nodes()):
        return  # the runtime may not know these operators: its refusal would prove nothing
    try:
        OrtRunner.from_model(model, optimize=False)
    except ModelError as refusal:
        raise ModelError(f"types or shapes do not fit: {first_lines(error)}") from refusal
