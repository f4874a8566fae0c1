"""fuse_activation: activations spelt out as primitive nodes are recognised, whatever the order."""

import math
from typing import Any

import numpy as np
import pytest

from edgecc.passes.fuse_activation import FuseActivation

NUMBERS = {
    "zero": 0.0,
    "half": 0.5,
    "one": 1.0,
    "three": 3.0,
    "five": 5.0,
    "six": 6.0,
    "sixth": 1 / 6,
    "fifth": 1 / 5,
    "two": 2.0,
    "minus": -1.0,
    "root": math.sqrt(2),
    "invroot": 1 / math.sqrt(2),
    "cubic": 0.044715,
    "slope": math.sqrt(2 / math.pi),
}


def _parse(parse: Any, body: str, opset: int = 21, shape: tuple[int, ...] = ()) -> Any:
    used = {
        name: np.full(shape, number, np.float32)
        for name, number in NUMBERS.items()
        if f", {name}" in body or f"({name}" in body
    }
    return parse(f"g (float[N,4] x) => (float[N,4] y) {{ {body} }}", opset, used)


@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize(
    "body",
    [
        "a = Add(x, three) c = Clip(a, zero, six) m = Mul(x, c) y = Div(m, six)",
        "a = Add(three, x) c = Clip(a, zero, six) m = Mul(c, x) y = Mul(sixth, m)",
        "a = Add(x, three) c = Clip(a, zero, six) d = Div(c, six) y = Mul(x, d)",
        "a = Add(x, three) c = Clip(a, zero, six) s = Mul(x, sixth) y = Mul(s, c)",
        "a = Add(x, three) r = Relu(a) c = Min(r, six) d = Mul(c, sixth) y = Mul(d, x)",
        "s = HardSigmoid<alpha = 0.16666667, beta = 0.5>(x) y = Mul(s, x)",
    ],
)
def test_hard_swish(parse: Any, rewrite: Any, body: str, shape: tuple[int, ...]) -> None:
    if shape and "Clip" in body:
        body = body.replace("Clip(a, zero, six)", "Min(b, six)").replace(
            "c = Min", "b = Max(a, zero) c = Min"
        )
    assert rewrite(_parse(parse, body, shape=shape), FuseActivation()).lines == ["y = HardSwish (x)"]


@pytest.mark.parametrize(
    ("body", "after"),
    [
        ("a = Add(x, three) c = Clip(a, zero, six) y = Div(c, six)",
         "y = HardSigmoid <alpha: float = 0.16666667, beta: float = 0.5> (x)"),
        ("d = Div(x, root) e = Erf(d) f = Add(e, one) m = Mul(x, f) y = Mul(m, half)",
         'y = Gelu <approximate: string = "none"> (x)'),
        ("h = Mul(x, half) d = Mul(invroot, x) e = Erf(d) f = Add(one, e) y = Mul(f, h)",
         'y = Gelu <approximate: string = "none"> (x)'),
        ("p = Pow(x, three) q = Mul(p, cubic) a = Add(x, q) b = Mul(a, slope) t = Tanh(b) f = Add(t, one)"
         " h = Mul(f, half) y = Mul(x, h)", 'y = Gelu <approximate: string = "tanh"> (x)'),
        ("v = Mul(x, x) p = Mul(v, x) q = Mul(cubic, p) a = Add(q, x) b = Mul(slope, a) t = Tanh(b)"
         " f = Add(one, t) m = Mul(f, x) y = Div(m, two)", 'y = Gelu <approximate: string = "tanh"> (x)'),
        ("a = Relu(x) y = Clip(a, , six)", "y = Clip (x, y_min, y_max)"),
        ("a = Max(x, zero) y = Min(a, six)", "y = Clip (x, y_min, y_max)"),
        ("a = Min(x, six) y = Max(a, minus)", "y = Clip (x, y_min, y_max)"),
        ("a = Clip(x, minus, six) y = Relu(a)", "y = Clip (x, y_min, y_max)"),
        ("y = Max(zero, x)", "y = Relu (x)"),
        ("y = Clip(x, zero)", "y = Relu (x)"),
        ("a = Relu(x) y = Relu(a)", "y = Relu (x)"),
        ("y = Min(x, six)", 'y = Clip (x, "", y_max)'),
    ],
)  # fmt: skip
def test_other_activations(parse: Any, rewrite: Any, body: str, after: str) -> None:
    assert rewrite(_parse(parse, body), FuseActivation()).lines == [after]


def test_relu6_has_its_bounds(parse: Any, rewrite: Any) -> None:
    result = rewrite(_parse(parse, "a = Relu(x) y = Min(six, a)"), FuseActivation())
    assert result.constant("y_min") == 0
    assert result.constant("y_max") == 6


def test_swish_where_the_opset_has_it(parse: Any, rewrite: Any) -> None:
    body = "s = Sigmoid(x) y = Mul(x, s)"
    result = rewrite(_parse(parse, body), FuseActivation())
    assert result.counts == [0]
    assert result.reasons == ["Swish exists from opset 24 on, the model has 21"]


NEAR_MISSES: dict[str, tuple[str, str]] = {
    "five": (
        "a = Add(x, three) c = Clip(a, zero, five) m = Mul(x, c) y = Mul(m, fifth)",
        "has the bounds (0.0, 5.0)",
    ),
    "factor": (
        "a = Add(x, three) c = Clip(a, zero, six) m = Mul(x, c) y = Mul(m, fifth)",
        "its factor 0.2 is not",
    ),
    "alpha": ("s = HardSigmoid<alpha = 0.2>(x) y = Mul(s, x)", "HardSigmoid of slope 0.2 and offset 0.5"),
    "erf": ("d = Div(x, two) e = Erf(d) f = Add(e, one) m = Mul(x, f) y = Mul(m, half)", "not those of Gelu"),
    "read elsewhere": (
        "a = Relu(x) b = Clip(a, zero, six) y = Add(a, b)",
        "a between two clamps is read elsewhere",
    ),
    "crossed": (
        "a = Min(x, zero) b = Max(a, one) c = Clip(b, three, one) y = Clip(c, zero, six)",
        "above its upper",
    ),
}


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_near_misses_are_refused_with_a_reason(parse: Any, rewrite: Any, case: str) -> None:
    body, reason = NEAR_MISSES[case]
    result = rewrite(_parse(parse, body), FuseActivation())
    assert any(reason in given for given in result.reasons), (result.reasons, result.lines)
    assert "HardSwish" not in " ".join(result.lines)
    assert "Gelu" not in " ".join(result.lines)


@pytest.mark.parametrize(
    "body",
    [
        "s = HardSigmoid<alpha = 0.2>(x) y = Identity(s)",
        "a = Add(x, three) c = Clip(a, zero, six) y = Mul(c, c)",
        "y = Mul(x, x)",
        "y = Clip(x, minus, one)",
        "y = Div(six, x)",
    ],
)
def test_what_is_no_pattern_stays(parse: Any, rewrite: Any, body: str) -> None:
    assert rewrite(_parse(parse, body), FuseActivation()).counts == [0]


def test_the_tolerance_is_an_option(parse: Any, rewrite: Any) -> None:
    model = _parse(parse, "s = HardSigmoid<alpha = 0.1667, beta = 0.5>(x) y = Mul(s, x)")
    assert rewrite(model, FuseActivation(tolerance=1e-5)).counts == [0]
