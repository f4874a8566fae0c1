"""Networks that carry quantization: integer artifacts that answer like the original, run as it is written."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tflite_cases import Array, ints, seeded

import edgecc
from edgecc import ir
from edgecc.artifact import Artifact
from edgecc.errors import UsageError
from edgecc.importer import load
from edgecc.options import CompileOptions
from edgecc.pipeline import PassContext, Pipeline
from edgecc.presets import float_passes, keeping_passes, make_pass
from edgecc.quant import carried
from edgecc.runtime.litert import LiteRtRunner
from edgecc.runtime.ort import OrtRunner
from edgecc.target import target
from edgecc.tflite.lower import lower

MODELS = Path(__file__).resolve().parents[1] / "models"
Make = Callable[..., Path]


def artifact_of(source: Any, precision: str = "int8") -> Artifact:
    device = target("arm")
    passes = [*float_passes(device, CompileOptions()), *keeping_passes("tflite")]
    model, _ = Pipeline(passes).run(load(source), PassContext(target=device))
    return lower(model, precision=precision, target="arm")


def answers(
    data: bytes, artifact: Artifact, feeds: Mapping[str, Array]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Of the original, its graph as it is written, and of the artifact."""
    wanted = OrtRunner.from_bytes(data, optimize=False, threads=1).run(feeds)
    return wanted, LiteRtRunner(artifact.data, threads=1).run(feeds)


# ---- what ONNX Runtime's quantizer writes ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def quantize(tmp_path_factory: pytest.TempPathFactory) -> Make:
    from onnxruntime import quantization as q

    folder = tmp_path_factory.mktemp("quantized")

    class Reader(q.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, stem: str, name: str) -> None:
            held = np.load(MODELS / f"{stem}_calib.npz")
            self.samples = iter([{name: sample[None]} for sample in held[held.files[0]][:24]])

        def get_next(self) -> dict[str, Array] | None:
            return next(self.samples, None)

    def make(stem: str, form: str, per_channel: bool, activations: str, weights: str) -> Path:
        ready, made = folder / f"{stem}.onnx", folder / f"{stem}.quantized.onnx"
        if not ready.exists():
            q.shape_inference.quant_pre_process(
                str(MODELS / f"{stem}.onnx"), str(ready), skip_symbolic_shape=True
            )
        if form == "dynamic":
            q.quantize_dynamic(ready, made, per_channel=per_channel, weight_type=q.QuantType[weights])
            return made
        name = onnx.load(ready, load_external_data=False).graph.input[0].name
        q.quantize_static(
            ready, made, Reader(stem, name), quant_format=q.QuantFormat[form], per_channel=per_channel,
            activation_type=q.QuantType[activations], weight_type=q.QuantType[weights],
        )  # fmt: skip
        return made

    return make


def agreement(path: Path, artifact: Artifact, stem: str, count: int = 40) -> tuple[float, float, float]:
    """Largest difference in steps of the output, share of equal numbers, SQNR in dB."""
    held = np.load(MODELS / f"{stem}_test.npz")
    samples = next(held[k] for k in held.files if held[k].dtype == np.float32)[:count]
    reference = OrtRunner.from_file(path, optimize=False, threads=1)
    runner = LiteRtRunner(artifact.data, threads=1)
    name, out = reference.inputs[0].name, reference.outputs[0].name
    wanted = np.stack([reference.run({name: s[None]})[out] for s in samples]).astype(np.float64)
    got = np.stack([runner.run({name: s[None]})[out] for s in samples]).astype(np.float64)
    step = np.diff(np.unique(wanted)).min()
    error = np.abs(got - wanted)
    noise = float((error**2).sum())
    sqnr = np.inf if noise == 0 else 10 * np.log10((wanted**2).sum() / noise)
    return float(error.max() / step), float((error < step / 2).mean()), float(sqnr)


