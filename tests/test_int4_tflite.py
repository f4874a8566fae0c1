"""int4 weights in LiteRT: every kernel that the table names, with XNNPACK and without, and whole networks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from tflite_cases import Array, compiled, seeded

import edgecc
from edgecc.artifact import Artifact
from edgecc.calibration.dataset import random_samples
from edgecc.calibration.observers import collect
from edgecc.importer import load
from edgecc.passes.insert_qdq import InsertQDQ
from edgecc.pipeline import PassContext, Pipeline
from edgecc.quant.params import QuantParams, from_range
from edgecc.quant.plan import make_plan
from edgecc.runtime.litert import LiteRtRunner
from edgecc.runtime.ort import OrtRunner
from edgecc.tflite.graph import Graph, Operator, Tensor
from edgecc.tflite.kernels import demanded
from edgecc.tflite.lower import lower
from edgecc.tflite.versions import version_of
from edgecc.tflite.writer import write

MODELS = Path(__file__).resolve().parents[1] / "models"


def _conv(x: Array, w: Array) -> Array:
    return np.asarray(sum(part @ tap.T for part, tap in _taps(x, w)))


def _depthwise(x: Array, w: Array) -> Array:
    return np.asarray(sum(part * tap[0] for part, tap in _taps(x, w)))


def _taps(x: Array, w: Array) -> list[tuple[Array, Array]]:
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return [(padded[:, i : i + 6, j : j + 6], w[:, i, j]) for i in range(3) for j in range(3)]


_WINDOW = {"padding": 0, "strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1}
# Operator -> shape of the data, of the weights, axis of their channels, options, and the same in real numbers.
KERNELS: dict[str, tuple[tuple[int, ...], tuple[int, ...], int, dict[str, Any], Callable[..., Array]]] = {
    "FULLY_CONNECTED": ((5, 64), (9, 64), 0, {"keepNumDims": False}, lambda x, w: x @ w.T),
    "CONV_2D": ((1, 6, 6, 10), (7, 3, 3, 10), 0, _WINDOW, _conv),
    "DEPTHWISE_CONV_2D": (
        (1, 6, 6, 7), (1, 3, 3, 7), 3, {**_WINDOW, "depthMultiplier": 1}, _depthwise,
    ),
}  # fmt: skip


def one_operator(code: str, activations: str, *, per_channel: bool) -> tuple[bytes, Array, Array]:
    """A file, the stored input, and the real output."""
    shape, extents, axis, options, function = KERNELS[code]
    random = np.random.default_rng(0)
    stored = random.integers(-7, 8, extents).astype(np.int8)
    scale = np.asarray(random.random(extents[axis] if per_channel else 1) * 0.05 + 0.01, np.float32)
    weights = QuantParams(scale, np.zeros(scale.shape), "int4", axis if per_channel else None, narrow=True)
    x, quant, kind = seeded(*shape), None, activations
    if activations != "float32":
        quant = from_range(float(x.min()), float(x.max()), activations)  # type: ignore[arg-type]
        x = quant.dequantize(quant.quantize(x))
    y = function(x.astype(np.float64), weights.dequantize(stored).astype(np.float64))
    out = None if quant is None else from_range(float(y.min()), float(y.max()), activations)  # type: ignore[arg-type]
    bias = QuantParams(
        quant.scale * scale if quant else scale, np.zeros(scale.shape), "int32", 0 if per_channel else None
    )
    zeros = np.zeros(extents[axis], {"float32": np.float32, "int8": np.int32, "int16": np.int64}[activations])
    tensors = [
        Tensor("x", shape, kind, quant=quant), Tensor("w", extents, "int4", stored, weights),
        Tensor("b", zeros.shape, str(zeros.dtype), zeros, bias if quant else None),
        Tensor("y", y.shape, kind, quant=out),
    ]  # fmt: skip
    op = Operator(code, (0, 1, 2), (3,), {**options, "fusedActivationFunction": 0})
    op.version = version_of(op, tensors)
    graph = Graph(tensors, [op], [0], [3], ["x"], ["y"])
    return write(graph, description="", metadata={}), x, y


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("builtin", [False, True])
@pytest.mark.parametrize(
    ("code", "activations"),
    [
        (code, kind.partition("*")[0].removeprefix("q"))
        for code in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
        for kind in demanded("litert").kinds(code)
        if kind.endswith("*qint4/channel")
    ],
)
def test_every_kernel_of_the_table_answers_rightly(
    code: str, activations: str, builtin: bool, per_channel: bool
) -> None:
    data, x, y = one_operator(code, activations, per_channel=per_channel)
    got = LiteRtRunner(data, threads=1, layers=builtin).run({"x": x})["y"]
    step = {"float32": 0.01, "int8": 1.5 / 255, "int16": 2e-4}[
        activations
    ]  # float32 is quantized at run time
    assert np.abs(got - y).max() <= step * (y.max() - y.min())


@pytest.mark.parametrize("activations", ["float32", "int16"])
def test_what_the_table_leaves_out_is_wrong(activations: str) -> None:
    data, x, y = one_operator("DEPTHWISE_CONV_2D", activations, per_channel=True)
    try:
        got = LiteRtRunner(data, threads=1).run({"x": x})["y"]
    except edgecc.EdgeccError:
        return
    assert np.abs(got - y).max() > 0.1 * np.abs(y).max()


def stored(*shape: int, axis: int, block_size: int = 0) -> tuple[Array, Array, dict[str, Any]]:
    """Integers, scales and attributes of a DequantizeLinear."""
    random = np.random.default_rng(sum(shape))
    scales = [d // block_size if i == axis and block_size else d for i, d in enumerate(shape)]
    scale = random.random(scales if block_size else shape[axis]) * 0.05 + 0.01
    array = random.integers(-7, 8, shape).astype(ml_dtypes.int4)
    more = {"block_size": block_size} if block_size else {}
    return array, scale.astype(np.float16).astype(np.float32), {"axis": axis, **more}


Weights = tuple[Array, Array, dict[str, Any]]
CASES: dict[str, tuple[str, tuple[int, ...], Weights, dict[str, Any], dict[str, int]]] = {
    "product": ("MatMul", (3, 64), stored(64, 10, axis=1), {}, {"FULLY_CONNECTED": 1}),
    "product of rank 3": ("MatMul", (2, 3, 64), stored(64, 10, axis=1), {}, {"FULLY_CONNECTED": 1}),
    "odd inputs": ("MatMul", (3, 63), stored(63, 5, axis=1), {}, {"FULLY_CONNECTED": 1}),
    "few outputs": ("Gemm", (3, 64), stored(2, 64, axis=0), {"transB": 1}, {"FULLY_CONNECTED": 1}),
    "blocks": ("MatMul", (3, 128), stored(128, 10, axis=0, block_size=32), {}, {"FULLY_CONNECTED": 1}),
    "blocks of 64, transposed": (
        "Gemm", (3, 128), stored(10, 128, axis=1, block_size=64), {"transB": 1}, {"FULLY_CONNECTED": 1}),
    "blocks, few outputs": ("MatMul", (3, 64), stored(64, 3, axis=0, block_size=32), {}, {"FULLY_CONNECTED": 1}),
    "pointwise": ("Conv", (1, 32, 5, 5), stored(12, 32, 1, 1, axis=0), {}, {"FULLY_CONNECTED": 1}),
    "pointwise in blocks": (
        "Conv", (1, 64, 5, 5), stored(12, 64, 1, 1, axis=1, block_size=32), {}, {"FULLY_CONNECTED": 1}),
    "pointwise, odd inputs": ("Conv", (1, 7, 5, 5), stored(12, 7, 1, 1, axis=0), {}, {"CONV_2D": 1}),
    "pointwise, strided": ("Conv", (1, 8, 6, 6), stored(4, 8, 1, 1, axis=0), {"strides": [2, 2]}, {"CONV_2D": 1}),
    "pointwise, one-dimensional": ("Conv", (1, 8, 6), stored(4, 8, 1, axis=0), {}, {"FULLY_CONNECTED": 1}),
    "window": ("Conv", (1, 6, 7, 7), stored(5, 6, 3, 3, axis=0), {"pads": [1, 1, 1, 1]}, {"CONV_2D": 1}),
    "groups": ("Conv", (1, 6, 7, 7), stored(4, 3, 3, 3, axis=0), {"group": 2}, {"CONV_2D": 1}),
    "depthwise": ("Conv", (1, 6, 7, 7), stored(6, 1, 3, 3, axis=0), {"group": 6}, {"DEPTHWISE_CONV_2D": 1}),
    "transposed": ("ConvTranspose", (1, 6, 7, 7), stored(6, 4, 3, 3, axis=1), {}, {"TRANSPOSE_CONV": 1}),
}  # fmt: skip


def dequantizing(
    op: str, shape: tuple[int, ...], weights: Weights, relu: bool, **attributes: Any
) -> onnx.ModelProto:
    array, scale, more = weights
    nodes = [
        onnx.helper.make_node("DequantizeLinear", ["q", "s"], ["w"], name="dq", **more),
        onnx.helper.make_node(op, ["x", "w"], ["h" if relu else "y"], name="node", **attributes),
    ]
    if relu:
        nodes.append(onnx.helper.make_node("Relu", ["h"], ["y"], name="relu"))
    graph = onnx.helper.make_graph(
        nodes, "g", [onnx.helper.make_tensor_value_info("x", 1, shape)],
        [onnx.helper.make_tensor_value_info("y", 1, None)],
        [onnx.numpy_helper.from_array(array, "q"), onnx.numpy_helper.from_array(scale, "s")],
    )  # fmt: skip
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)


def between_integers(made: onnx.ModelProto, weights: Weights) -> onnx.ModelProto:
    """The same on int8 activations: Q/DQ pairs around the operator."""
    copy = onnx.ModelProto()
    copy.CopyFrom(made)
    scale, nodes = np.array(0.03, np.float32), list(copy.graph.node)
    step = np.array(0.1 * np.sqrt(weights[0][0].size), np.float32)
    for number, (value, inner, size) in enumerate((("x", "x_real", scale), ("y_real", "y", step))):
        copy.graph.initializer.extend(
            onnx.numpy_helper.from_array(a, f"{n}{number}")
            for n, a in (("scale", size), ("zero", np.array(0, np.int8)))
        )
        pair = (f"scale{number}", f"zero{number}")
        nodes += [
            onnx.helper.make_node("QuantizeLinear", [value, *pair], [f"{inner}_q"]),
            onnx.helper.make_node("DequantizeLinear", [f"{inner}_q", *pair], [inner]),
        ]
    for node in nodes[:-4]:
        node.input[:] = ["x_real" if name == "x" else name for name in node.input]
        node.output[:] = ["y_real" if name == "y" else name for name in node.output]
    del copy.graph.node[:]
    copy.graph.node.extend([*nodes[-4:-2], *nodes[:-4], *nodes[-2:]])
    return copy


@pytest.mark.parametrize(
    "name", [n for n, c in CASES.items() if c[0] != "ConvTranspose" and "block_size" not in c[2][2]]
)
def test_integer_sites_read_int4_weights(name: str) -> None:
    op, shape, weights, attributes, operators = CASES[name]
    made = between_integers(dequantizing(op, shape, weights, relu=True, **attributes), weights)
    feeds = {"x": seeded(*shape, seed=4)}
    wanted = OrtRunner.from_bytes(made.SerializeToString(), optimize=False).run(feeds)["y"]
    artifact = compiled(made, "onnx")
    assert {code: n for code, n in artifact.notes["operators"].items() if code in operators} == operators
    assert list(kinds(artifact)) == [f"{next(iter(operators))} INT4"]
    for builtin in (False, True):
        got = LiteRtRunner(artifact.data, threads=1, layers=builtin).run(feeds)["y"]
        assert np.abs(got - wanted).max() <= 0.02 * np.abs(wanted).max(), builtin


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_dequantized_weights_as_onnx_runtime_answers(name: str, relu: bool) -> None:
    op, shape, weights, attributes, operators = CASES[name]
    made = dequantizing(op, shape, weights, relu, **attributes)
    feeds = {"x": seeded(*shape, seed=4)}
    wanted = OrtRunner.from_bytes(made.SerializeToString(), optimize=False).run(feeds)["y"]
    artifact = compiled(made, "onnx")
    found = {code: n for code, n in artifact.notes["operators"].items() if code in ("CONV_2D", *operators)}
    assert found == operators
    for builtin in (False, True):
        got = LiteRtRunner(artifact.data, threads=1, layers=builtin).run(feeds)["y"]
        assert got.shape == wanted.shape
        assert np.abs(got - wanted).max() <= 0.025 * np.abs(wanted).max(), (
            builtin
        )  # int8 activations at run time


def kinds(artifact: Artifact) -> dict[str, int]:
    """How many operators read weights of each type."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(artifact.data, 0))
    tensors = model.subgraphs[0].tensors
    names = {v: n for n, v in vars(schema.TensorType).items() if isinstance(v, int)}
    counts: dict[str, int] = {}
    for op in model.subgraphs[0].operators:
        code = {v: n for n, v in vars(schema.BuiltinOperator).items()}[
            model.operatorCodes[op.opcodeIndex].builtinCode
        ]
        if code in ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D"):
            key = f"{code} {names[tensors[op.inputs[1]].type]}"
            counts[key] = counts.get(key, 0) + 1
    return counts


