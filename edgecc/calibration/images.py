"""A folder of images as samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgecc import ir
from edgecc.calibration.forms import Source
from edgecc.calibration.labels import read_labels
from edgecc.errors import UsageError
from edgecc.runtime import TensorSpec

LABEL_FILES = ("labels.tsv", "labels.csv", "labels.txt")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
MAX_PIXELS = 64_000_000  # guessed: no calibration image is larger, a decompression bomb is


def channel_axis(spec: TensorSpec, channels: int | None = None) -> int | None:
    """The channel axis: 1 (ONNX's own layout) or the last; None where neither has 1, 3 or 4 (`channels`)."""
    rank = len(spec.shape)
    for wanted in (3, 1, 4) if channels is None else (channels,):
        for axis in (1, rank - 1):
            if 0 < axis < rank and spec.shape[axis] == wanted:
                return axis
    return None


def open_folder(folder: Path, inputs: Sequence[TensorSpec]) -> Source:
    """The images of a folder sorted by name, in the input's layout, with labels if a file has them.

    Raises:
        UsageError: there is no image, one cannot be read, or the model takes no images.
    """
    from PIL import Image

    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise UsageError(f"the folder holds no image ({', '.join(IMAGE_SUFFIXES)})", node=str(folder))
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        raise UsageError("a folder of images needs a model with one input of rank 4", node=str(folder))
    spec = inputs[0]
    axis = channel_axis(spec)
    if axis is None:
        raise UsageError("the input has no axis of 1, 3 or 4 channels: it takes no images", node=spec.name)
    height, width = (spec.shape[2], spec.shape[3]) if axis == 1 else (spec.shape[1], spec.shape[2])
    if height is None or width is None:
        raise UsageError(
            "height and width are not known", node=spec.name, remedy="bind them with --input-shape"
        )
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[spec.shape[axis] or 3]
    odd = 0
    for file in files:
        with _image(file) as image:
            odd += image.size != (width, height)
    warnings = []
    if odd:
        warnings.append(
            f"{odd} of {len(files)} images in {folder.name} are not {width}x{height} and are stretched to it;"
            " crop and resize them as for training to get faithful figures"
        )

    def read() -> Iterator[ir.Array]:
        for file in files:
            with _image(file) as image:
                try:
                    picture: Any = image.convert(mode)
                except (OSError, SyntaxError, ValueError) as error:
                    raise UsageError(f"the image cannot be decoded ({error})", node=str(file)) from error
            if picture.size != (width, height):
                picture = picture.resize((width, height), Image.Resampling.BILINEAR)
            array = np.asarray(picture)
            array = array[:, :, None] if array.ndim == 2 else array
            yield array.transpose(2, 0, 1) if axis == 1 else array

    names = tuple(f.name for f in files)
    label_file = next((folder / n for n in LABEL_FILES if (folder / n).is_file()), None)
    labels = read_labels(label_file, names) if label_file else None
    description = f"{len(files)} images of {folder.name}"
    return Source(read, description, len(files), labels, tuple(warnings), names)


def _image(file: Path) -> Any:
    from PIL import Image

    try:
        image = Image.open(file)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(f"the image cannot be read ({error})", node=str(file)) from error
    if image.width * image.height > MAX_PIXELS:
        raise UsageError(f"the image has {image.width}x{image.height} pixels: too many", node=str(file))
    return image
