"""Scales, rounding and packing of 4-bit weights, and which weights get them."""

import json
from typing import Any

import numpy as np
import onnx
import pytest
from tflite_cases import seeded

import edgecc
from edgecc import ir
from edgecc.errors import UsageError
from edgecc.importer import load
from edgecc.options import CompileOptions
from edgecc.pipeline import PassContext, Pipeline
from edgecc.presets import float_passes, make_pass, quantized_passes
from edgecc.quant import int4
from edgecc.quant.params import QuantParams, from_weights
from edgecc.quant.weight_scales import least_error, sum_preserving
from edgecc.target import target
from edgecc.tflite.writer import packed_int4


def network(text: str, **constants: np.ndarray[Any, Any]) -> onnx.ModelProto:
    made = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> {text}')
    made.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in constants.items())
    return made


def weights_only(made: onnx.ModelProto, options: str = "") -> tuple[ir.Model, dict[str, str]]:
    """After quantize_weights, and what it refused."""
    step = make_pass(f"quantize_weights:dtype=int4,min_elements=1{options}")
    model, log = Pipeline([step]).run(load(made), PassContext(check=False))
    return model, {r.node: r.reason for r in log.records[0].refused}


def test_two_integers_a_byte_the_first_in_the_low_half() -> None:
    assert packed_int4(np.array([[1, -1, 7], [-8, 0, -7]], np.int8)).tolist() == [0xF1, 0x87, 0x90]
    assert packed_int4(np.array([1, -2, 3], np.int8)).tolist() == [0xE1, 0x03]
    assert packed_int4(np.zeros((0,), np.int8)).size == 0


def test_a_scale_that_clips_costs_less_than_the_largest_magnitude() -> None:
    rows = seeded(64, 512)
    scale = least_error(rows, 7)
    widest = np.abs(rows).max(axis=1) / 7

    def cost(scale: np.ndarray[Any, Any], power: float) -> float:
        stored = np.clip(np.rint(rows / scale[:, None]), -7, 7)
        return float((np.abs(stored * scale[:, None] - rows) ** power).sum())

    assert cost(scale, 2.4) < 0.7 * cost(widest, 2.4)
    assert cost(scale, 2) < 0.7 * cost(widest, 2)
    assert (scale <= widest * 1.000001).all()
    np.testing.assert_allclose(least_error(rows * np.float32(1e-20), 7), scale * 1e-20, rtol=1e-5)
    assert least_error(np.zeros((2, 3), np.float32), 7).tolist() == [0, 0]
    assert least_error(np.zeros((3, 0), np.float32), 7).tolist() == [0, 0, 0]


def test_rounding_keeps_the_sum_of_a_row_and_moves_nothing_further_than_a_neighbour() -> None:
    rows = seeded(32, 90) * 3
    stored = sum_preserving(rows, 7, group=9)
    wanted = np.clip(rows, -7, 7)
    assert np.abs(stored).max() <= 7
    assert np.abs(stored - wanted).max() < 1
    assert np.abs(stored.sum(axis=1) - rows.sum(axis=1)).max() <= 0.5001
    nearest = np.rint(wanted)
    assert np.abs(nearest.sum(axis=1) - rows.sum(axis=1)).max() > 2
    assert (stored != nearest).mean() < 0.3
    assert sum_preserving(np.full((1, 3), 20.0, np.float32), 7).tolist() == [[7, 7, 7]]  # nowhere to go


@pytest.mark.parametrize(("axis", "block_size"), [(0, 0), (1, 0), (0, 32), (1, 32), (None, 0)])
def test_every_form_of_scales_gives_the_numbers_back(axis: int | None, block_size: int) -> None:
    array = seeded(64, 96)
    params = from_weights(array, axis, "int4", block_size)
    stored = int4.quantized(params, array)
    assert str(stored.dtype) == "int4"
    error = params.dequantize(stored.astype(np.int8)) - array
    assert float((error**2).sum()) < 0.03 * float((array**2).sum())
    assert QuantParams.from_dict(params.to_dict()) == params
    if block_size:
        assert params.blocks(array.shape) == tuple(
            d // 32 if i == axis else d for i, d in enumerate(array.shape)
        )
        np.testing.assert_array_equal(params.scale, params.scale.astype(np.float16))