def test_flattened_inputs_keep_their_order_in_blocks() -> None:
    """Columns of a matrix behind a Flatten are permuted for NHWC; its blocks must not be torn apart."""
    array, scale, more = stored(128, 10, axis=0, block_size=32)
    made = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21]> g (float[1,8,4,4] x) => (float[1,10] y)'
        " { p = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(x) f = Flatten(p)"
        " w = DequantizeLinear<axis=0, block_size=32>(q, s) y = MatMul(f, w) }"
    )
    assert more == {"axis": 0, "block_size": 32}
    made.graph.initializer.extend(
        [onnx.numpy_helper.from_array(array, "q"), onnx.numpy_helper.from_array(scale, "s")]
    )
    feeds = {"x": seeded(1, 8, 4, 4)}
    wanted = OrtRunner.from_bytes(made.SerializeToString(), optimize=False).run(feeds)["y"]
    got = LiteRtRunner(compiled(made, "nhwc").data, threads=1).run({"x": feeds["x"]})["y"]
    assert np.abs(got - wanted).max() <= 0.025 * np.abs(wanted).max()


def calibrated(original: onnx.ModelProto) -> tuple[Artifact, Any]:
    """The int4 artifact on int8 activations, and the Q/DQ network that it was made of."""
    floats = load(original)
    statistics = collect(floats, random_samples(floats, count=8, seed=3))
    plan = make_plan(floats, statistics, precision="int4").for_runtime("tflite", floats)
    model, log = Pipeline([InsertQDQ()]).run(floats, PassContext(plan=plan))
    return lower(model, precision="int4", target="arm"), (model, log.records[0].refused)


