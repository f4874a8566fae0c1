"""Real networks: the float file answers like ONNX Runtime and holds no operator that it could do without."""

from pathlib import Path

import numpy as np
import pytest
from tflite_cases import assert_close, compiled, seeded

from edgecc.importer import load
from edgecc.runtime.litert import LiteRtRunner
from edgecc.runtime.ort import OrtRunner
from edgecc.target import target

MODELS = Path(__file__).resolve().parents[1] / "models"
HEAVY = {
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "AVERAGE_POOL_2D",
    "MAX_POOL_2D",
    "MEAN",
    "ADD",
    "FULLY_CONNECTED",
    "SOFTMAX",
}

# Network -> how often each operator may occur that only moves values.
CLASSIFIERS: dict[str, dict[str, int]] = {
    "ic_resnet8": {"RESHAPE": 1, "PAD": 0},
    "kws_dscnn": {"RESHAPE": 1, "PAD": 1},
    "lenet_caffe": {"RESHAPE": 1},
    "resnet20": {"RESHAPE": 1, "STRIDED_SLICE": 2, "PAD": 5},
    "resnet56": {"RESHAPE": 1, "STRIDED_SLICE": 2, "PAD": 5},
    "efficientnet_lite0": {"RESHAPE": 1, "PAD": 5},
    "mobilenet_v2_1.0": {"RESHAPE": 1, "PAD": 5},
}
OTHERS = [
    "ad_ae_from_tflite",
    "dnn_l",
    "ds_cnn_s",
    "mtcnn_onet",
    "ppocr_cls",
    "resnet20_dyn",
    "sww_ref",
    "ultraface_rfb_320",
    "yolo_fastestv2_352",
]


def answers(path: Path, tolerance: float = 1e-4) -> dict[str, int]:
    original = load(path, input_shape={"x": [1, 3, 48, 192]} if path.stem == "ppocr_cls" else None)
    artifact = compiled(original, passes=target("arm").pipeline.passes, check=False)
    reference = OrtRunner.from_model(original)
    feeds = {s.name: seeded(*(1 if d is None else d for d in s.shape)) for s in reference.inputs}
    assert_close(LiteRtRunner(artifact.data).run(feeds), reference.run(feeds), tolerance)
    found: dict[str, int] = artifact.notes["operators"]
    return found


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers(shared: Path, name: str) -> None:
    found = answers(shared / "models" / f"{name}.onnx")
    moving = {code: count for code, count in found.items() if code not in HEAVY}
    assert all(count <= CLASSIFIERS[name].get(code, 0) for code, count in moving.items()), found


@pytest.mark.parametrize("name", OTHERS)
def test_others(shared: Path, name: str) -> None:
    answers(shared / "models" / f"{name}.onnx")


@pytest.mark.parametrize("name", ["digits_cnn", "digits_mlp"])
def test_our_own(name: str) -> None:
    assert "TRANSPOSE" not in answers(MODELS / f"{name}.onnx")


def test_layers_keep_their_names(shared: Path) -> None:
    """Every tensor that carries an ONNX name holds that value."""
    original = load(shared / "models" / "ic_resnet8.onnx")
    runner = LiteRtRunner(compiled(original, passes=["clean_up", "fuse_gemm"]).data, layers=True)
    inner = [
        str(out.name)
        for node in original.graph
        for out in node.outputs
        if str(out.name) in runner.tensor_names
    ]
    assert len(inner) >= 10
    reference = OrtRunner.from_model(original, optimize=False, extra_outputs=inner)
    feeds = {s.name: seeded(*(1 if d is None else d for d in s.shape)) * 50 for s in reference.inputs}
    wanted = reference.run(feeds)
    runner.run(feeds)
    for name in inner:
        got = runner.tensor(name)
        assert got.shape == wanted[name].shape, name
        np.testing.assert_allclose(
            got, wanted[name], atol=1e-4 * float(np.abs(wanted[name]).max()), rtol=0, err_msg=name
        )
