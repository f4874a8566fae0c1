"""The reference networks of ../shared with their data, preprocessed as their authors do, in the ONNX layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Array = np.ndarray[Any, np.dtype[Any]]
SHARED = Path(__file__).resolve().parents[2] / "shared"
_IMAGENET = (np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32))


def _npz(name: str, key: str) -> tuple[Array, Array]:
    with np.load(SHARED / "data" / name, allow_pickle=False) as file:
        return file[key], file["y"]


def _cifar_normalised() -> tuple[Array, Array]:
    x, y = _npz("cifar10_test_dev.npz", "x")
    return ((x / np.float32(255) - _IMAGENET[0]) / _IMAGENET[1]).transpose(0, 3, 1, 2).astype(np.float32), y


def _cifar_raw() -> tuple[Array, Array]:
    x, y = _npz("cifar10_test_dev.npz", "x")
    return x.transpose(0, 3, 1, 2).astype(np.float32), y


def _kws() -> tuple[Array, Array]:
    x, y = _npz("kws01_mfcc_int8.npz", "x_int8")
    return ((x.astype(np.float32) - 83) * np.float32(0.58470290899))[:, None], y


def _mnist() -> tuple[Array, Array]:
    x, y = _npz("mnist_test.npz", "x")
    return (x / np.float32(256))[:, None].astype(np.float32), y


def _sww() -> tuple[Array, Array]:
    x, y = _npz("sww_calib45.npz", "x")
    return x.transpose(0, 3, 1, 2), y


def _imagenet(scale: Callable[[Array], Array]) -> tuple[Array, Array]:
    folder = SHARED / "data" / "imagenet_dev"
    rows = [line.split("\t") for line in (folder / "labels.tsv").read_text().splitlines()[1:]]
    images = [np.asarray(Image.open(folder / row[0]).convert("RGB"), np.float32) for row in rows]
    return np.stack([scale(image).transpose(2, 0, 1) for image in images]), np.array(
        [int(r[1]) for r in rows]
    )


def _faces(width: int, height: int, scale: Callable[[Array], Array], *, bgr: bool = False) -> Array:
    found = []
    for path in sorted((SHARED / "data" / "faces27").glob("*.jpg")):
        image = np.asarray(Image.open(path).convert("RGB").resize((width, height)), np.float32)
        found.append(scale(image[..., ::-1] if bgr else image).transpose(2, 0, 1))
    return np.stack(found).astype(np.float32)


def _random(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal((32, *shape)).astype(np.float32)


@dataclass(frozen=True)
class Network:
    """A network of ../shared/models.

    Attributes:
        load: its samples (first axis) and labels (None: there are none).
        every: each `every`-th sample calibrates, the others test.
        most: at most this many calibrate.
        input_shape: binds symbolic dimensions.
        peer: int8 TFLite file of another converter.
    """

    name: str
    load: Callable[[], tuple[Array, Array | None]]
    every: int = 5
    most: int = 100
    input_shape: dict[str, tuple[int, ...]] = field(default_factory=dict)
    peer: str | None = None

    @property
    def path(self) -> Path:
        """Of the ONNX file."""
        return SHARED / "models" / f"{self.name}.onnx"

    def split(self, first: int = 0) -> tuple[Array, Array, Array | None]:
        """Calibration samples (from `first` on), test samples, test labels."""
        x, y = self.load()
        chosen = np.arange(first, len(x), max(self.every, len(x) // self.most))[: self.most]
        rest = np.setdiff1d(np.arange(len(x)), chosen)
        return x[chosen], x[rest], None if y is None else y[rest]


NETWORKS = {
    n.name: n
    for n in (
        Network("ic_resnet8", _cifar_raw, peer="ic_resnet8_int8"),
        Network("kws_dscnn", _kws, peer="kws_dscnn_int8"),
        Network("resnet20", _cifar_normalised),
        Network("resnet56", _cifar_normalised),
        Network("lenet_caffe", _mnist),
        Network("efficientnet_lite0", lambda: _imagenet(lambda x: (x - 127) / 128)),
        Network("mobilenet_v2_1.0", lambda: _imagenet(lambda x: (x / 255 - _IMAGENET[0]) / _IMAGENET[1])),
        Network("ultraface_rfb_320", lambda: (_faces(320, 240, lambda x: (x - 127) / 128), None), 3),
        Network("yolo_fastestv2_352", lambda: (_faces(352, 352, lambda x: x / 255, bgr=True), None), 3),
        Network("mtcnn_onet", lambda: (_faces(48, 48, lambda x: (x - 127.5) / 128), None), 3),
        Network("ad_ae_from_tflite", lambda: (_random(640), None), peer="ad_ae_int8"),
        Network("sww_ref", _sww, 3, peer="sww_ref_int8"),
        Network(
            "ppocr_cls",
            lambda: (_faces(192, 48, lambda x: (x / 255 - 0.5) / 0.5, bgr=True), None),
            3,
            input_shape={"x": (1, 3, 48, 192)},
        ),
        Network("resnet20_dyn", _cifar_normalised),
        Network("ds_cnn_s", lambda: (_random(490), None)),
        Network("dnn_l", lambda: (_random(250), None)),
    )
}  # fmt: skip


def samples(x: Array) -> Iterator[Array]:
    """One sample with its batch axis at a time."""
    for i in range(len(x)):
        yield x[i : i + 1]