def test_int8_activations_answer_as_the_network_with_qdq_nodes() -> None:
    text = (
        "g (float[1,8,9,9] x) => (float[1,6] y) { a = Conv<pads=[1,1,1,1]>(x, k, c) r = Relu(a)"
        " b = Conv<group=16, pads=[1,1,1,1]>(r, d) p = Conv(b, e) g = GlobalAveragePool(p) f = Flatten(g)"
        " y = MatMul(f, m) }"
    )
    made = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> {text}')
    for name, array in (("k", seeded(16, 8, 3, 3)), ("c", seeded(16)), ("d", seeded(16, 1, 3, 3)),
                        ("e", seeded(12, 16, 1, 1)), ("m", seeded(12, 6))):  # fmt: skip
        made.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    artifact, (model, refused) = calibrated(made)
    assert kinds(artifact) == {"CONV_2D INT4": 1, "DEPTHWISE_CONV_2D INT8": 1, "FULLY_CONNECTED INT4": 2}
    assert any("its weights are int8: a depthwise convolution" in r.reason for r in refused)
    reference = OrtRunner.from_model(model, optimize=False)
    for seed in range(4):
        feeds = {"x": seeded(1, 8, 9, 9, seed=seed)}
        wanted = reference.run(feeds)["y"]
        for builtin in (False, True):
            got = LiteRtRunner(artifact.data, threads=1, layers=builtin).run(feeds)["y"]
            assert np.abs(got - wanted).max() <= 0.02 * np.abs(wanted).max()


