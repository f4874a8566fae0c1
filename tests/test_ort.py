"""The runner of ONNX Runtime: what it takes, what it gives back, and what it refuses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest

from edgecc import importer, ir
from edgecc.errors import ModelError, UsageError
from edgecc.runtime import TensorSpec
from edgecc.runtime.ort import OrtRunner, _serialize

Parse = Callable[..., onnx.ModelProto]
F = np.float32
TEXT = """g (float[N,40] x) => (float[N,30] y) {
    h = MatMul (x, w)
    z = Relu (h)
    y = Add (z, b)
}"""


@pytest.fixture
def proto(parse: Parse) -> onnx.ModelProto:
    random = np.random.default_rng(0)
    return parse(TEXT, 21, {"w": random.standard_normal((40, 30)).astype(F), "b": np.ones(30, F)})


def test_inputs_outputs_and_a_symbolic_batch(proto: onnx.ModelProto) -> None:
    runner = OrtRunner.from_model(importer.load(proto))
    assert runner.inputs == (TensorSpec("x", (None, 40), "float32"),)
    assert runner.outputs == (TensorSpec("y", (None, 30), "float32"),)
    for batch in (1, 5):
        assert runner.run({"x": np.zeros((batch, 40), F)})["y"].shape == (batch, 30)


@pytest.mark.parametrize("optimize", [True, False])
def test_file_bytes_and_model_answer_alike(proto: onnx.ModelProto, tmp_path: Path, optimize: bool) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    data = {"x": np.random.default_rng(1).standard_normal((3, 40), F)}
    runners = [
        OrtRunner.from_file(path, optimize=optimize),
        OrtRunner.from_bytes(path.read_bytes(), optimize=optimize, threads=1),
        OrtRunner.from_model(importer.load(path), optimize=optimize),
    ]
    answers = [runner.run(data)["y"] for runner in runners]
    for answer in answers[1:]:
        np.testing.assert_allclose(answer, answers[0], rtol=1e-6)


def test_extra_outputs_are_inner_values_inputs_and_weights(proto: onnx.ModelProto) -> None:
    model = importer.load(proto)
    names = ["h", "x", "w", "y", "h"]
    runner = OrtRunner.from_model(model, extra_outputs=names)
    assert [spec.name for spec in runner.outputs] == ["y", "h", "x", "w"]
    x = np.ones((2, 40), F)
    answer = runner.run({"x": x})
    np.testing.assert_allclose(answer["h"], x @ answer["w"], rtol=1e-5)
    assert [value.name for value in model.graph.outputs] == ["y"]
    with pytest.raises(UsageError, match="no value of this name"):
        OrtRunner.from_model(model, extra_outputs=["nowhere"])


@pytest.mark.parametrize(
    ("feeds", "match"),
    [
        ({}, "x: no data"),
        ({"q": np.zeros((1, 40), F)}, "q: the model has no such input; it has: x"),
        ({"x": np.zeros((1, 40))}, "x: expected float32, got float64"),
        ({"x": np.zeros((1, 41), F)}, r"x: expected shape \[\?, 40\], got \[1, 41\]"),
        ({"x": np.zeros(40, F)}, "x: expected shape"),
    ],
)
def test_nothing_is_cast_or_broadcast(proto: onnx.ModelProto, feeds: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        OrtRunner.from_bytes(proto.SerializeToString()).run(feeds)


@pytest.mark.usefixtures("no_terminal_noise")
def test_failures_of_the_runtime_are_clear_and_silent(parse: Parse, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot load"):
        OrtRunner.from_bytes(b"no model")
    with pytest.raises(ModelError, match="no such file"):
        OrtRunner.from_file(tmp_path / "nothing.onnx")
    proto = parse("g (float[N,3] x, int64[1] i) => (float[A] y) { y = Reshape (x, i) }")
    runner = OrtRunner.from_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="cannot run"):
        runner.run({"x": np.zeros((2, 3), F), "i": np.array([7])})


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float64, np.int8, np.bool_])
def test_weights_of_any_type(parse: Parse, dtype: Any) -> None:
    weights = np.arange(2048).astype(dtype)
    proto = parse("g (float[1] x) => (float[2048] y) { c = Cast <to = 1> (w)\n y = Add (c, x) }", 21)
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    proto.graph.initializer.append(onnx.helper.make_tensor("w", kind, [2048], weights.tobytes(), raw=True))
    answer = OrtRunner.from_model(importer.load(proto)).run({"x": np.zeros(1, F)})["y"]
    np.testing.assert_array_equal(answer, weights.astype(F))


def test_weights_lie_beside_the_protobuf_whose_size_has_a_limit(tmp_path: Path) -> None:
    weight = np.ones((64, 64), F)
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1,64] x) => (float[1,64] y) { y = MatMul(x, w) }'
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    model = importer.load(tmp_path / "m.onnx")
    value = model.graph.initializers["w"]
    assert value.const_value is not None
    mapped = (
        value.const_value.numpy()
    )  # its byte order is spelt out, so numpy does not call its type built-in
    assert mapped.dtype.isbuiltin == 0
    value.const_value = ir.Tensor(mapped, name="w")
    assert set(_serialize(model, ()).beside) == {"w"}
    got = OrtRunner.from_model(model).run({"x": np.ones((1, 64), F)})["y"]
    np.testing.assert_array_equal(got, np.full((1, 64), 64, F))


def test_a_later_version_of_the_file_format_is_no_obstacle(proto: onnx.ModelProto, tmp_path: Path) -> None:
    """New releases of onnx write versions that ONNX Runtime does not know yet."""
    proto.ir_version = onnx.IR_VERSION + 1
    path, data, whole = tmp_path / "m.onnx", {"x": np.ones((1, 40), F)}, proto.SerializeToString()
    want = OrtRunner.from_model(importer.load(proto)).run(data)["y"]
    onnx.save(proto, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    for runner in (OrtRunner.from_file(path), OrtRunner.from_bytes(whole)):
        np.testing.assert_allclose(runner.run(data)["y"], want, rtol=1e-6)


def test_a_large_constant_that_nothing_reads(proto: onnx.ModelProto) -> None:
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((64, 64), F), "unread"))
    runner = OrtRunner.from_model(importer.load(proto))
    assert runner.run({"x": np.ones((1, 40), F)})["y"].shape == (1, 30)
