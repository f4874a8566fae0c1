"""Random networks of the operators that TFLite has, ONNX Runtime against LiteRT."""

from typing import Any

import numpy as np
import onnx
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from tflite_cases import Array, assert_close, compiled, feed, quantized, seeded

from edgecc.runtime.litert import LiteRtRunner
from edgecc.runtime.ort import OrtRunner
from edgecc.tflite.lower import lower

Shape = tuple[int, ...]
MILD = settings(
    derandomize=True, deadline=None, database=None, print_blob=False, suppress_health_check=list(HealthCheck)
)


class Network:
    """Grows by one operator at a time; every step keeps shapes small and values of rank 2 to 5."""

    def __init__(self, shapes: list[Shape]) -> None:
        self.values = {f"x{i}": shape for i, shape in enumerate(shapes)}
        self.inputs = list(self.values)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.read: set[str] = set()

    def constant(self, array: Array) -> str:
        name = f"k{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def add(self, op: str, inputs: list[str], shape: Shape, **attributes: Any) -> None:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        self.read.update(inputs)
        self.values[name] = shape

    def model(self) -> onnx.ModelProto:
        def info(n: str) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(n, 1, self.values[n])

        ends = [n for n in self.values if n not in self.read and n not in self.inputs]
        graph = helper.make_graph(
            self.nodes, "g", [info(n) for n in self.inputs], [info(n) for n in ends], self.constants
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _conv(net: Network, name: str, draw: Any) -> None:
    n, c, *space = net.values[name]
    out, kernel, stride = (
        draw(st.integers(1, 4)),
        draw(st.integers(1, min(3, *space))),
        draw(st.integers(1, 2)),
    )
    pads = [draw(st.integers(0, 1)) for _ in range(2 * len(space))]
    depthwise = draw(st.booleans()) and c > 1
    out = c if depthwise else out
    weights = net.constant(seeded(out, 1 if depthwise else c, *[kernel] * len(space), seed=len(net.nodes)))
    after = [(s + pads[i] + pads[i + len(space)] - kernel) // stride + 1 for i, s in enumerate(space)]
    net.add(
        "Conv",
        [name, weights],
        (n, out, *after),
        strides=[stride] * len(space),
        pads=pads,
        group=c if depthwise else 1,
    )


def _pool(net: Network, name: str, draw: Any) -> None:
    n, c, *space = net.values[name]
    if min(space) < 2:
        return
    op = draw(st.sampled_from(["MaxPool", "AveragePool"]))
    net.add(op, [name], (n, c, *(s - 1 for s in space)), kernel_shape=[2] * len(space))


def _unary(net: Network, name: str, draw: Any) -> None:
    net.add(
        draw(st.sampled_from(["Relu", "Sigmoid", "Tanh", "HardSwish", "Neg", "Abs", "LeakyRelu"])),
        [name],
        net.values[name],
    )


def _binary(net: Network, name: str, draw: Any) -> None:
    shape = net.values[name]
    alike = [n for n, s in net.values.items() if s == shape]
    rank = draw(st.integers(0, len(shape)))
    mask = [draw(st.booleans()) for _ in range(rank)]
    lower_rank = tuple(d if keep else 1 for d, keep in zip(shape[len(shape) - rank :], mask, strict=True))
    other = (
        draw(st.sampled_from(alike))
        if draw(st.booleans())
        else net.constant(seeded(*lower_rank, seed=len(net.nodes)))
    )
    net.add(draw(st.sampled_from(["Add", "Sub", "Mul", "Max"])), draw(st.permutations([name, other])), shape)


def _concat(net: Network, name: str, draw: Any) -> None:
    shape = net.values[name]
    axis = draw(st.integers(0, len(shape) - 1))
    if shape[axis] <= 6:
        alike = draw(st.sampled_from([n for n, s in net.values.items() if s == shape]))
        net.add("Concat", [name, alike], (*shape[:axis], 2 * shape[axis], *shape[axis + 1 :]), axis=axis)


def _slice(net: Network, name: str, draw: Any) -> None:
    shape = net.values[name]
    axis = draw(st.integers(0, len(shape) - 1))
    start, step = draw(st.integers(0, shape[axis] - 1)), draw(st.sampled_from([1, 2, -1]))
    stop = shape[axis] if step > 0 else -(shape[axis] + 1)
    size = len(range(shape[axis])[slice(start, None, step)])
    read = [name, *(net.constant(np.array([v])) for v in (start, stop, axis, step))]
    net.add("Slice", read, (*shape[:axis], size, *shape[axis + 1 :]))


def _reduce(net: Network, name: str, draw: Any) -> None:
    shape = net.values[name]
    axes = sorted(draw(st.sets(st.integers(1, len(shape) - 1), min_size=1, max_size=2)))
    keep = draw(st.booleans()) or len(shape) - len(axes) < 2
    after = tuple(1 if i in axes else d for i, d in enumerate(shape) if keep or i not in axes)
    op = draw(st.sampled_from(["ReduceMean", "ReduceMax"]))
    net.add(op, [name, net.constant(np.array(axes))], after, keepdims=int(keep))


def _transpose(net: Network, name: str, draw: Any) -> None:
    shape = net.values[name]
    perm = draw(st.permutations(range(len(shape))))
    net.add("Transpose", [name], tuple(shape[a] for a in perm), perm=perm)


def _reshape(net: Network, name: str, draw: Any) -> None:
    shape = net.values[name]
    if len(shape) > 3 and draw(st.booleans()):
        after: Shape = (shape[0], shape[1] * shape[2], *shape[3:])
    else:
        after = (
            (*shape[:-2], shape[-1], shape[-2])
            if draw(st.booleans())
            else (shape[0], int(np.prod(shape[1:])))
        )
    net.add("Reshape", [name, net.constant(np.array(after))], after)


def _softmax(net: Network, name: str, draw: Any) -> None:
    net.add("Softmax", [name], net.values[name], axis=draw(st.integers(-1, len(net.values[name]) - 1)))


def _gemm(net: Network, name: str, draw: Any) -> None:
    weights = net.constant(seeded(3, net.values[name][1], seed=len(net.nodes)))
    net.add("Gemm", [name, weights], (net.values[name][0], 3), transB=1)


def _pad(net: Network, name: str, draw: Any) -> None:
    shape = net.values[name]
    amounts = [draw(st.integers(0, 1)) for _ in range(2 * len(shape))]
    if max(shape) <= 8 and len(shape) < 6:
        after = tuple(d + amounts[i] + amounts[i + len(shape)] for i, d in enumerate(shape))
        net.add("Pad", [name, net.constant(np.array(amounts))], after)


STEPS = {
    2: [_unary, _binary, _concat, _gemm, _softmax, _slice, _transpose],
    3: [_conv, _pool, _unary, _binary, _concat, _slice, _reduce, _transpose, _reshape, _softmax, _pad],
    4: [
        _conv,
        _conv,
        _conv,
        _pool,
        _unary,
        _binary,
        _binary,
        _concat,
        _slice,
        _reduce,
        _transpose,
        _reshape,
        _softmax,
        _pad,
    ],
}


@st.composite
def networks(draw: st.DrawFn, rank: int, longest: int = 10) -> onnx.ModelProto:
    shape = tuple(draw(st.integers(1, 4)) for _ in range(rank))
    net = Network([shape, shape])
    for _ in range(draw(st.integers(2, longest))):
        name = draw(st.sampled_from(list(net.values)[-4:]))
        draw(st.sampled_from(STEPS[len(net.values[name])]))(net, name, draw)
    if not net.nodes:
        net.add("Relu", ["x0"], shape)
    return net.model()


@settings(MILD, max_examples=150)
@given(networks(4), st.sampled_from(["auto", "onnx", "nhwc"]))
def test_images(made: onnx.ModelProto, io_layout: str) -> None:
    _compare(made, io_layout)


@settings(MILD, max_examples=80)
@given(networks(3), st.sampled_from(["auto", "onnx", "nhwc"]))
def test_sequences(made: onnx.ModelProto, io_layout: str) -> None:
    _compare(made, io_layout)


def _compare(made: onnx.ModelProto, io_layout: str) -> None:
    note(onnx.printer.to_text(made.graph))
    feeds = feed(made)
    wanted = OrtRunner.from_bytes(made.SerializeToString(), optimize=False).run(feeds)
    got = LiteRtRunner(compiled(made, io_layout, ["fuse_gemm"]).data, threads=1).run(feeds)
    assert_close(got, wanted, 2e-5)


@settings(MILD, max_examples=80)
@given(networks(4, 8))
def test_integer_images(made: onnx.ModelProto) -> None:
    """Every integer network loads, runs, and is as near as roundings that differ allow: a few steps an operator."""
    note(onnx.printer.to_text(made.graph))
    graph, plan = quantized(made, ["fuse_gemm"])
    feeds = {name: array * np.float32(0.5) for name, array in feed(made).items()}
    wanted = OrtRunner.from_model(graph, optimize=False).run(feeds)
    got = LiteRtRunner(lower(graph, precision="int8", target="arm").data, threads=1).run(feeds)
    for name, array in wanted.items():
        spread = float(np.max(np.abs(array), initial=0))
        assert got[name].shape == array.shape
        assert float(np.max(np.abs(got[name] - array), initial=0)) <= 0.12 * spread + 1e-4, (
            name,
            plan.tensors.get(name),
        )