@pytest.mark.parametrize("stem", ["digits_cnn", "digits_mlp"])
@pytest.mark.parametrize(
    ("form", "per_channel", "activations", "weights"),
    [
        ("QDQ", True, "QInt8", "QInt8"), ("QDQ", False, "QUInt8", "QInt8"), ("QDQ", False, "QUInt8", "QUInt8"),
        ("QOperator", True, "QInt8", "QInt8"), ("QOperator", False, "QUInt8", "QUInt8"),
        ("QOperator", True, "QUInt8", "QInt8"),
    ],
)  # fmt: skip
def test_static_quantization(
    quantize: Make, stem: str, form: str, per_channel: bool, activations: str, weights: str
) -> None:
    """One step apart at most, no island of real numbers, and no more conversions than at the ports (and for uint8)."""
    path = quantize(stem, form, per_channel, activations, weights)
    artifact = artifact_of(path)
    worst, equal, _ = agreement(path, artifact, stem)
    assert worst <= 1.01
    assert equal >= (1.0 if form == "QOperator" else 0.9)
    assert artifact.notes["float_islands"] == []
    found = artifact.notes["operators"]
    assert found["DEQUANTIZE"] == 1
    if weights == "QInt8":
        # At the input, and behind a Softmax whose scale is not the kernel's.
        assert found["QUANTIZE"] == 1 + (stem == "digits_mlp" and form == "QDQ")


def test_sixteen_bits(quantize: Make) -> None:
    """int16 with a zero point becomes int16 without one, half as fine, that ends where the other did."""
    path = quantize("digits_cnn", "QDQ", True, "QInt16", "QInt8")
    artifact = artifact_of(path, "int16x8")
    assert agreement(path, artifact, "digits_cnn")[2] > 70
    assert artifact.notes["float_islands"] == []


@pytest.mark.parametrize(("per_channel", "weights"), [(True, "QInt8"), (False, "QInt8"), (False, "QUInt8")])
@pytest.mark.parametrize("stem", ["digits_cnn", "digits_mlp"])
def test_dynamic_quantization(quantize: Make, stem: str, per_channel: bool, weights: str) -> None:
    """Kernels of dynamic range, as many as the float network has; they round activations in their own way."""
    path = quantize(stem, "dynamic", per_channel, "QUInt8", weights)
    artifact = artifact_of(path, "dynamic")
    assert agreement(path, artifact, stem)[2] > 30
    assert not {"BATCH_MATMUL", "CAST", "ROUND"} & set(artifact.notes["operators"])
    assert len(artifact.data) < 1.3 * path.stat().st_size


# ---- patterns of other tools -----------------------------------------------------------------------------------