def test_what_has_no_int4_kernel_stays_int8_and_says_so() -> None:
    made = network(
        "g (float[1,32,8,8] x) => (float[1,10] y) { a = Conv(x, p) b = Conv<group=32, pads=[1,1,1,1]>(a, d)"
        " c = Flatten(b) y = MatMul(c, m) }",
        p=seeded(32, 32, 1, 1), d=seeded(32, 1, 3, 3), m=seeded(2048, 10),
    )  # fmt: skip
    model, refused = weights_only(made)
    kinds = {
        str(v.name): str(v.dtype) for v in model.graph.initializers.values() if "quantized" in str(v.name)
    }
    assert kinds == {"p_quantized": "INT8", "d_quantized": "INT8", "m_quantized": "INT4"}
    assert set(refused) == {"Conv_0", "Conv_1"}
    assert refused["Conv_0"].endswith(int4.SPARED)  # 1024 of 21504 weights
    assert "no int4 kernel for a depthwise convolution" in refused["Conv_1"]


BLOCKED = (
    "g (float[1,64,4,4] x) => (float[1,6] y) { a = Conv(x, p) b = Conv<pads=[1,1,1,1]>(a, k) e = Conv(b, o)"
    " c = GlobalAveragePool(e) d = Flatten(c) f = Gemm(d, v) y = Gemm(f, t) }"
)
CONSTANTS = {
    "p": seeded(64, 64, 1, 1), "k": seeded(64, 64, 3, 3), "o": seeded(40, 64, 1, 1), "v": seeded(40, 32),
    "t": seeded(32, 6),
}  # fmt: skip


def test_blocks_where_a_row_is_a_whole_number_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int4, "_SPARED", 0.0)
    model, refused = weights_only(network(BLOCKED, **CONSTANTS), ",block_size=32")
    blocks = {
        str(node.inputs[0].name): ir.attribute(node, "block_size", 0)  # type: ignore[union-attr]
        for node in model.graph if node.op_type == "DequantizeLinear"
    }  # fmt: skip
    assert blocks == {
        "p_quantized": 32, "k_quantized": 0, "o_quantized": 32, "v_quantized": 0, "t_quantized": 32
    }  # fmt: skip
    assert set(refused) == {"Conv_1", "Gemm_5"}
    assert "1x1 convolutions only" in refused["Conv_1"]
    assert "its 40 inputs are no multiple of 32" in refused["Gemm_5"]


def test_blocks_that_divide_nothing_are_an_error() -> None:
    made = network("g (float[2,40] x) => (float[2,8] y) { y = MatMul(x, v) }", v=seeded(40, 8))
    with pytest.raises(UsageError, match="no weights of this network can be cut into blocks of 32"):
        weights_only(made, ",block_size=32")


@pytest.mark.parametrize(("options", "reason"), [
    ("dtype=int4,block_size=48", "no kernels for blocks of 48"), ("block_size=32", "none for int8"),
    ("dtype=int2", "not possible"),
])  # fmt: skip
def test_options_that_no_kernel_serves(options: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        make_pass(f"quantize_weights:{options}")


def test_a_pass_that_writes_the_precision_runs_once_with_the_users_options() -> None:
    options = CompileOptions(precision="int4", passes=("quantize_weights:block_size=64",))
    assert all(p.name != "quantize_weights" for p in float_passes(target("arm"), options))
    (step,) = quantized_passes("int4", planned=False, options=options)
    assert (step.dtype, step.block_size) == ("int4", 64)  # type: ignore[attr-defined]
    (step,) = quantized_passes("int4", planned=False)
    assert (step.dtype, step.block_size) == ("int4", 0)  # type: ignore[attr-defined]


def test_its_options_are_read_before_the_model() -> None:
    options = CompileOptions(precision="int4", passes=("quantize_weights:block_size=48",))
    with pytest.raises(UsageError, match="no kernels for blocks of 48"):
        float_passes(target("arm"), options)


def test_a_plan_leaves_no_room_for_it() -> None:
    options = CompileOptions(precision="int4", random_data=True, passes=("quantize_weights:block_size=64",))
    with pytest.raises(UsageError, match="a plan says how weights are stored"):
        float_passes(target("arm"), options)


def test_manifest_and_warnings_declare_what_int4_needs(tmp_path: Any) -> None:
    made = network("g (float[1,8,8,8] x) => (float[1,64,6,6] y) { y = Conv(x, k) }", k=seeded(64, 8, 3, 3))
    path = tmp_path / "m.onnx"
    onnx.save(made, path)
    result = edgecc.compile(path, precision="int4", no_profile=True, output=tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert "CONV_2D" in manifest["artifacts"]["m.int4.tflite"]["not_in_tflite_runtime_2_14"][0]
    assert "not_in_tflite_runtime_2_14" not in manifest["artifacts"]["m.int4.onnx"]
    assert any("unpack the weights at every run" in w for w in result.report.warnings)
    assert any("float32 once ONNX Runtime has loaded the file" in w for w in result.report.warnings)
