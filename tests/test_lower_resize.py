"""Resize, ONNX Runtime against LiteRT."""

import itertools
from typing import Any

import numpy as np
import pytest
from tflite_cases import Case, case, check, ints

X = (2, 3, 5, 4)
SIZES = [(10, 8), (7, 9), (3, 2), (5, 4), (1, 1), (15, 4)]
WHERE = ["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"]


def sized(height: int, width: int, **attributes: Any) -> Case:
    return case("Resize", X, None, None, ints(2, 3, height, width), **attributes)


def scaled(height: float, width: float, **attributes: Any) -> Case:
    return case("Resize", X, None, np.array([1, 1, height, width], np.float32), **attributes)


NEAREST = [
    sized(*size, mode="nearest", coordinate_transformation_mode=where, nearest_mode=rounding)
    for size, where, rounding in itertools.product(
        [*SIZES[:3], SIZES[4]],
        [*WHERE, "half_pixel_symmetric"],
        ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"],
    )
    if (size, where) != ((3, 2), "half_pixel_symmetric")  # coordinates on the edge of a cell, up to rounding
]
LINEAR = [
    sized(*size, mode="linear", coordinate_transformation_mode=where)
    for size, where in itertools.product(SIZES, WHERE)
    if (size, where) != ((1, 1), "pytorch_half_pixel")
]
SCALED = [
    scaled(2, 2),
    scaled(2, 3, coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    scaled(2, 2, mode="linear"),
    scaled(1.5, 2.3, coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    scaled(0.6, 0.5, mode="nearest"),
]


@pytest.mark.parametrize("c", LINEAR + SCALED, ids=str)
def test_answers(c: Case) -> None:
    check(c)


@pytest.mark.parametrize("c", NEAREST, ids=str)
def test_nearest(c: Case) -> None:
    check(c, layouts=["auto"])


COMPOSED = [
    sized(10, 8, mode="cubic"),
    sized(3, 2, mode="linear", antialias=1),
    sized(10, 8, mode="linear", coordinate_transformation_mode="half_pixel_symmetric"),
    sized(1, 1, mode="linear", coordinate_transformation_mode="pytorch_half_pixel"),
    scaled(1.5, 2.3, mode="linear"),
    case("Resize", X, None, None, ints(2, 6, 5, 4)),
    case("Resize", (2, 3, 5), None, None, ints(2, 3, 10)),
]


@pytest.mark.parametrize("c", COMPOSED, ids=str)
def test_composed(c: Case) -> None:
    check(c, tolerance=3e-5)