CONSTANTS: dict[str, Array] = {
    "mat": (40 * seeded(6, 6)).astype(np.int8), "six": seeded(6),
    "fine": np.array(0.008, np.float32),
    "s": np.array(0.05, np.float32), "t": np.array(0.03, np.float32), "u": np.array(0.11, np.float32),
    "z": np.array(-3, np.int8), "zz": np.array(-128, np.int8), "uz": np.array(125, np.uint8),
    "w8": (40 * seeded(4, 4, 1, 1)).astype(np.int8), "ws": np.array([0.01, 0.02, 0.015, 0.03], np.float32),
    "one": np.array(0.01, np.float32),
    "w4": np.array([0, 0, 0, 0], np.int8), "bias": seeded(4), "b32": (900 * seeded(4)).astype(np.int32),
    "bs": np.array([0.05, 0.05, 0.05, 0.05], np.float32) * np.array([0.01, 0.02, 0.015, 0.03], np.float32),
    "other": np.array([0.0007], np.float32).reshape(()), "wf": seeded(4, 4, 1, 1),
    "wu": (128 + 40 * seeded(4, 4, 1, 1)).astype(np.uint8), "wz": np.array(128, np.uint8),
    "wide": np.linspace(0, 255, 16).reshape(4, 4, 1, 1).astype(np.uint8), "z90": np.array(90, np.uint8),
    "narrow": np.linspace(20, 200, 16).reshape(4, 4, 1, 1).astype(np.uint8),
    "zeros": np.zeros(4, np.int8), "zero": np.array(0, np.float32), "four": np.array(4, np.float32),
    "flat": ints(1, 192), "fc": (30 * seeded(5, 192)).astype(np.int8), "fcs": np.array(0.002, np.float32),
    "back": ints(1, 8, 4, 6), "amounts": ints(0, 0, 1, 1, 0, 0, 0, 1), "pick": ints(2, 0),
}  # fmt: skip
X = "a = QuantizeLinear(x, s, z) d = DequantizeLinear(a, s, z)"
W = "w = DequantizeLinear<axis=0>(w8, ws, w4)"
Y = "q = QuantizeLinear(c, t, z) y = DequantizeLinear(q, t, z)"
CONV = f"{X} {W} c = Conv(d, w)"
# name -> (nodes, most steps of the result that may lie between, operators that must be there and how many)
PATTERNS: dict[str, tuple[str, float, dict[str, int]]] = {
    "plain": (f"{CONV} {Y}", 1, {"CONV_2D": 1}),
    "relu behind a pair": (
        f"{CONV} m = QuantizeLinear(c, u, z) n = DequantizeLinear(m, u, z) r = Relu(n)"
        " q = QuantizeLinear(r, t, z) y = DequantizeLinear(q, t, z)",
        1, {"CONV_2D": 1, "RELU": 1},
    ),
    "relu that changes nothing": (
        f"{CONV} m = QuantizeLinear(c, u, zz) n = DequantizeLinear(m, u, zz) r = Relu(n)"
        " q = QuantizeLinear(r, u, zz) y = DequantizeLinear(q, u, zz)",
        1, {"CONV_2D": 1, "RELU": 0},
    ),
    "fused relu": (f"{X} {W} r = Conv(d, w) c = Relu(r) {Y}", 1, {"CONV_2D": 1, "RELU": 0}),
    "clip that no kernel fuses": (
        f"{X} {W} r = Conv(d, w) c = Clip(r, zero, four) {Y}", 1, {"CONV_2D": 1, "MAXIMUM": 1, "DEQUANTIZE": 1}
    ),
    "float bias": (f"{X} {W} c = Conv(d, w, bias) {Y}", 1, {"CONV_2D": 1}),
    "stored bias": (
        f"{X} {W} b = DequantizeLinear<axis=0>(b32, bs) c = Conv(d, w, b) {Y}", 1, {"CONV_2D": 1}
    ),
    "bias of another scale": (
        f"{X} {W} b = DequantizeLinear(b32, other) c = Conv(d, w, b) {Y}", 1, {"CONV_2D": 1}
    ),
    "weights quantized by a node": (
        f"{X} k = QuantizeLinear<axis=0>(wf, ws, w4) w = DequantizeLinear<axis=0>(k, ws, w4) c = Conv(d, w) {Y}",
        1, {"CONV_2D": 1},
    ),
    "uint8 weights": (f"{X} w = DequantizeLinear(wu, one, wz) c = Conv(d, w) {Y}", 1, {"CONV_2D": 1, "QUANTIZE": 1}),
    "uint8 weights that int8 holds": (
        f"{X} w = DequantizeLinear(narrow, one, z90) c = Conv(d, w) {Y}", 1, {"CONV_2D": 1, "QUANTIZE": 1}
    ),
    "uint8 weights that int8 does not hold": (
        f"{X} w = DequantizeLinear(wide, one, z90) c = Conv(d, w) {Y}", 1, {"CONV_2D": 1, "DEQUANTIZE": 1}
    ),
    "no pair behind a reshape": (
        f"{X} r = Reshape(d, flat) f = DequantizeLinear(fc, fcs) c = Gemm<transB=1>(r, f) {Y}",
        1, {"FULLY_CONNECTED": 1, "DEQUANTIZE": 1},
    ),
    "transposed weights": (
        f"{X} r = Reshape(d, flat) f = DequantizeLinear(fc, fcs) v = Transpose<perm=[1,0]>(f) c = MatMul(r, v) {Y}",
        1, {"FULLY_CONNECTED": 1, "TRANSPOSE": 0},
    ),
    "bias behind a product": (
        f"{X} v = DequantizeLinear(mat, one) r = MatMul(d, v) c = Add(r, six) {Y}",
        1, {"FULLY_CONNECTED": 1, "ADD": 0, "QUANTIZE": 1, "DEQUANTIZE": 1},
    ),
    "no pair before a pool": (
        f"{X} {W} r = Conv(d, w) c = MaxPool<kernel_shape=[2,2]>(r) {Y}", 1, {"CONV_2D": 1, "DEQUANTIZE": 1}
    ),
    "pool between scales": (
        f"{X} c = MaxPool<kernel_shape=[2,2]>(d) {Y}", 1, {"MAX_POOL_2D": 1, "QUANTIZE": 2}
    ),
    "mean of a narrower scale": (
        f"{X} c = AveragePool<kernel_shape=[4,3], strides=[4,3]>(d)"
        " q = QuantizeLinear(c, fine, z) y = DequantizeLinear(q, fine, z)",
        1,
        {"DEPTHWISE_CONV_2D": 1, "DEQUANTIZE": 1},
    ),
    "parts of several scales": (
        f"{X} c, e = Split<axis=1, num_outputs=2>(d) m = QuantizeLinear(c, t, z) n = DequantizeLinear(m, t, z)"
        " k = QuantizeLinear(e, u, z) l = DequantizeLinear(k, u, z) v = Add(n, l)"
        " q = QuantizeLinear(v, u, z) y = DequantizeLinear(q, u, z)",
        1, {"SPLIT": 1, "ADD": 1, "QUANTIZE": 3, "DEQUANTIZE": 1},
    ),
    "concat of scales": (
        f"{CONV} m = QuantizeLinear(c, u, z) n = DequantizeLinear(m, u, z) r = Concat<axis=1>(d, n)"
        " q = QuantizeLinear(r, u, z) y = DequantizeLinear(q, u, z)",
        1, {"CONCATENATION": 1, "QUANTIZE": 2},
    ),
    "readers of several scales": (
        f"{CONV} m = QuantizeLinear(c, u, z) n = DequantizeLinear(m, u, z)"
        " k = QuantizeLinear(c, t, z) l = DequantizeLinear(k, t, z) e = Add(n, l)"
        " q = QuantizeLinear(e, u, z) y = DequantizeLinear(q, u, z)",
        2, {"CONV_2D": 1, "ADD": 1, "QUANTIZE": 2},
    ),
    "moves of stored integers": (
        "a = QuantizeLinear(x, s, z) m = MaxPool<kernel_shape=[2,2], pads=[0,0,1,1]>(a) r = Reshape(m, back)"
        " p = Pad(r, amounts) g = Gather<axis=1>(p, pick) y = DequantizeLinear(g, s, z)",
        0, {"MAX_POOL_2D": 1, "GATHER": 1, "QUANTIZE": 1, "DEQUANTIZE": 1},
    ),
    "scale of a sigmoid": (f"{X} c = Sigmoid(d) {Y}", 1, {"LOGISTIC": 1, "DEQUANTIZE": 1}),
    "saturation is an activation": (
        f"{X} k = Exp(d) m = QuantizeLinear(k, t, zz) y = DequantizeLinear(m, t, zz)", 1, {"EXP": 1}
    ),
}  # fmt: skip


