"""LiteRtRunner: names, layouts and real values of the ONNX model, whoever made the file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgecc import ir
from edgecc.artifact import Artifact
from edgecc.errors import ModelError, UsageError
from edgecc.importer import load
from edgecc.runtime import TensorSpec
from edgecc.runtime.litert import LiteRtRunner
from edgecc.runtime.litert_ports import match_ports, read_metadata
from edgecc.runtime.ort import OrtRunner
from edgecc.tflite.lower import lower

Parse = Callable[..., onnx.ModelProto]
NETWORK = """small (float[N,3,8,10] x) => (float[N,5] p) {
    c = Conv<pads=[1,1,1,1]>(x, w, b)
    r = Relu(c)
    m = GlobalAveragePool(r)
    f = Flatten(m)
    logits = Gemm(f, g, h)
    p = Softmax(logits)
}"""


@pytest.fixture(scope="module")
def model(parse: Parse) -> ir.Model:
    rng = np.random.default_rng(7)
    shapes = {"w": (6, 3, 3, 3), "b": (6,), "g": (6, 5), "h": (5,)}
    return load(
        parse(NETWORK, constants={n: 0.3 * rng.standard_normal(s, np.float32) for n, s in shapes.items()})
    )


@pytest.fixture(scope="module")
def artifact(model: ir.Model) -> Artifact:
    return lower(model, precision="fp32", target="arm")


def test_answers_like_onnx_runtime_in_the_onnx_layout(model: ir.Model, artifact: Artifact) -> None:
    runner, reference = LiteRtRunner(artifact.data), OrtRunner.from_model(model)
    assert runner.inputs[0].shape == (None, 3, 8, 10)
    assert [s.name for s in runner.outputs] == [s.name for s in reference.outputs]
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 3, 8, 10)).astype(np.float32)}
    wanted, got = reference.run(feeds), runner.run(feeds)
    for name in wanted:
        assert got[name].dtype == np.float32
        np.testing.assert_allclose(got[name], wanted[name], rtol=1e-4, atol=1e-5)


def test_a_symbolic_batch_is_resized_both_ways(model: ir.Model, artifact: Artifact) -> None:
    runner, reference = LiteRtRunner(artifact.data), OrtRunner.from_model(model)
    for batch in (1, 5, 2):
        feeds = {"x": np.random.default_rng(batch).standard_normal((batch, 3, 8, 10)).astype(np.float32)}
        wanted, got = reference.run(feeds), runner.run(feeds)
        for name in wanted:
            np.testing.assert_allclose(got[name], wanted[name], rtol=1e-4, atol=1e-5)


def test_layers_are_given_in_the_onnx_layout(model: ir.Model, artifact: Artifact) -> None:
    runner = LiteRtRunner(artifact.data, layers=True)
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 3, 8, 10)).astype(np.float32)}
    runner.run(feeds)
    wanted = OrtRunner.from_model(model, optimize=False, extra_outputs=["r"]).run(feeds)["r"]
    np.testing.assert_allclose(runner.tensor("r"), wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(UsageError, match="no such tensor"):
        runner.tensor("nothing")
    with pytest.raises(UsageError, match="layers=True"):
        LiteRtRunner(artifact.data).tensor("r")


def test_creating_a_runner_prints_nothing(artifact: Artifact, no_terminal_noise: None) -> None:
    LiteRtRunner(artifact.data)


def test_wrong_feeds_are_named(artifact: Artifact) -> None:
    runner = LiteRtRunner(artifact.data)
    with pytest.raises(UsageError, match="no data for input x"):
        runner.run({"y": np.zeros(1)})
    with pytest.raises(UsageError, match=r"has shape \(1, 8, 10, 3\)"):
        runner.run({"x": np.zeros((1, 8, 10, 3), np.float32)})


@pytest.mark.parametrize("cut", [0, 3, 8, 100, 1000])
def test_a_truncated_file_is_a_model_error(artifact: Artifact, cut: int) -> None:
    with pytest.raises(ModelError):
        LiteRtRunner(artifact.data[:cut])


def test_metadata_is_read_and_damage_is_an_error(artifact: Artifact) -> None:
    facts = read_metadata(artifact.data)
    assert facts["precision"] == "fp32"
    assert [p["name"] for p in facts["inputs"]] == ["x"]
    damaged = artifact.data.replace(b'"inputs":', b'"inputs"!:'[:9])
    with pytest.raises(ModelError, match="metadata"):
        read_metadata(damaged)
    twisted = artifact.data.replace(b'"permutation":[0,2,3,1]', b'"permutation":[0,2,3,9]')
    assert twisted != artifact.data
    with pytest.raises(ModelError, match="no permutation of the axes of x"):
        LiteRtRunner(twisted)


def test_tensors_are_matched_by_name_position_then_shape() -> None:
    def detail(name: str, shape: tuple[int, ...]) -> dict[str, Any]:
        empty = {"scales": np.zeros(0), "zero_points": np.zeros(0)}
        return {"name": name, "shape": shape, "dtype": np.float32, "quantization_parameters": empty}

    wanted = [TensorSpec("a", (1, 4), "float32"), TensorSpec("b", (None, 3, 6, 5), "float32")]
    details = [detail("x", (1, 6, 5, 3)), detail("y", (1, 4))]
    pairs = match_ports(wanted, details, "inputs")
    assert [(p.name, i, p.permutation) for p, i in pairs] == [("a", 1, None), ("b", 0, (0, 2, 3, 1))]
    with pytest.raises(UsageError, match="those left: x"):
        match_ports([TensorSpec("a", (7,), "float32")], details[:1], "inputs")


def test_a_file_of_another_converter(shared: Path) -> None:
    reference = OrtRunner.from_file(shared / "models/ic_resnet8.onnx")
    data = (shared / "peers/ic_resnet8_int8.tflite").read_bytes()
    runner = LiteRtRunner(data, like=reference)
    images = np.load(shared / "data/cifar10_test_dev.npz")["x"][::500].transpose(0, 3, 1, 2)
    images = images.astype(np.float32)
    got, wanted = runner.run({"input": images})["dense"], reference.run
    best = [int(wanted({"input": x[None]})["dense"].argmax()) for x in images]
    assert np.mean(got.argmax(-1) == best) >= 0.9
    own = LiteRtRunner(data)
    assert own.inputs[0].shape == (None, 32, 32, 3)
    assert read_metadata(data) == {}
