"""The ONNX artifact: what the table calls fusable fuses, the answers stay, the bytes are always the same."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from edgecc.artifact import Artifact
from edgecc.calibration.observers import collect
from edgecc.errors import UnsupportedError
from edgecc.importer import load
from edgecc.onnxrt.export import export
from edgecc.onnxrt.readback import read_back
from edgecc.passes.insert_qdq import InsertQDQ
from edgecc.pipeline import PassContext
from edgecc.quant import rules
from edgecc.quant.plan import make_plan
from edgecc.runtime.ort import OrtRunner
from edgecc.target import CostSpec

RNG = np.random.default_rng(0)
CONSTANTS = {
    "w": RNG.standard_normal((4, 4, 3, 3)).astype(np.float32),
    "d": RNG.standard_normal((4, 1, 3, 3)).astype(np.float32),
    "b": RNG.standard_normal(4).astype(np.float32),
    "v": RNG.standard_normal((6, 5)).astype(np.float32),
    "vt": RNG.standard_normal((5, 6)).astype(np.float32),
    "u": RNG.standard_normal(5).astype(np.float32),
    "k": RNG.standard_normal((1, 4, 1, 1)).astype(np.float32),
    "shape": np.array([1, -1]),
    "zero": np.array([0]),
    "one": np.array([1]),
    "two": np.array([2]),
    "spatial": np.array([2, 3]),
    "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "scales": np.array([1, 1, 2, 2], np.float32),
    "expanded": np.array([2, 4, 6, 6]),
    "repeats": np.array([1, 1, 2, 1]),
    "picked": np.array([2, 0]),
}
# One operator after another a computing one, as moving operators are quantized beside one: c is quantized.
BEFORE = "c = Conv<pads = [1,1,1,1]>(x, w, b) "
CASES = {
    "Conv": "y = Conv(c, w, b)",
    "Conv, depthwise": "y = Conv<group = 4>(c, d, b)",
    "Conv, Relu": "e = Conv(c, w, b) y = Relu(e)",
    "Conv, Clip": "e = Conv(c, w) y = Clip(e, floor, ceiling)",
    "Gemm": "f = Flatten<axis = 3>(c) y = Gemm(f, v, u)",
    "Gemm, transB": "f = Flatten<axis = 3>(c) y = Gemm<transB = 1>(f, vt, u)",
    "MatMul": "y = MatMul(c, v)",
    "MatMul, computed": "y = MatMul(c, x)",
    "Add": "y = Add(c, x)",
    "Add, Relu": "e = Add(c, x) y = Relu(e)",
    "Add, constant": "y = Add(c, k)",
    "Mul": "y = Mul(c, x)",
    "Mul, constant": "y = Mul(c, k)",
    "LeakyRelu": "y = LeakyRelu(c)",
    "Sigmoid": "y = Sigmoid(c)",
    "Softmax": "y = Softmax<axis = -1>(c)",
    "MaxPool": "y = MaxPool<kernel_shape = [2,2]>(c)",
    "AveragePool": "y = AveragePool<kernel_shape = [2,2]>(c)",
    "GlobalAveragePool": "y = GlobalAveragePool(c)",
    "ReduceMean": "y = ReduceMean(c, spatial)",
    "ReduceMean, squeezed": "y = ReduceMean<keepdims = 0>(c, spatial)",
    "ReduceMax": "y = ReduceMax(c, spatial)",
    "ReduceMin": "y = ReduceMin(c, spatial)",
    "Concat": "y = Concat<axis = 1>(c, x)",
    "DepthToSpace": "y = DepthToSpace<blocksize = 2>(c)",
    "Expand": "y = Expand(c, expanded)",
    "Flatten": "y = Flatten(c)",
    "Gather": "y = Gather<axis = 1>(c, picked)",
    "Pad": "y = Pad(c, pads)",
    "Pad, reflect": 'y = Pad<mode = "reflect">(c, pads)',
    "Reshape": "y = Reshape(c, shape)",
    "Resize": 'y = Resize<mode = "nearest">(c, , scales)',
    "Slice": "y = Slice(c, zero, two, one)",
    "Split": "y, z = Split<axis = 1, num_outputs = 2>(c)",
    "Squeeze": "y = Squeeze(c, zero)",
    "Tile": "y = Tile(c, repeats)",
    "Transpose": "y = Transpose<perm = [0,2,3,1]>(c)",
    "Unsqueeze": "y = Unsqueeze(c, zero)",
}  # fmt: skip
EXEMPT = {"Identity"}  # never survives clean-up


def samples() -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal((1, 4, 6, 6)).astype(np.float32)} for _ in range(4)]


def compile_(parse: Any, body: str, activation_dtype: str = "int8") -> tuple[Any, Artifact]:
    """The float network and its int8 artifact."""
    outputs = "float y, float z" if "y, z" in body else "float y"
    model = load(parse_untyped(parse, f"{BEFORE} {body}", outputs))
    target = SimpleNamespace(name="test", activation_dtype=activation_dtype, cost=CostSpec())
    plan = make_plan(model, collect(model, samples())).for_runtime("onnx", model, target)  # type: ignore[arg-type]
    copy = model.clone()
    InsertQDQ().apply(copy, PassContext(plan=plan))
    return model, export(copy, precision="int8", target=target)  # type: ignore[arg-type]


def parse_untyped(parse: Any, body: str, outputs: str) -> onnx.ModelProto:
    proto: onnx.ModelProto = parse(f"g (float[1,4,6,6] x) => ({outputs}) {{ {body} }}", opset=20)
    limits = {"floor": np.float32(0), "ceiling": np.float32(6)}
    for name, array in (CONSTANTS | limits).items():
        if any(name in node.input for node in proto.graph.node):
            proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    for out in proto.graph.output:
        out.type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("case", CASES)
def test_what_the_table_calls_fusable_fuses(parse: Any, case: str, dtype: str) -> None:
    model, artifact = compile_(parse, CASES[case], dtype)
    found = read_back(artifact.data)
    assert not found.floats
    assert not found.unfused
    assert artifact.notes["float_islands"] == []
    want = OrtRunner.from_model(model).run(samples()[0])
    got = OrtRunner.from_bytes(artifact.data).run(samples()[0])
    for name in want:
        assert got[name].shape == want[name].shape
        assert np.abs(want[name] - got[name]).mean() <= 0.02 * np.abs(want[name]).max()


def test_every_row_with_a_kernel_has_a_case() -> None:
    rows = {op_type for op_type, rule in rules.RULES.items() if rule.onnx is not None}
    assert rows == {case.split(",")[0] for case in CASES} | EXEMPT


@pytest.mark.parametrize("op_type", [o for o, r in rules.RULES.items() if r.onnx is None and r.data == (0,)])
def test_operators_without_a_kernel_are_reported(parse: Any, op_type: str) -> None:
    bodies = {
        "ConvTranspose": "y = ConvTranspose(c, w, b)",
        "LpNormalization": "y = LpNormalization<axis = -1, p = 2>(c)",
        "ReduceSum": "y = ReduceSum(c, spatial)",
        "SpaceToDepth": "y = SpaceToDepth<blocksize = 2>(c)",
        "Clip": "m = MaxPool<kernel_shape = [2,2]>(c) y = Clip(m, zerof, ceiling)",
        "Relu": "m = MaxPool<kernel_shape = [2,2]>(c) y = Relu(m)",
    }
    body = bodies.get(op_type, f"y = {op_type}(c)").replace("zerof", "floor")
    _, artifact = compile_(parse, body)
    found = read_back(artifact.data)
    assert found.floats  # the runtime writes HardSwish as two operators
    assert all(f.reason == "ONNX Runtime has no integer kernel for it" for f in found.floats)
    assert not found.unfused


def test_a_clamp_stays_where_the_range_is_wider(parse: Any) -> None:
    """Concat before it takes nothing over, and the value before has a wider range."""
    _, artifact = compile_(parse, "t = Concat<axis = 1>(c, x) y = Clip(t, floor, ceiling)")
    assert [n.op_type for n in onnx.load_model_from_string(artifact.data).graph.node].count("Clip") == 1


def test_bytes_are_deterministic_and_lean(parse: Any) -> None:
    artifacts = [compile_(parse, CASES["Conv, Relu"])[1] for _ in range(2)]
    assert artifacts[0].data == artifacts[1].data
    proto = onnx.load_model_from_string(artifacts[0].data)
    onnx.checker.check_model(proto, full_check=True)
    assert proto.ir_version <= 10
    assert not proto.graph.value_info
    assert "Relu" not in {n.op_type for n in proto.graph.node}
    assert [p.name for p in artifacts[0].inputs] == ["x"]
    assert artifacts[0].outputs[0].shape == (1, 4, 4, 4)


def test_int16_is_refused(parse: Any) -> None:
    model = load(parse("g (float[1,3] x) => (float[1,3] y) { y = Relu(x) }"))
    with pytest.raises(UnsupportedError, match="int16"):
        export(model, precision="int16x8", target="arm")


def test_a_file_over_the_limit_of_protobuf_is_refused_before_it_is_made(
    parse: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(
        parse("g (float[1,6] x) => (float[1,5] y) { y = MatMul(x, v) }", constants={"v": CONSTANTS["v"]})
    )
    monkeypatch.setattr("edgecc.onnxrt.export._PROTOBUF_LIMIT", 100)
    with pytest.raises(UnsupportedError, match="120 bytes of weights") as caught:
        export(model, precision="fp32", target="arm")
    assert caught.value.exit_code == 3


def test_float_network_is_exported_as_it_is(parse: Any) -> None:
    model = load(parse("g (float[n,3] x) => (float[n,3] y) { y = Tanh(x) }"))
    artifact = export(model, precision="fp32", target="arm")
    x = np.ones((5, 3), np.float32)
    np.testing.assert_allclose(OrtRunner.from_bytes(artifact.data).run({"x": x})["y"], np.tanh(x), rtol=1e-6)
    assert artifact.inputs[0].shape == (-1, 3)
    assert set(artifact.notes) == {"operators"}