def network(text: str, source: str = "float[1,4,8,6] x", result: str = "float[a,b,c,d] y") -> onnx.ModelProto:
    made = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 21]> g ({source}) => ({result}) {{ {text} }}'
    )
    names = set(text.replace(",", " ").replace("(", " ").replace(")", " ").split())
    made.graph.initializer.extend(
        onnx.numpy_helper.from_array(a, n) for n, a in CONSTANTS.items() if n in names
    )
    inferred = onnx.shape_inference.infer_shapes(made, data_prop=True).graph.value_info
    shapes = {v.name: v for v in inferred}
    if made.graph.output[0].name in shapes:
        made.graph.output[0].CopyFrom(shapes[made.graph.output[0].name])
    else:
        made.graph.output[0].type.tensor_type.ClearField("shape")
    return made


@pytest.mark.parametrize("name", PATTERNS)
def test_pattern(name: str) -> None:
    text, steps, operators = PATTERNS[name]
    made = network(text)
    artifact = artifact_of(made)
    found = artifact.notes["operators"]
    assert {code: found.get(code, 0) for code in operators} == operators, found
    last = text.rsplit("DequantizeLinear(", 1)[1].split(",")[1].strip()
    scale = CONSTANTS[last]
    for seed in range(3):
        wanted, got = answers(made.SerializeToString(), artifact, {"x": 2 * seeded(1, 4, 8, 6, seed=seed)})
        assert wanted["y"].shape == got["y"].shape
        assert np.abs(got["y"] - wanted["y"]).max() <= (steps + 0.01) * float(scale)


