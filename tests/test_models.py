"""The networks that the repository ships: they load, are what models/README.md says, and score as it says."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest

MODELS = Path(__file__).resolve().parents[1] / "models"
SIZE_LIMIT = 2_000_000


@dataclass(frozen=True)
class Shipped:
    stem: str
    input: str
    output: str
    sample: tuple[int, ...]
    right: int  # of the 450 test images, with ONNX Runtime, as models/README.md states
    operators: Mapping[str, int]

    @property
    def path(self) -> Path:
        return MODELS / f"{self.stem}.onnx"

    def arrays(self, kind: str) -> dict[str, npt.NDArray[Any]]:
        with np.load(MODELS / f"{self.stem}_{kind}.npz") as archive:
            return dict(archive)


CNN = Shipped(
    "digits_cnn",
    "image",
    "logits",
    (1, 32, 32),
    449,
    {
        "Conv": 16,
        "BatchNormalization": 16,
        "Clip": 12,
        "Add": 2,
        "GlobalAveragePool": 1,
        "Flatten": 1,
        "Gemm": 1,
    },
)
MLP = Shipped("digits_mlp", "pixels", "probabilities", (64,), 445, {"Gemm": 3, "Relu": 2, "Softmax": 1})
VIT = Shipped(
    "digits_vit",
    "image",
    "logits",
    (1, 8, 8),
    442,
    {
        "Conv": 1,
        "Shape": 8,
        "Gather": 18,
        "Concat": 9,
        "Reshape": 7,
        "Transpose": 10,
        "Expand": 1,
        "Add": 22,
        "LayerNormalization": 7,
        "MatMul": 18,
        "Mul": 9,
        "Softmax": 3,
        "Div": 3,
        "Erf": 3,
        "Gemm": 1,
    },
)
SHIPPED = [pytest.param(model, id=model.stem) for model in (CNN, MLP, VIT)]


def load(model: Shipped) -> onnx.ModelProto:
    proto = onnx.load(model.path)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def shapes(proto: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    return {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}


def attribute(node: onnx.NodeProto, name: str) -> Any:
    return next(onnx.helper.get_attribute_value(item) for item in node.attribute if item.name == name)


@pytest.mark.parametrize("model", SHIPPED)
def test_operators_and_names_are_as_stated(model: Shipped) -> None:
    proto = load(model)
    counts: dict[str, int] = {}
    for node in proto.graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    assert counts == model.operators
    assert [value.name for value in proto.graph.input] == [model.input]
    assert [value.name for value in proto.graph.output] == [model.output]
    assert (proto.ir_version, proto.opset_import[0].version) == (8, 17)


@pytest.mark.parametrize("model", SHIPPED)
def test_accuracy_is_as_stated(model: Shipped) -> None:
    session = onnxruntime.InferenceSession(model.path, providers=["CPUExecutionProvider"])
    test = model.arrays("test")
    x, labels = test[model.input], test["labels"]
    answers = [session.run([model.output], {model.input: x[i : i + 1]})[0].argmax() for i in range(len(x))]
    # One image may fall to the other side on a processor that adds in another order.
    assert int((np.array(answers) == labels).sum()) >= model.right - 1


@pytest.mark.parametrize("model", SHIPPED)
def test_data_are_in_the_layout_of_the_input(model: Shipped) -> None:
    calibration, test = model.arrays("calib"), model.arrays("test")
    assert set(calibration) == {model.input}
    assert set(test) == {model.input, "labels"}
    assert calibration[model.input].shape == (104, *model.sample)
    assert test[model.input].shape == (450, *model.sample)
    assert test["labels"].shape == (450,)
    assert test["labels"].dtype == np.int64
    assert np.bincount(test["labels"]).min() >= 40
    for images in (calibration[model.input], test[model.input]):
        assert images.dtype == np.float32
        assert (images.min(), images.max()) == (0, 1)


@pytest.mark.parametrize("model", SHIPPED)
def test_calibration_images_are_not_test_images(model: Shipped) -> None:
    calibration, test = (
        {image.tobytes() for image in model.arrays(kind)[model.input]} for kind in ("calib", "test")
    )
    assert not calibration & test


def test_cnn_has_what_the_passes_are_for() -> None:
    proto = load(CNN)
    sizes = shapes(proto)
    convolutions = [node for node in proto.graph.node if node.op_type == "Conv"]
    depthwise = [node for node in convolutions if attribute(node, "group") == sizes[node.input[1]][0] > 1]
    assert len(depthwise) == 5
    assert sum(attribute(node, "strides") == [2, 2] for node in depthwise) == 2
    users = {node.input[0]: node.op_type for node in proto.graph.node if node.op_type == "BatchNormalization"}
    assert all(node.output[0] in users for node in convolutions), "a BatchNormalization was folded"


def test_mlp_has_large_gemms_and_a_symbolic_batch() -> None:
    proto = load(MLP)
    weights = [shapes(proto)[node.input[1]] for node in proto.graph.node if node.op_type == "Gemm"]
    assert weights == [(512, 64), (256, 512), (10, 256)]
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    session = onnxruntime.InferenceSession(MLP.path, providers=["CPUExecutionProvider"])
    answers = session.run(None, {MLP.input: MLP.arrays("calib")[MLP.input][:7]})[0]
    np.testing.assert_allclose(answers.sum(axis=1), 1, rtol=1e-5)


def test_vit_is_written_as_exporters_write_attention() -> None:
    proto = load(VIT)
    assert [d.dim_param or d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim] == [
        "N",
        1,
        8,
        8,
    ]
    perms = [tuple(attribute(node, "perm")) for node in proto.graph.node if node.op_type == "Transpose"]
    assert perms.count((2, 0, 3, 1, 4)) == perms.count((0, 1, 3, 2)) == 3
    computed = {out for node in proto.graph.node for out in node.output}
    sized = [node for node in proto.graph.node if node.op_type in ("Reshape", "Expand")]
    assert all(node.input[1] in computed for node in sized), "a size is constant"
    session = onnxruntime.InferenceSession(VIT.path, providers=["CPUExecutionProvider"])
    images = VIT.arrays("calib")[VIT.input][:5]
    together = session.run(None, {VIT.input: images})[0]
    apart = np.concatenate([session.run(None, {VIT.input: images[i : i + 1]})[0] for i in range(5)])
    np.testing.assert_allclose(together, apart, atol=1e-4)


def test_everything_is_small() -> None:
    sizes = [file.stat().st_size for file in MODELS.iterdir() if file.is_file()]
    assert sum(sizes) < SIZE_LIMIT