@pytest.mark.parametrize(
    "name", ["pointwise", "pointwise in blocks", "pointwise, one-dimensional", "window", "product"]
)
def test_a_free_batch_stays_free(name: str) -> None:
    op, shape, weights, attributes, _ = CASES[name]
    made = dequantizing(op, shape, weights, relu=True, **attributes)
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    artifact = compiled(made, "onnx")
    feeds = {"x": seeded(5, *shape[1:])}
    wanted = OrtRunner.from_bytes(made.SerializeToString(), optimize=False).run(feeds)["y"]
    for builtin in (False, True):
        got = LiteRtRunner(artifact.data, threads=1, layers=builtin).run(feeds)["y"]
        assert got.shape == wanted.shape
        assert np.abs(got - wanted).max() <= 0.025 * np.abs(wanted).max()


def test_int4_is_smaller_than_int8_and_answers_alike(tmp_path: Path) -> None:
    sizes = {}
    with np.load(MODELS / "digits_cnn_test.npz") as file:
        x, labels = file["image"], file["labels"]
    for precision in ("dynamic", "int4"):
        result = edgecc.compile(
            MODELS / "digits_cnn.onnx", precision=precision, format="tflite", eval_data=x, labels=labels,
            no_profile=True, output=tmp_path / precision,
        )  # fmt: skip
        artifact, fidelity = result.artifacts["tflite"], result.fidelity
        sizes[precision] = artifact.size
        assert fidelity is not None
        assert (fidelity.agreement or 0) > 0.97
    assert sizes["int4"] < 0.75 * sizes["dynamic"]


@pytest.mark.parametrize("data", [True, False])
def test_resnet20_loses_less_than_two_points(shared: Path, tmp_path: Path, data: bool) -> None:
    with np.load(shared / "data" / "cifar10_test_dev.npz") as file:
        x, labels = file["x"], file["y"]
    mean, std = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
    x = ((x / np.float32(255) - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)
    chosen = np.arange(0, len(x), max(1, len(x) // 100))
    rest = np.setdiff1d(np.arange(len(x)), chosen)[::3]
    result = edgecc.compile(
        shared / "models" / "resnet20.onnx", precision="int4", format="tflite", data=x[chosen] if data else None,
        eval_data=x[rest], labels=labels[rest], no_profile=True, output=tmp_path / "out",
    )  # fmt: skip
    fidelity = result.fidelity
    assert fidelity is not None
    assert fidelity.drop is not None
    assert fidelity.drop < 2.0
    assert fidelity.sqnr_db > 16.0
    assert result.artifacts["tflite"].size < 180_000
