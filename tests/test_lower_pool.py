"""Pools, ONNX Runtime against LiteRT."""

from typing import Any

import pytest
from tflite_cases import Case, case, check, compiled, model

from edgecc.errors import UnsupportedError

X = (2, 3, 9, 7)
WINDOWS: list[dict[str, Any]] = [
    {"kernel_shape": [2, 2]},
    {"kernel_shape": [2, 2], "strides": [2, 2]},
    {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]},
    {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [2, 1, 0, 0]},
    {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1},
    {"kernel_shape": [3, 3], "strides": [3, 3], "pads": [1, 1, 1, 1], "ceil_mode": 1},
    {"kernel_shape": [4, 3], "strides": [3, 2], "pads": [0, 1, 1, 0], "ceil_mode": 1},
    {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "SAME_LOWER"},
    {"kernel_shape": [3, 2], "strides": [1, 2], "auto_pad": "VALID"},
]
LINES: list[dict[str, Any]] = [
    {"kernel_shape": [3], "strides": [2], "pads": [1, 1]},
    {"kernel_shape": [2], "strides": [2], "ceil_mode": 1},
    {"kernel_shape": [4], "pads": [2, 1]},
    {"kernel_shape": [3], "strides": [2], "auto_pad": "SAME_LOWER"},
]
POOLS = [
    *(case(op, shape, **w) for op in ("MaxPool", "AveragePool") for shape, some in ((X, WINDOWS), ((2, 3, 9),
    LINES)) for w in some),
    *(case("AveragePool", shape, count_include_pad=1, **w) for shape, some in ((X, WINDOWS), ((2, 3, 9),
    LINES)) for w in some),
    *(case(op, shape) for op in ("GlobalAveragePool", "GlobalMaxPool") for shape in (X, (2, 3, 9), (2, 3, 4, 4, 3))),
]  # fmt: skip


@pytest.mark.parametrize("c", POOLS, ids=str)
def test_answers(c: Case) -> None:
    check(c)


COMPOSED = [
    case("MaxPool", X, kernel_shape=[2, 2], dilations=[2, 2]),
    case("AveragePool", X, kernel_shape=[2, 2], dilations=[2, 2]),
    case("MaxPool", X, kernel_shape=[2, 2], outputs=2),
    case("MaxPool", (2, 3, 4, 4, 4), kernel_shape=[2, 2, 2]),
    case("LpPool", X, kernel_shape=[2, 2]),
]


@pytest.mark.parametrize("c", COMPOSED, ids=str)
def test_composed(c: Case) -> None:
    check(c, tolerance=3e-5)


REFUSED = [
    case("MaxPool", X, kernel_shape=[4, 3], strides=[3, 2], pads=[0, 1, 2, 0], ceil_mode=1),
]


@pytest.mark.parametrize("c", REFUSED, ids=str)
def test_refused(c: Case) -> None:
    with pytest.raises(UnsupportedError, match="node"):
        compiled(model(c))
