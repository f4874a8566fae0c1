"""Elementwise functions composed of kernels: against numpy or scipy in float64, and between two convolutions."""

import math
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from tflite_cases import Array, Case, case, check, compiled, feed, model, seeded

from edgecc.runtime.litert import LiteRtRunner

X = (2, 3, 4, 5)
_ERF = np.vectorize(math.erf)
LINE = np.concatenate([np.linspace(-12, 12, 97), [1e-4, -1e-4, 3e-3, -0.02, 0.0]])
UNIT = np.concatenate([np.linspace(-1, 1, 99), [1e-4, -3e-3]])

# (operator, argument, what it computes, relative error, attributes)
FUNCTIONS: dict[str, tuple[Array, Callable[[Array], Array], float]] = {
    "Acos": (UNIT, np.arccos, 1e-5),
    "Acosh": (np.concatenate([np.linspace(1, 50, 99), [1.0001, 1e12, 3e30]]), np.arccosh, 3e-4),
    "Asin": (UNIT, np.arcsin, 1e-5),
    "Asinh": (np.concatenate([LINE, [1e12, -1e30]]), np.arcsinh, 1e-5),
    "Atan": (np.concatenate([LINE, [1e6, -1e30]]), np.arctan, 1e-5),
    "Atanh": (UNIT[1:98], np.arctanh, 1e-4),
    "Cosh": (LINE, np.cosh, 1e-5),
    "Erf": (LINE, _ERF, 1e-5),
    "Mish": (np.concatenate([LINE, [60, 200]]), lambda x: x * np.tanh(np.logaddexp(0, x)), 1e-4),
    "Sinh": (LINE, np.sinh, 1e-5),
    "Softplus": (np.concatenate([LINE, [60, 200]]), lambda x: np.logaddexp(0, x), 1e-5),
    "Softsign": (LINE, lambda x: x / (1 + np.abs(x)), 1e-6),
    "Tan": (np.linspace(-1.5, 1.5, 99), np.tan, 1e-5),
    "Celu": (LINE, lambda x: np.maximum(0, x) + np.minimum(0, np.expm1(x)), 1e-4),
    "ThresholdedRelu": (LINE, lambda x: np.where(x > 1, x, 0), 1e-6),
    "Selu": (
        LINE,
        lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0))),
        1e-4,
    ),
}


def _answer(c: Case, x: Array) -> Array:
    made = model(c)
    runner = LiteRtRunner(compiled(made).data, threads=1)
    (name,) = (value.name for value in made.graph.input)
    return next(iter(runner.run({name: x}).values()))


@pytest.mark.parametrize("op", FUNCTIONS)
def test_relative_error(op: str) -> None:
    x, function, error = FUNCTIONS[op]
    x = x.astype(np.float32)
    got = _answer(case(op, x.shape), x)
    np.testing.assert_allclose(got, function(x.astype(np.float64)), rtol=error, atol=1e-30)


@pytest.mark.parametrize("alpha", [1.0, 1.7])
def test_swish(alpha: float) -> None:
    made = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["": 24]>
        g (float[102] x) => (float[102] y) {{ y = Swish <alpha = {alpha}> (x) }}"""
    )
    x = LINE.astype(np.float32)
    got = LiteRtRunner(compiled(made).data, threads=1).run({"x": x})["y"]
    np.testing.assert_allclose(got, LINE / (1 + np.exp(-alpha * LINE)), rtol=1e-5, atol=1e-30)


CASES = [
    *(case(op, X) for op in ("Erf", "Softplus", "Softsign", "Sinh", "Cosh", "Asinh", "Atan", "Selu", "Celu")),
    *(case(op, (2, 3)) for op in ("Erf", "Tan")),
    case("Erf", ()),
    case("Erf", (2, 1, 2, 3, 1, 2, 2)),
    case("Selu", X, alpha=0.5, gamma=2.0),
    case("ThresholdedRelu", X, alpha=0.3),
    case("Mean", X), case("Mean", X, (3, 1, 1)), case("Mean", X, seeded(5), X),
    case("Mod", X, X, dtype="int32", low=1), case("Mod", X, np.array(-3, np.int32), dtype="int32"),
    case("Mod", X, (3, 1, 1), dtype="int64", low=1), case("Mod", X, X, dtype="int8", low=1),
    case("Mod", X, X, dtype="int32", fmod=1, low=1), case("Mod", X, (4, 1), fmod=1, low=0.5),
    case("Mod", X, np.array(0.7, np.float32), fmod=1),
    case("Pow", X, X, low=0.5), case("Pow", (2, 1, 2, 3, 2), (3, 1), low=0.5),
    case("Pow", X, np.array(-1, np.float32), low=0.5), case("Pow", X, np.array(2, np.int64), dtype="int32"),
]  # fmt: skip


@pytest.mark.parametrize("c", CASES, ids=str)
def test_answers(c: Case) -> None:
    check(c, layouts=("auto", "onnx"))


@pytest.mark.parametrize(("above", "below"), [(1, 1), (1, 0), (0, 1), (0, 0)])
def test_infinity(above: int, below: int) -> None:
    x = np.array([1, np.inf, -np.inf, np.nan, 0], np.float32)
    got = _answer(case("IsInf", (5,), detect_positive=above, detect_negative=below), x)
    wanted = (np.isposinf(x) & bool(above)) | (np.isneginf(x) & bool(below))
    np.testing.assert_array_equal(got, wanted)


def test_not_a_number() -> None:
    x = np.array([1, np.inf, -np.inf, np.nan, 0], np.float32)
    np.testing.assert_array_equal(_answer(case("IsNaN", (5,)), x), np.isnan(x))


def test_an_exponent_that_is_no_whole_number() -> None:
    made = model(case("Pow", X, np.array(0.5, np.float32), dtype="int32", low=1))
    feeds = feed(made, low=1)
    (x,), (got,) = feeds.values(), LiteRtRunner(compiled(made).data).run(feeds).values()
    np.testing.assert_array_equal(got, np.power(x, 0.5).astype(np.int32))
