"""Conv and ConvTranspose, ONNX Runtime against LiteRT."""

import pytest
from tflite_cases import Case, case, check, seeded

X = (2, 4, 9, 7)
W = seeded(6, 4, 3, 3)

CONV = [
    case("Conv", X, W),
    case("Conv", X, W, seeded(6)),
    case("Conv", X, W, seeded(6), pads=[1, 1, 1, 1]),
    case("Conv", X, W, seeded(6), pads=[1, 1, 1, 1], strides=[2, 2]),
    case("Conv", X, W, pads=[0, 0, 1, 1], strides=[2, 2]),
    case("Conv", X, W, pads=[1, 0, 0, 2], strides=[1, 2]),
    case("Conv", X, W, pads=[3, 3, 3, 3]),
    case("Conv", X, W, pads=[2, 2, 2, 2], dilations=[2, 2]),
    case("Conv", X, W, dilations=[2, 1]),
    case("Conv", X, W, dilations=[3, 2], pads=[1, 0, 2, 1], strides=[2, 1]),
    case("Conv", X, W, auto_pad="SAME_UPPER", strides=[2, 2]),
    case("Conv", X, W, auto_pad="SAME_LOWER", strides=[2, 2]),
    case("Conv", X, seeded(6, 4, 2, 4), auto_pad="SAME_UPPER"),
    case("Conv", X, seeded(6, 4, 2, 4), auto_pad="SAME_LOWER"),
    case("Conv", X, W, auto_pad="VALID", strides=[2, 3]),
    case("Conv", X, seeded(6, 4, 1, 1), seeded(6)),
    case("Conv", X, seeded(6, 4, 1, 1), strides=[2, 2]),
    case("Conv", X, seeded(6, 4, 5, 1), pads=[2, 0, 2, 0]),
    case("Conv", X, seeded(4, 1, 3, 3), seeded(4), group=4, pads=[1, 1, 1, 1]),
    case("Conv", X, seeded(4, 1, 3, 3), group=4, pads=[1, 1, 1, 1], strides=[2, 2]),
    case("Conv", X, seeded(4, 1, 3, 3), group=4, dilations=[2, 2]),
    case("Conv", X, seeded(4, 1, 3, 3), group=4, dilations=[2, 1], strides=[1, 2], pads=[2, 1, 2, 1]),
    case("Conv", X, seeded(12, 1, 3, 3), seeded(12), group=4, pads=[1, 1, 1, 1]),
    case("Conv", X, seeded(12, 1, 3, 3), group=4, strides=[2, 1]),
    case("Conv", X, seeded(6, 2, 3, 3), seeded(6), group=2, pads=[1, 1, 1, 1]),
    case("Conv", X, seeded(8, 2, 3, 3), group=2, strides=[2, 2]),
    case("Conv", (2, 6, 5, 5), seeded(6, 2, 3, 3), seeded(6), group=3, dilations=[2, 2], pads=[2, 2, 2, 2]),
    case("Conv", (2, 1, 5, 5), seeded(3, 1, 3, 3)),
    case("Conv", (1, 4, 9, 1), seeded(6, 4, 3, 1), pads=[1, 0, 1, 0]),
    case("Conv", (2, 4, 9), seeded(6, 4, 3), seeded(6), pads=[1, 1]),
    case("Conv", (2, 4, 9), seeded(6, 4, 3), strides=[2], dilations=[2]),
    case("Conv", (2, 4, 9), seeded(4, 1, 3), group=4, pads=[0, 2]),
    case("Conv", (2, 4, 9), seeded(6, 2, 3), group=2, pads=[1, 1], strides=[2]),
    case("Conv", (2, 4, 9), seeded(6, 4, 4), auto_pad="SAME_LOWER", strides=[3]),
]

V = seeded(4, 3, 3, 3)
TRANSPOSED = [
    case("ConvTranspose", X, V),
    case("ConvTranspose", X, V, seeded(3)),
    case("ConvTranspose", X, V, seeded(3), strides=[2, 2]),
    case("ConvTranspose", X, V, seeded(3), strides=[2, 2], pads=[1, 1, 1, 1]),
    case("ConvTranspose", X, V, seeded(3), strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
    case("ConvTranspose", X, V, strides=[2, 3], pads=[0, 1, 1, 0]),
    case("ConvTranspose", X, V, strides=[2, 2], output_padding=[1, 1]),
    case("ConvTranspose", X, V, strides=[3, 3], output_padding=[2, 1]),
    case("ConvTranspose", X, V, strides=[2, 2], auto_pad="SAME_UPPER"),
    case("ConvTranspose", X, V, strides=[2, 2], auto_pad="SAME_LOWER"),
    case("ConvTranspose", X, V, strides=[2, 2], output_shape=[18, 14]),
    case("ConvTranspose", X, seeded(4, 3, 4, 4), seeded(3), strides=[2, 2], pads=[1, 1, 1, 1]),
    case("ConvTranspose", X, seeded(4, 3, 2, 2), strides=[2, 2]),
    case("ConvTranspose", X, seeded(4, 1, 2, 2), seeded(4), strides=[2, 2], group=4),
    case("ConvTranspose", X, seeded(4, 3, 3, 3), seeded(6), strides=[2, 2], group=2, pads=[1, 1, 1, 1]),
    case("ConvTranspose", (2, 4, 9), seeded(4, 3, 3), seeded(3), strides=[2], pads=[1, 1]),
]


@pytest.mark.parametrize("c", CONV + TRANSPOSED, ids=str)
def test_answers(c: Case) -> None:
    check(c)


COMPOSED = [
    case("Conv", X, (6, 4, 3, 3)),
    case("Conv", X, W, (6,)),
    case("Conv", (2, 4, 5, 5, 5), seeded(6, 4, 3, 3, 3)),
    case("ConvTranspose", X, (4, 3, 3, 3)),
    case("ConvTranspose", X, V, dilations=[2, 2]),
]


@pytest.mark.parametrize("c", COMPOSED, ids=str)
def test_composed(c: Case) -> None:
    check(c, tolerance=3e-5)
