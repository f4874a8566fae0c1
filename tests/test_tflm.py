"""TFLite Micro: the same answers as LiteRT, the arena that it takes, errors that name the operator."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tflite_cases import Case, case, compiled, model

import edgecc
from edgecc.errors import EdgeccError, ModelError, UnsupportedError, UsageError
from edgecc.importer import load
from edgecc.runtime.litert import LiteRtRunner
from edgecc.runtime.tflm import MicroRunner

pytest.importorskip("tflite_micro", reason="tflite-micro has wheels for Linux on x86-64 only")

MODELS = Path(__file__).resolve().parents[1] / "models"
TARGET = """
extends = "arm"
name = "board"
description = "a microcontroller"
formats = ["tflite"]
[runtimes]
tflite = "TFLite Micro"
"""
# Of ../shared/models; the big ones run, too, but take long.
NETWORKS = (
    "ad_ae_from_tflite", "dnn_l", "ds_cnn_s", "gru_s", "ic_resnet8", "kws_dscnn", "lenet_caffe", "mtcnn_onet",
    "resnet20", "sww_ref",
)  # fmt: skip


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("targets") / "board.toml"
    path.write_text(TARGET)
    return str(path)


@pytest.fixture(scope="module")
def digits(board: str, tmp_path_factory: pytest.TempPathFactory) -> edgecc.CompileResult:
    return edgecc.compile(
        MODELS / "digits_cnn.onnx", target=board, precision="int8", data=MODELS / "digits_cnn_calib.npz",
        eval_data=MODELS / "digits_cnn_test.npz", output=tmp_path_factory.mktemp("digits") / "out",
    )  # fmt: skip


def test_the_digits_network_answers_as_in_litert(digits: edgecc.CompileResult) -> None:
    data = digits.artifacts["tflite"].data
    micro, litert = MicroRunner(data), LiteRtRunner(data)
    assert (micro.inputs, micro.outputs, micro.precision) == (litert.inputs, litert.outputs, "int8")
    images = np.load(MODELS / "digits_cnn_test.npz")["image"][::9].astype(np.float32)
    same = 0
    for image in images:
        mine, theirs = (r.run({"image": image[None]})["logits"] for r in (micro, litert))
        assert np.max(np.abs(mine - theirs)) <= 0.05 * np.max(np.abs(theirs))
        same += int(mine.argmax() == theirs.argmax())
    assert same == len(images)


def test_a_target_with_tflite_micro_is_verified_in_it(digits: edgecc.CompileResult) -> None:
    facts = digits.report.artifacts[0]
    assert facts.profile is None
    assert facts.arena_bytes == MicroRunner(digits.artifacts["tflite"].data).arena_bytes
    assert digits.fidelity is not None and digits.fidelity.agreement is not None
    assert digits.fidelity.agreement >= 0.99
    path = digits.artifacts["tflite"].path
    assert path is not None
    found = edgecc.verify(MODELS / "digits_cnn.onnx", path, data=MODELS / "digits_cnn_test.npz", layers=True)
    assert found.agreement == digits.fidelity.agreement
    assert len(found.layers) > 5


def test_the_arena_is_what_it_takes(digits: edgecc.CompileResult) -> None:
    from tflite_micro import runtime

    data = digits.artifacts["tflite"].data
    size = MicroRunner(data).arena_bytes
    assert size is not None
    runtime.Interpreter.from_bytes(data, arena_size=size + 64).invoke()
    with pytest.raises(RuntimeError):
        runtime.Interpreter.from_bytes(data, arena_size=size - 64)


def test_a_batch_goes_through_sample_by_sample() -> None:
    artifact = compiled(load(MODELS / "digits_mlp.onnx"))
    micro, litert = MicroRunner(artifact.data), LiteRtRunner(artifact.data)
    name = micro.inputs[0].name
    shape = [5, *(d or 1 for d in micro.inputs[0].shape[1:])]
    feeds = {name: np.random.default_rng(0).random(shape, np.float32)}
    for output, wanted in litert.run(feeds).items():
        np.testing.assert_allclose(micro.run(feeds)[output], wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(UsageError, match=f"no data for input {name}"):
        micro.run({})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (case("Gelu", (2, 3)), r"GELU 'GELU': TFLite Micro has no such operator"),
        (case("Transpose", (1, 2, 1, 2, 1, 2), perm=[5, 4, 3, 2, 1, 0]), "TRANSPOSE 'TRANSPOSE': .* 1D-5D"),
    ],
    ids=str,
)
def test_what_it_cannot_run_is_named(wrong: Case, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message) as caught:
        MicroRunner(compiled(model(wrong)).data)
    assert caught.value.findings


def test_a_damaged_file() -> None:
    with pytest.raises(ModelError, match="TFL3"):
        MicroRunner(b"nothing")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tflite_micro", None)
    with pytest.raises(UsageError, match="not installed") as caught:
        MicroRunner(compiled(model(case("Relu", (2, 3)))).data)
    assert "edgecc[micro]" in str(caught.value)


@pytest.mark.parametrize("name", NETWORKS)
def test_real_networks(shared: Path, board: str, name: str, tmp_path: Path) -> None:
    result = edgecc.compile(
        shared / "models" / f"{name}.onnx", target=board, precision="int8", random_data=True, no_profile=True,
        output=tmp_path / "out",
    )  # fmt: skip
    assert result.fidelity is not None and result.fidelity.sqnr_db > 15
    assert (result.report.artifacts[0].arena_bytes or 0) > 1000


def test_layers_are_kept_on_request() -> None:
    data = compiled(model(case("Relu", (2, 3)))).data
    runner = MicroRunner(data, layers=True)
    feeds = {s.name: np.ones([d or 1 for d in s.shape], np.float32) for s in runner.inputs}
    wanted = runner.run(feeds)
    assert runner.arena_bytes is None
    for name, array in wanted.items():
        np.testing.assert_array_equal(runner.tensor(name), array)
    with pytest.raises(EdgeccError, match="no such tensor"):
        runner.tensor("nonsense")
    with pytest.raises(EdgeccError, match="layers=True"):
        MicroRunner(data).tensor("nonsense")


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_is_composed(parse: Any, board: str, approximate: str) -> None:
    """TFLite Micro has no GELU: 0.5 (x + |x| erf(|x| / sqrt(2))), or its tanh form."""
    text = f'g (float[1,4,50] x) => (float[1,4,50] y) {{ y = Gelu<approximate = "{approximate}">(x) }}'
    data = np.linspace(-8, 8, 200, dtype=np.float32).reshape(1, 4, 50)
    words: dict[str, Any] = {"format": "tflite", "precision": "fp32", "data": data}
    micro = edgecc.compile(parse(text, 21), target=board, **words).artifacts["tflite"]
    assert "GELU" not in micro.notes["operators"]
    plain = edgecc.compile(parse(text, 21), target="arm", **words).artifacts["tflite"]
    assert plain.notes["operators"] == {"GELU": 1}
    found, wanted = (r.run({"x": data})["y"] for r in (MicroRunner(micro.data), LiteRtRunner(plain.data)))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
