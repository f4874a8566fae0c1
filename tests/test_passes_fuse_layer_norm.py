"""fuse_layer_norm: normalization over the last axes becomes one operator, whatever it is spelt with."""

from typing import Any

import numpy as np
import pytest

from edgecc.passes.fuse_layer_norm import FuseLayerNorm

RANDOM = np.random.default_rng(0)
CONSTANTS = {
    "last": np.array([-1]),
    "two_last": np.array([1, 2]),
    "channel": np.array([1]),
    "eps": np.array(1e-5, np.float32),
    "two": np.array(2, np.float32),
    "three": np.array(3, np.float32),
    "half": np.array(0.5, np.float32),
    "scale": RANDOM.standard_normal(8).astype(np.float32),
    "wide": RANDOM.standard_normal((1, 1, 8)).astype(np.float32),
    "rows": RANDOM.standard_normal((5, 1)).astype(np.float32),
    "shift": RANDOM.standard_normal(8).astype(np.float32),
}
HEAD = "m = ReduceMean(x, last) c = Sub(x, m)"
ROOT = "q = Pow(c, two) v = ReduceMean(q, last) e = Add(v, eps) r = Sqrt(e)"


def _parse(parse: Any, body: str) -> Any:
    used = {n: a for n, a in CONSTANTS.items() if f" {n})" in body or f" {n}," in body or f"({n}," in body}
    return parse(f"g (float[N,5,8] x) => (float[] y) {{ {body} }}", 21, used)


@pytest.mark.parametrize(
    ("body", "inputs", "axis"),
    [
        (f"{HEAD} {ROOT} n = Div(c, r) p = Mul(n, scale) y = Add(p, shift)", "(x, scale, shift)", -1),
        (f"{HEAD} {ROOT} n = Div(c, r) p = Mul(scale, n) y = Add(shift, p)", "(x, scale, shift)", -1),
        (f"{HEAD} {ROOT} n = Div(c, r) y = Mul(n, wide)", "(x, wide_last)", -1),
        (f"{HEAD} {ROOT} n = Div(c, r) y = Mul(n, half)", "(x, half_last)", -1),
        (f"{HEAD} {ROOT} y = Div(c, r)", "(x, y_scale)", -1),
        (f"{HEAD} q = Mul(c, c) v = ReduceMean(q, last) e = Add(eps, v) r = Sqrt(e) i = Reciprocal(r)"
         " y = Mul(i, c)", "(x, y_scale)", -1),
        (f"{HEAD} {ROOT} n = Div(c, r) y = Mul(n, scale)".replace("last", "two_last"), "(x, n_scale)", -2),
    ],
)  # fmt: skip
def test_it_is_fused(
    parse: Any, rewrite: Any, assert_same_answers: Any, body: str, inputs: str, axis: int
) -> None:
    original = _parse(parse, body)
    result = rewrite(original, FuseLayerNorm())
    assert result.counts == [1]
    assert f"LayerNormalization <axis: int = {axis}, epsilon: float = 1e-05> {inputs}" in result.lines[0]
    assert_same_answers(original, result.model)


def test_rows_are_no_part_of_it(parse: Any, rewrite: Any) -> None:
    """A factor that differs along the sequence is not the operator's scale."""
    result = rewrite(_parse(parse, f"{HEAD} {ROOT} n = Div(c, r) y = Mul(n, rows)"), FuseLayerNorm())
    assert [line.split(" ")[2] for line in result.lines] == ["LayerNormalization", "Mul"]


@pytest.mark.parametrize(
    ("body", "reasons"),
    [
        (f"{HEAD} {ROOT} y = Div(c, r)".replace("last", "channel"),
         ["it averages along other axes than the last ones"]),
        (f"{HEAD} {ROOT} y = Div(c, r)".replace("two)", "three)"), []),
        ("m = ReduceMean(x, last) c = Sub(x, half) q = Pow(c, two) v = ReduceMean(q, last) e = Add(v, eps)"
         " r = Sqrt(e) y = Div(c, r)", []),
        (f"{HEAD} q = Pow(x, two) v = ReduceMean(q, last) e = Add(v, eps) r = Sqrt(e) y = Div(c, r)", []),
        (f"{HEAD} {ROOT} y = Div(r, c)", []),
    ],
)  # fmt: skip
def test_near_misses(parse: Any, rewrite: Any, body: str, reasons: list[str]) -> None:
    result = rewrite(_parse(parse, body), FuseLayerNorm())
    assert result.counts == [0]
    assert result.reasons == reasons


def test_no_operator_before_opset_17(parse: Any) -> None:
    """The importer brings every model to a newer one; a graph made by hand says why nothing happens."""
    from edgecc.importer import load
    from edgecc.pipeline import PassContext

    model = load(_parse(parse, f"{HEAD} {ROOT} y = Div(c, r)"))
    model.opset_imports[""] = 16
    result = FuseLayerNorm().apply(model, PassContext())
    assert result.rewritten == 0
    assert [r.reason for r in result.refused] == [
        "LayerNormalization exists from opset 17 on, the model has 16"
    ]
