"""Gemm and MatMul, ONNX Runtime against LiteRT."""

import pytest
from tflite_cases import Case, case, check, compiled, model, seeded

from edgecc.errors import UnsupportedError

W, X = seeded(5, 4), (3, 5)
GEMM = [
    case("Gemm", X, W),
    case("Gemm", X, W, seeded(4)),
    case("Gemm", X, W, seeded(1, 4), transB=0),
    case("Gemm", X, seeded(4, 5), seeded(4), transB=1),
    case("Gemm", X, W, seeded(1)),
    case("Gemm", X, W, seeded(3, 4)),
    case("Gemm", X, W, seeded(3, 1)),
    case("Gemm", X, W, (4,)),
    case("Gemm", X, W, (3, 4)),
    case("Gemm", X, (5, 4)),
    case("Gemm", X, (4, 5), (4,), transB=1),
    case("Gemm", (5, 3), W, seeded(4), transA=1),
    case("Gemm", (5, 3), (4, 5), transA=1, transB=1, alpha=0.5),
    case("Gemm", X, (5, 4), seeded(4), alpha=-2.0),
]
SCALED = [
    case("Gemm", X, W, seeded(4), alpha=0.5, beta=2.0),
    case("Gemm", X, seeded(4, 5), seeded(1, 4), alpha=-1.5, beta=0.5, transB=1),
    case("Gemm", X, W, alpha=3.0),
    case("MatMul", X, W),
]
MATMUL = [
    case("MatMul", X, W),
    case("MatMul", (2, 3, 5), W),
    case("MatMul", (2, 2, 3, 5), W),
    case("MatMul", (2, 2, 2, 3, 5), W),
    case("MatMul", X, (5, 4)),
    case("MatMul", (2, 3, 5), (2, 5, 4)),
    case("MatMul", (2, 3, 5), (5, 4)),
    case("MatMul", (3, 5), (2, 5, 4)),
    case("MatMul", (2, 2, 3, 5), (2, 2, 5, 4)),
    case("MatMul", (2, 2, 3, 5), (1, 2, 5, 4)),
    case("MatMul", (2, 1, 3, 5), (3, 5, 4)),
    case("MatMul", (2, 2, 3, 5), seeded(2, 5, 4)),
    case("MatMul", seeded(3, 5), (5, 4)),
    case("MatMul", seeded(2, 3, 5), (2, 5, 4)),
    case("MatMul", (2, 3, 4, 5), seeded(2, 3, 5, 2)),
]


@pytest.mark.parametrize("c", GEMM + MATMUL, ids=str)
def test_answers(c: Case) -> None:
    check(c)


@pytest.mark.parametrize("c", SCALED, ids=str)
def test_after_fuse_gemm(c: Case) -> None:
    check(c, passes=["fuse_gemm"])


COMPOSED = [
    case("MatMul", (5,), W),
    case("MatMul", (3, 5), (5,)),
]


@pytest.mark.parametrize("c", COMPOSED, ids=str)
def test_composed(c: Case) -> None:
    check(c, tolerance=3e-5)


REFUSED = [
    case("Gemm", X, W, alpha=2.0),
    case("Gemm", X, (5, 4), (4,), beta=2.0),
    case("MatMul", (2, 2, 2, 2, 3, 5), (2, 2, 2, 2, 5, 4)),
    case("MatMul", X, (5, 4), dtype="int32"),
]


@pytest.mark.parametrize("c", REFUSED, ids=str)
def test_refused(c: Case) -> None:
    with pytest.raises(UnsupportedError, match="node"):
        compiled(model(c))