@pytest.mark.parametrize("per_tensor", [True, False])
def test_weights_alone(per_tensor: bool) -> None:
    """A depthwise kernel of dynamic range has one scale a channel, or answers wrongly."""
    weights = "w = DequantizeLinear(v8, one)" if per_tensor else "w = DequantizeLinear<axis=0>(v8, ws)"
    made = network(f"{weights} y = Conv<group=4, pads=[1,1,1,1]>(x, w)")
    made.graph.initializer.append(
        onnx.numpy_helper.from_array((40 * seeded(4, 1, 3, 3)).astype(np.int8), "v8")
    )
    artifact = artifact_of(made, "dynamic")
    wanted, got = answers(made.SerializeToString(), artifact, {"x": seeded(1, 4, 8, 6)})
    assert np.abs(got["y"] - wanted["y"]).max() <= 0.03 * np.abs(wanted["y"]).max()


# ---- stored inputs and outputs ---------------------------------------------------------------------------------


def test_ports_of_integers() -> None:
    """A network that takes and gives uint8 does so as TFLite, bit for bit."""
    text = f"d = DequantizeLinear(x, s, uz) {W} c = Conv(d, w) y = QuantizeLinear(c, t, uz)"
    made = network(text, "uint8[1,4,8,6] x", "uint8[1,4,8,6] y")
    artifact = artifact_of(made)
    assert [p.dtype for p in (*artifact.inputs, *artifact.outputs)] == ["uint8", "uint8"]
    assert [p.scale for p in (*artifact.inputs, *artifact.outputs)] == [None, None]
    assert "DEQUANTIZE" not in artifact.notes["operators"]
    feeds = {"x": np.random.default_rng(0).integers(0, 256, (1, 4, 8, 6)).astype(np.uint8)}
    wanted, got = answers(made.SerializeToString(), artifact, feeds)
    assert got["y"].dtype == np.uint8
    assert np.abs(got["y"].astype(int) - wanted["y"].astype(int)).max() <= 1


def test_integers_that_are_searched() -> None:
    made = network("a = QuantizeLinear(x, s, z) y = ArgMax<axis=1, keepdims=0>(a)", result="int64[1,8,6] y")
    artifact = artifact_of(made)
    wanted, got = answers(made.SerializeToString(), artifact, {"x": seeded(1, 4, 8, 6)})
    np.testing.assert_array_equal(got["y"], wanted["y"])


# ---- compile ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["QDQ", "QOperator", "dynamic"])
def test_the_cost_of_a_quantized_network_is_that_of_the_float_one(quantize: Make, form: str) -> None:
    from edgecc.analysis.cost import total_macs, total_parameters

    original = load(MODELS / "digits_cnn.onnx")
    stored = load(quantize("digits_cnn", form, False, "QUInt8", "QInt8"))
    assert total_macs(stored) == total_macs(original)
    assert 0.9 < total_parameters(stored) / total_parameters(original) < 1.1


def test_compile_keeps_what_it_finds(quantize: Make, tmp_path: Path) -> None:
    path = quantize("digits_cnn", "QDQ", True, "QInt8", "QInt8")
    result = edgecc.compile(path, no_profile=True, output=tmp_path / "o")
    assert {a.precision for a in result.artifacts.values()} == {"int8"}
    (note,) = result.report.warnings
    assert "quantized already (int8: 22 activations and 17 weights): its scales are kept" in note
    assert all(f.sqnr_db > 45 for f in result.fidelities.values())
    plan = edgecc.quant.plan.QuantPlan.from_json((tmp_path / "o" / "plan.json").read_text())
    scales = {float(p.scale[0]) for p in plan.tensors.values() if p.axis is None}
    held = onnx.load(path)
    written = [onnx.numpy_helper.to_array(i) for i in held.graph.initializer if i.name == "image_scale"]
    assert float(written[0]) in scales


