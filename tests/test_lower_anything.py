"""Single operators in forms that the node tests do not reach: as ONNX Runtime answers, or refused with a remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from hypothesis import HealthCheck, assume, event, given, note, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from tflite_cases import Array, assert_close

from edgecc.compile import lower_float
from edgecc.errors import EdgeccError, UnsupportedError
from edgecc.runtime.litert import LiteRtRunner
from edgecc.runtime.ort import OrtRunner

Draw = st.DrawFn
MILD = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
INTEGERS = ("int32", "int64", "int8", "uint8")


class Made:
    """A model of one operator and what it is fed."""

    def __init__(
        self,
        op: str,
        operands: list[Array | None],
        computed: int,
        attributes: dict[str, Any],
        outputs: int = 1,
    ):
        names = ["" if a is None else f"x{i}" for i, a in enumerate(operands)]
        given = dict(zip(names, operands, strict=True))
        self.feeds = {n: a for n, a in list(given.items())[:computed] if a is not None}
        kinds = {n: helper.np_dtype_to_tensor_dtype(a.dtype) for n, a in self.feeds.items()}
        node = helper.make_node(op, names, [f"y{i}" for i in range(outputs)], name="node", **attributes)
        graph = helper.make_graph(
            [node], "g",
            [helper.make_tensor_value_info(n, kinds[n], a.shape) for n, a in self.feeds.items()],
            [onnx.ValueInfoProto(name=f"y{i}") for i in range(outputs)],
            [numpy_helper.from_array(a, n) for n, a in list(given.items())[computed:] if a is not None],
        )  # fmt: skip
        self.model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def compare(made: Made, tolerance: float = 2e-5) -> None:
    note(onnx.printer.to_text(made.model.graph))
    try:
        runner = OrtRunner.from_bytes(made.model.SerializeToString(), optimize=False)
        wanted = runner.run(made.feeds)
    except EdgeccError:
        assume(False)  # no network: the runtime does not take it
        return
    outputs = {v.name: v for v in made.model.graph.output}
    for spec in runner.outputs:  # declared as the runtime infers them
        kind = helper.np_dtype_to_tensor_dtype(wanted[spec.name].dtype)
        outputs[spec.name].CopyFrom(helper.make_tensor_value_info(spec.name, kind, wanted[spec.name].shape))
    try:
        artifact = lower_float(made.model, io_layout="onnx")
    except UnsupportedError as error:
        event("refused")
        if "node" not in str(error):
            raise
        return
    event("served")
    assert_close(LiteRtRunner(artifact.data, threads=1).run(made.feeds), wanted, tolerance)


def numbers(draw: Draw, shape: tuple[int, ...], dtype: str = "float32") -> Array:
    random = np.random.default_rng(draw(st.integers(0, 99)))
    if dtype == "bool":
        return random.random(shape) > 0.5
    if dtype.startswith("float"):
        return np.asarray(random.standard_normal(shape), dtype)
    return np.asarray(random.integers(0 if dtype[0] == "u" else -9, 10, shape), dtype)


def shapes(draw: Draw, low: int, high: int, longest: int = 4) -> tuple[int, ...]:
    rank = draw(st.integers(low, high))
    return tuple(draw(st.integers(1, longest if rank < 6 else 2)) for _ in range(rank))


@st.composite
def convolutions(draw: Draw) -> Made:
    space = draw(st.integers(1, 3))
    op = draw(st.sampled_from(["Conv", "ConvTranspose"]))
    group, each, out = draw(st.sampled_from([(1, 3, 2), (2, 1, 3), (2, 2, 2), (3, 1, 1), (4, 1, 2)]))

    def each_axis(low: int, high: int) -> list[int]:
        return [draw(st.integers(low, high)) for _ in range(space)]

    kernel, strides, dilations = each_axis(1, 3), each_axis(1, 3), each_axis(1, 2)
    attributes: dict[str, Any] = {"group": group, "strides": strides, "dilations": dilations}
    auto = draw(st.sampled_from(["NOTSET", "NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if auto == "NOTSET":
        attributes["pads"] = each_axis(0, 2) + each_axis(0, 2)
    else:
        attributes["auto_pad"] = auto
    if op == "ConvTranspose" and draw(st.booleans()):
        attributes["output_padding"] = [
            draw(st.integers(0, max(s, d) - 1)) for s, d in zip(strides, dilations, strict=True)
        ]
    shape = (each * group, out, *kernel) if op == "ConvTranspose" else (out * group, each, *kernel)
    bias = numbers(draw, (out * group,)) if draw(st.booleans()) else None
    data = numbers(draw, (draw(st.integers(1, 2)), each * group, *each_axis(1, 7)))
    computed = draw(st.sampled_from([1, 1, 1, 2]))
    operands: list[Array | None] = [data, numbers(draw, shape), *([bias] if bias is not None else [])]
    return Made(op, operands, computed, attributes)


@st.composite
def pools(draw: Draw) -> Made:
    space = draw(st.integers(1, 3))
    op = draw(st.sampled_from(["MaxPool", "AveragePool", "LpPool"]))

    def each_axis(low: int, high: int) -> list[int]:
        return [draw(st.integers(low, high)) for _ in range(space)]

    kernel = each_axis(1, 3)
    attributes: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": each_axis(1, 3),
        "dilations": each_axis(1, 2),
    }
    attributes["pads"] = [draw(st.integers(0, k - 1)) for k in kernel * 2]
    attributes["ceil_mode"] = draw(st.integers(0, 1))
    if op == "AveragePool":
        attributes["count_include_pad"] = draw(st.integers(0, 1))
    return Made(op, [numbers(draw, (draw(st.integers(1, 2)), 3, *each_axis(1, 7)))], 1, attributes)


UNARY = [
    "Relu",
    "Abs",
    "Neg",
    "Sign",
    "Floor",
    "Sigmoid",
    "Tanh",
    "Erf",
    "Exp",
    "Softplus",
    "Identity",
    "Not",
    "HardSwish",
]
BINARY = [
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Max",
    "Min",
    "Less",
    "Equal",
    "GreaterOrEqual",
    "And",
    "Xor",
    "Mod",
    "PRelu",
    "Pow",
]


@st.composite
def elementwise(draw: Draw) -> Made:
    dtype = draw(st.sampled_from(["float32", "float32", "float16", "float64", "bool", *INTEGERS]))
    shape = shapes(draw, 0, 8)
    if draw(st.booleans()):
        return Made(draw(st.sampled_from(UNARY)), [numbers(draw, shape, dtype)], 1, {})
    keep = draw(st.integers(0, len(shape)))
    other = tuple(d if draw(st.booleans()) else 1 for d in shape[len(shape) - keep :])
    op = draw(st.sampled_from(BINARY))
    pair: list[Array | None] = [numbers(draw, shape, dtype), numbers(draw, other, dtype)]
    if op in ("Div", "Mod") and dtype != "bool":
        pair[1] = np.where(pair[1] == 0, np.array(3, dtype), pair[1]).astype(dtype)  # type: ignore[arg-type]
    if op == "Pow":
        pair = [np.abs(pair[0]), np.abs(pair[1]) % 4] if dtype != "bool" else pair  # type: ignore[arg-type]
    if draw(st.booleans()):
        pair.reverse()
    attributes = {"fmod": 1} if op == "Mod" and dtype.startswith("float") else {}
    return Made(op, pair, draw(st.sampled_from([1, 2])), attributes)


@st.composite
def moves(draw: Draw) -> Made:
    """Operators that move, cut and join, on up to 8 axes."""
    dtype = draw(st.sampled_from(["float32", "float16", "int32", "int64", "int8", "bool"]))
    shape = shapes(draw, 1, 8)
    data, rank = numbers(draw, shape, dtype), len(shape)
    axis = draw(st.integers(-rank, rank - 1))
    kind = draw(
        st.sampled_from(
            ["Transpose", "Slice", "Concat", "Tile", "Expand", "Pad", "Reshape", "Split", "Flatten"]
        )
    )
    if kind == "Transpose":
        return Made(kind, [data], 1, {"perm": draw(st.permutations(range(rank)))})
    if kind == "Slice":
        bound = st.integers(-6, 6)
        cut = [np.array([draw(bound)]), np.array([draw(st.one_of(bound, st.just(2**62)))]), np.array([axis])]
        return Made(kind, [data, *cut, np.array([draw(st.sampled_from([1, 2, -1, -3]))])], 1, {})
    if kind == "Concat":
        return Made(kind, [data, data, numbers(draw, shape, dtype)], draw(st.integers(1, 2)), {"axis": axis})
    if kind == "Tile":
        return Made(kind, [data, np.array([draw(st.integers(1, 2)) for _ in shape])], 1, {})
    if kind == "Expand":
        wide = [d if d > 1 else draw(st.integers(1, 3)) for d in shape]
        return Made(kind, [data, np.array([*draw(st.sampled_from([[], [1], [2]])), *wide])], 1, {})
    if kind == "Pad":
        mode = draw(st.sampled_from(["constant", "reflect", "edge", "wrap"]))
        return Made(
            kind, [data, np.array([draw(st.integers(-1, 2)) for _ in range(2 * rank)])], 1, {"mode": mode}
        )
    if kind == "Reshape":
        return Made(kind, [data, np.array([draw(st.sampled_from([0, shape[0]])), -1])], 1, {})
    if kind == "Split":
        first = draw(st.integers(0, shape[axis]))
        return Made(kind, [data, np.array([first, shape[axis] - first])], 1, {"axis": axis}, outputs=2)
    return Made(kind, [data], 1, {"axis": axis})


@st.composite
def picks(draw: Draw) -> Made:
    """Indices from both ends, constant or computed."""
    shape = shapes(draw, 1, 5)
    data, rank = numbers(draw, shape, draw(st.sampled_from(["float32", "int64"]))), len(shape)
    axis = draw(st.integers(-rank, rank - 1))
    wide = draw(st.sampled_from([np.int32, np.int64]))
    computed = draw(st.integers(1, 2))

    def places(extents: list[int], count: tuple[int, ...]) -> Array:
        return np.stack([numbers(draw, count, "int64") % (2 * e) - e for e in extents], -1).astype(wide)

    kind = draw(st.sampled_from(["Gather", "GatherElements", "GatherND", "ScatterElements", "ScatterND"]))
    if kind == "Gather":
        return Made(kind, [data, places([shape[axis]], shapes(draw, 0, 2))[..., 0]], computed, {"axis": axis})
    if kind == "GatherElements":
        return Made(kind, [data, places([shape[axis]], shape)[..., 0]], computed, {"axis": axis})
    wide = np.int64
    if kind == "GatherND":
        depth = draw(st.integers(1, rank))
        return Made(kind, [data, places(list(shape[:depth]), shapes(draw, 1, 2))], computed, {})
    join = {"reduction": draw(st.sampled_from(["none", "add", "max"]))}
    if kind == "ScatterElements":
        order = np.argsort(np.random.default_rng(1).random(shape), axis)  # each place once
        order = np.where(order % 2 == 0, order, order - shape[axis]).astype(np.int64)
        return Made(
            kind, [data, order, numbers(draw, shape, str(data.dtype))], computed, {"axis": axis, **join}
        )
    rows = np.random.default_rng(2).permutation(shape[0])[: max(1, shape[0] - 1), None].astype(np.int64)
    return Made(kind, [data, rows, numbers(draw, (len(rows), *shape[1:]), str(data.dtype))], computed, join)


@st.composite
def reductions(draw: Draw) -> Made:
    shape = shapes(draw, 1, 8)
    op = draw(st.sampled_from(["Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSumExp", "SumSquare"]))
    axes = sorted(draw(st.sets(st.integers(0, len(shape) - 1), min_size=0, max_size=3)))
    axes = [a - len(shape) if draw(st.booleans()) else a for a in axes]
    dtype = draw(st.sampled_from(["float32", "float32", "int32", "int64"]))
    attributes = {"keepdims": draw(st.integers(0, 1)), "noop_with_empty_axes": draw(st.integers(0, 1))}
    return Made(
        f"Reduce{op}",
        [numbers(draw, shape, dtype), np.array(axes, np.int64)],
        draw(st.integers(1, 2)),
        attributes,
    )


@st.composite
def resizes(draw: Draw) -> Made:
    space = draw(st.integers(1, 2))
    shape = (1, 2, *(draw(st.integers(2, 5)) for _ in range(space)))
    mode = draw(st.sampled_from(["nearest", "linear", "cubic"]))
    attributes = {
        "mode": mode,
        "coordinate_transformation_mode": draw(
            st.sampled_from(["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"])
        ),
        "nearest_mode": draw(st.sampled_from(["round_prefer_floor", "floor", "ceil", "round_prefer_ceil"])),
    }
    if draw(st.booleans()):
        sizes = np.array([1, 2, *(draw(st.integers(1, 9)) for _ in range(space))])
        return Made("Resize", [numbers(draw, shape), None, None, sizes], 1, attributes)
    assume(
        attributes["coordinate_transformation_mode"] != "align_corners"
    )  # ONNX and its runtime differ there
    scales = np.array(
        [1, 1, *(draw(st.sampled_from([0.5, 1.5, 2.0, 2.5])) for _ in range(space))], np.float32
    )
    return Made("Resize", [numbers(draw, shape), None, scales], 1, attributes)


@st.composite
def products(draw: Draw) -> Made:
    lead: tuple[int, ...] = shapes(draw, 0, 4, 3)
    other: tuple[int, ...] = tuple(
        d if draw(st.booleans()) else 1 for d in lead[draw(st.integers(0, len(lead))) :]
    )
    rows, inner, columns = (draw(st.integers(1, 4)) for _ in range(3))
    flat = draw(st.booleans()), draw(st.booleans())
    left = numbers(draw, (*lead, rows, inner) if lead or flat[0] else (inner,))
    right = numbers(draw, (*other, inner, columns) if other or flat[1] else (inner,))
    return Made("MatMul", [left, right], draw(st.integers(1, 2)), {})


def check(strategy: Callable[[], st.SearchStrategy[Made]]) -> Callable[[], None]:
    """A test over a family of operators."""

    @MILD
    @given(strategy())
    def run(made: Made) -> None:
        compare(made, 1e-4)

    return run


test_convolutions = check(convolutions)
test_pools = check(pools)
test_elementwise = check(elementwise)
test_moves = check(moves)
test_picks = check(picks)
test_reductions = check(reductions)
test_resizes = check(resizes)
test_products = check(products)


@MILD
@given(st.sampled_from([np.float16, ml_dtypes.bfloat16]), st.booleans())
def test_half_weights(half: Any, computed_in_half: bool) -> None:
    """Stored in 16 bits and cast where they are read, or a network of float16 throughout."""
    weights = np.random.default_rng(0).standard_normal((3, 2, 3, 3)).astype(half)
    assume(half is np.float16 or not computed_in_half)
    data = (
        np.random.default_rng(1)
        .standard_normal((1, 2, 5, 5))
        .astype(half if computed_in_half else np.float32)
    )
    kind = helper.np_dtype_to_tensor_dtype(data.dtype)
    nodes = [helper.make_node("Cast", ["w"], ["v"], to=kind), helper.make_node("Conv", ["x", "v"], ["y"])]
    held = helper.make_tensor(
        "w", helper.np_dtype_to_tensor_dtype(np.dtype(half)), weights.shape, weights.tobytes(), raw=True
    )
    ports = [
        helper.make_tensor_value_info("x", kind, data.shape),
        helper.make_tensor_value_info("y", kind, (1, 3, 3, 3)),
    ]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], [held])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    wanted = OrtRunner.from_bytes(made.SerializeToString()).run({"x": data})["y"].astype(np.float32)
    got = LiteRtRunner(lower_float(made, io_layout="onnx").data, threads=1).run({"x": data})["y"]
    np.testing.assert_allclose(
        got, wanted, rtol=2e-3 if computed_in_half else 1e-5, atol=1e-3 if computed_in_half else 1e-5
    )
