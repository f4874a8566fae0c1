"""The simulator on whole int8 networks: every tensor equals LiteRT's reference kernels."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from simulate_cases import Array, differences, random_feeds

import edgecc

Load = Callable[[Path], Array]
MODELS = Path(__file__).resolve().parents[1] / "models"
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


def compiled(model: Path, data: Any, output: Path, **options: Any) -> bytes:
    result = edgecc.compile(
        model, data=data, precision="int8", format="tflite", output=output, no_verify=True, no_profile=True, **options
    )  # fmt: skip
    (artifact,) = result.artifacts.values()
    return artifact.data


@pytest.mark.parametrize("name", ["digits_cnn", "digits_mlp", "digits_vit"])
def test_shipped(name: str, tmp_path: Path) -> None:
    data = compiled(MODELS / f"{name}.onnx", MODELS / f"{name}_calib.npz", tmp_path / "out")
    with np.load(MODELS / f"{name}_test.npz") as file:
        key = next(k for k in file if file[k].dtype == np.float32)
        for sample in file[key][:3]:
            wrong, compared = differences(data, {key: sample[None]})
            assert not wrong
            assert compared > 500


@pytest.mark.skipif(find_spec("tflite_micro") is None, reason="tflite-micro is not installed")
@pytest.mark.parametrize("name", ["digits_cnn", "digits_mlp"])
def test_shipped_in_tflite_micro(name: str, tmp_path: Path) -> None:
    data = compiled(MODELS / f"{name}.onnx", MODELS / f"{name}_calib.npz", tmp_path / "out")
    for seed in range(3):
        assert not differences(data, random_feeds(data, seed, batch=1), micro=True)[0]


def archive(name: str, key: str, step: int) -> Load:
    def load(folder: Path) -> Array:
        with np.load(folder / name) as file:
            return np.asarray(file[key][::step], np.float32)

    return load


def images(pattern: str, step: int, size: tuple[int, int]) -> Load:
    def load(folder: Path) -> Array:
        paths = [p for p in sorted(folder.glob(pattern)) if p.suffix != ".tsv"][::step]
        return np.stack([np.asarray(Image.open(p).convert("RGB").resize(size), np.float32) for p in paths])

    return load


CIFAR, PHOTOS = archive("cifar10_test_dev.npz", "x", 1000), images("imagenet_dev/**/*.*", 125, (224, 224))
# Where a few inputs lie, and how the authors of the network prepare them; channels last.
NETWORKS: dict[str, tuple[Load, Callable[[Array], Array]]] = {
    "ic_resnet8": (CIFAR, lambda x: x),
    "resnet20": (CIFAR, lambda x: (x / 255 - MEAN) / STD),
    "kws_dscnn": (
        archive("kws01_mfcc_int8.npz", "x_int8", 200),
        lambda x: (x[..., None] - 83) * 0.58470290899,
    ),
    "lenet_caffe": (archive("mnist_test.npz", "x", 2000), lambda x: x[..., None] / 256),
    "mobilenet_v2_1.0": (PHOTOS, lambda x: (x / 255 - MEAN) / STD),
    "efficientnet_lite0": (PHOTOS, lambda x: (x - 127) / 128),
    "ultraface_rfb_320": (images("faces27/*.jpg", 9, (320, 240)), lambda x: (x - 127) / 128),
    "yolo_fastestv2_352": (images("faces27/*.jpg", 9, (352, 352)), lambda x: x[..., ::-1] / 255),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_reference_network(name: str, shared: Path, tmp_path: Path) -> None:
    load, prepare = NETWORKS[name]
    inputs = np.ascontiguousarray(prepare(load(shared / "data")).transpose(0, 3, 1, 2), np.float32)
    model = shared / "models" / f"{name}.onnx"
    data = compiled(model, inputs, tmp_path / "out")
    (port,) = random_feeds(data, 0)
    for sample in inputs[-2:]:
        wrong, compared = differences(data, {port: sample[None]})
        assert not wrong
        assert compared > 10_000


@pytest.mark.parametrize("name", ["ad_ae_int8", "ic_resnet8_int8", "kws_dscnn_int8", "sww_ref_int8"])
def test_files_of_other_converters(name: str, shared: Path) -> None:
    data = (shared / "peers" / f"{name}.tflite").read_bytes()
    for seed in range(3):
        wrong, compared = differences(data, random_feeds(data, seed, spread=3.0))
        assert not wrong
        assert compared > 1000