def test_compile_makes_it_float_where_that_is_asked_for(quantize: Make, tmp_path: Path) -> None:
    path = quantize("digits_mlp", "QOperator", False, "QUInt8", "QUInt8")
    result = edgecc.compile(path, precision="fp32", format="tflite", no_profile=True, output=tmp_path / "o")
    assert "its scales are removed" in result.report.warnings[0]
    assert not {"QUANTIZE", "DEQUANTIZE"} & set(result.artifacts["tflite"].notes["operators"])
    with pytest.raises(UsageError, match="needs calibration data"):
        edgecc.compile(path, precision="int16x8", no_profile=True, output=tmp_path / "p")


def test_compile_quantizes_a_dynamic_network_with_data(quantize: Make, tmp_path: Path) -> None:
    path = quantize("digits_mlp", "dynamic", False, "QUInt8", "QInt8")
    assert str(carried.find(load(path))).startswith(
        "the network is quantized already (dynamic: 0 activations"
    )
    result = edgecc.compile(
        path, precision="int8", data=MODELS / "digits_mlp_calib.npz", format="tflite", no_profile=True,
        output=tmp_path / "o",
    )  # fmt: skip
    fidelity = result.fidelity
    assert fidelity is not None and fidelity.agreement is not None
    assert fidelity.agreement > 0.98
    assert result.artifacts["tflite"].notes["float_islands"] == []


# ---- passes ----------------------------------------------------------------------------------------------------


def run(name: str, made: onnx.ModelProto) -> tuple[ir.Model, Any]:
    model, log = Pipeline([make_pass(name)]).run(load(made), PassContext())
    return model, log.records[0]


def test_remove_qdq_puts_back_the_activation_that_saturation_stood_for() -> None:
    made = network(f"{CONV} q = QuantizeLinear(c, t, zz) y = DequantizeLinear(q, t, zz)")
    model, record = run("remove_qdq", made)
    assert [n.op_type for n in model.graph] == ["Conv", "Relu"]
    assert record.rewritten == 3


def test_settle_qdq_leaves_other_scales_alone() -> None:
    """A pair behind a MaxPool of another scale is no rounding that was done before: nothing moves."""
    made = network(f"{X} c = MaxPool<kernel_shape=[2,2]>(d) {Y}")
    assert run("settle_qdq", made)[1].rewritten == 0


def test_settle_qdq_does_not_touch_float_networks() -> None:
    made = network("c = MaxPool<kernel_shape=[2,2]>(x) y = Relu(c)")
    assert run("settle_qdq", made)[1].rewritten == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a, b, e = DynamicQuantizeLinear(x) y = ConvInteger(a, wu)", "zero point is not that of its activations"),
        ("a, b, e = DynamicQuantizeLinear(x) y = ConvInteger(a, wu, e)", "not made real at once"),
        (
            "a, b, e = DynamicQuantizeLinear(x) i = ConvInteger(a, wu, e) r = Cast<to=1>(i) y = Mul(r, one)",
            "not multiplied by the scales of both",
        ),
    ],
)  # fmt: skip
def test_dynamic_products_that_are_none(text: str, reason: str) -> None:
    kind = "int32" if "Mul" not in text else "float"
    _, record = run("fuse_dynamic_quantization", network(text, result=f"{kind}[1,4,8,6] y"))
    assert record.rewritten == 0
    assert reason in record.refused[0].reason


def test_qoperators_with_computed_scales_stay() -> None:
    text = (
        "m = ReduceMax<keepdims=0>(x) a = QuantizeLinear(x, m, uz) c = QLinearConv(a, m, uz, wu, one, wz, s, uz)"
        " y = DequantizeLinear(c, s, uz)"
    )
    _, record = run("qoperators_to_qdq", network(text))
    assert record.rewritten == 0
    assert "computed while running" in record.refused[0].reason
