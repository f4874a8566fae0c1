"""fold_batchnorm: per-channel scales and shifts go into the weights of the layer beside them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgecc.passes.fold_batchnorm import FoldBatchNorm


def _random(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _statistics(channels: int) -> dict[str, Any]:
    return {
        "gamma": _random(channels, seed=1),
        "beta": _random(channels, seed=2),
        "mean": _random(channels, seed=3),
        "var": np.abs(_random(channels, seed=4)) + 0.1,
    }


BN = "BatchNormalization(c, gamma, beta, mean, var)"


@pytest.mark.parametrize(
    ("layer", "weights", "after"),
    [
        ("Conv<pads = [1, 1, 1, 1]>(x, w)", {"w": (6, 4, 3, 3)},
         "y = Conv <pads: ints = [1, 1, 1, 1]> (x, w, y_bias)"),
        ("Conv<group = 2, pads = [1, 1, 1, 1]>(x, w, b)", {"w": (6, 2, 3, 3), "b": (6,)},
         "y = Conv <group: int = 2, pads: ints = [1, 1, 1, 1]> (x, w, b)"),
        ("ConvTranspose<pads = [1, 1, 1, 1]>(x, w, b)", {"w": (4, 6, 3, 3), "b": (6,)},
         "y = ConvTranspose <pads: ints = [1, 1, 1, 1]> (x, w, b)"),
        ("ConvTranspose<group = 2, pads = [1, 1, 1, 1]>(x, w)", {"w": (4, 3, 3, 3)},
         "y = ConvTranspose <group: int = 2, pads: ints = [1, 1, 1, 1]> (x, w, y_bias)"),
    ],
)  # fmt: skip
def test_after_a_convolution(
    parse: Any, rewrite: Any, layer: str, weights: dict[str, tuple[int, ...]], after: str
) -> None:
    constants = {name: _random(*shape) for name, shape in weights.items()} | _statistics(6)
    result = rewrite(
        parse(f"g (float[2,4,5,5] x) => (float[2,6,5,5] y) {{ c = {layer} y = {BN} }}", 21, constants),
        FoldBatchNorm(),
    )
    assert result.lines == [after]
    assert result.counts == [1]
    assert not {"gamma", "beta", "mean", "var"} & set(result.model.graph.initializers)


@pytest.mark.parametrize(
    ("layer", "after"),
    [
        ("Gemm<alpha = 0.5, beta = 2.0>(x, w, b)", "y = Gemm (x, w, b)"),
        ("Gemm<alpha = 0.5, transB = 1>(x, v, b)", "y = Gemm <transB: int = 1> (x, v, b)"),
        ("Gemm(x, w)", "y = Gemm (x, w, y_bias)"),
        ("MatMul(x, w)", "y = Gemm (x, w, y_bias)"),
    ],
)
def test_after_a_product(parse: Any, rewrite: Any, layer: str, after: str) -> None:
    constants = {"w": _random(4, 6), "v": _random(6, 4), "b": _random(6)} | _statistics(6)
    text = f"g (float[N,4] x) => (float[N,6] y) {{ c = {layer} y = {BN} }}"
    assert rewrite(parse(text, 21, constants), FoldBatchNorm()).lines == [after]


def test_after_a_product_with_the_add_of_its_bias(parse: Any, rewrite: Any) -> None:
    constants = {"w": _random(4, 6), "b": _random(6)} | _statistics(6)
    text = f"g (float[N,4] x) => (float[N,6] y) {{ m = MatMul(x, w) c = Add(b, m) y = {BN} }}"
    assert rewrite(parse(text, 21, constants), FoldBatchNorm()).lines == ["y = Gemm (x, w, b)"]


def test_a_product_of_stacked_matrices_stays_one(parse: Any, rewrite: Any) -> None:
    constants = {"w": _random(4, 6), "b": _random(6), "s": _random(6)}
    text = "g (float[N,3,4] x) => (float[N,3,6] y) { m = MatMul(x, w) c = Add(m, b) y = Mul(c, s) }"
    result = rewrite(parse(text, 21, constants), FoldBatchNorm())
    assert result.lines == ["y_product = MatMul (x, w)", "y = Add (y_product, b)"]


@pytest.mark.parametrize(
    "arithmetic",
    [
        "m = Mul(c, scale) y = Add(m, shift)",
        "m = Div(c, scale) y = Sub(shift, m)",
        "m = Sub(c, shift) y = Mul(two, m)",
        "y = Add(shift, c)",
    ],
)
def test_batchnorm_as_arithmetic(parse: Any, rewrite: Any, arithmetic: str) -> None:
    constants = {
        "w": _random(6, 4, 3, 3),
        "scale": np.abs(_random(6, 1, 1)) + 0.5,
        "shift": _random(1, 6, 1, 1, seed=7),
        "two": np.float32(2).reshape(()),
    }
    text = f"g (float[1,4,5,5] x) => (float[1,6,3,3] y) {{ c = Conv(x, w) {arithmetic} }}"
    (line,) = rewrite(parse(text, 21, constants), FoldBatchNorm()).lines
    assert line.startswith("y = Conv (x, w, ")


def test_before_a_convolution_without_padding(parse: Any, rewrite: Any) -> None:
    constants = {"w": _random(6, 2, 3, 3)} | _statistics(4)
    text = f"g (float[1,4,5,5] c) => (float[1,6,3,3] y) {{ n = {BN} y = Conv<group = 2>(n, w) }}"
    assert rewrite(parse(text, 21, constants), FoldBatchNorm()).lines == [
        "y = Conv <group: int = 2> (c, w, y_bias)"
    ]


@pytest.mark.parametrize("layer", ["Gemm<transB = 1, alpha = 0.5, beta = 3.0>(n, v, b)", "MatMul(n, w)"])
def test_before_a_product(parse: Any, rewrite: Any, layer: str) -> None:
    constants = {"w": _random(4, 6), "v": _random(6, 4), "b": _random(6)} | _statistics(4)
    text = f"g (float[N,4] c) => (float[N,6] y) {{ n = {BN} y = {layer} }}"
    assert len(rewrite(parse(text, 21, constants), FoldBatchNorm()).lines) == 1


def test_a_scale_alone_passes_zero_padding(parse: Any, rewrite: Any) -> None:
    text = "g (float[1,4,5,5] x) => (float[1,6,5,5] y) { n = Mul(x, s) y = Conv<pads = [1, 1, 1, 1]>(n, w) }"
    result = rewrite(parse(text, 21, {"w": _random(6, 4, 3, 3), "s": _random(4, 1, 1)}), FoldBatchNorm())
    assert result.lines == ["y = Conv <pads: ints = [1, 1, 1, 1]> (x, w)"]


def test_shared_weights_are_copied(parse: Any, rewrite: Any) -> None:
    constants = {"w": _random(4, 4, 1, 1)} | _statistics(4)
    text = f"g (float[1,4,5,5] x) => (float[1,4,5,5] y) {{ c = Conv(x, w) n = {BN} y = Conv(n, w) }}"
    original = constants["w"].copy()
    result = rewrite(parse(text, 21, constants), FoldBatchNorm())
    assert result.lines == ["n = Conv (x, n_weight, n_bias)", "y = Conv (n, w)"]
    np.testing.assert_array_equal(result.constant("w"), original)


def _refuses(parse: Any, rewrite: Any, text: str, constants: dict[str, Any], reason: str) -> None:
    result = rewrite(parse(text, 21, constants), FoldBatchNorm())
    assert result.counts == [0]
    assert any(reason in given for given in result.reasons), result.reasons


NEAR_MISSES: dict[str, tuple[str, str]] = {
    "padding": (
        f"g (float[1,6,5,5] c) => (float[1,6,5,5] y) {{ n = {BN} y = Conv<pads = [1, 1, 1, 1]>(n, w) }}",
        "pads with zeros, to which its shift is not added",
    ),
    "two readers": (
        f"g (float[1,6,5,5] x) => (float[1,6,3,3] y) {{ c = Conv(x, w) n = {BN} y = Add(n, c) }}",
        "c is also read by another node",
    ),
    "graph output": (
        f"g (float[1,6,5,5] x) => (float[1,6,3,3] y, float[1,6,3,3] c) {{ c = Conv(x, w) y = {BN} }}",
        "c is also a graph output",
    ),
    "computed weights": (
        f"g (float[1,6,5,5] x, float[6,6,3,3] v) => (float[1,6,3,3] y) {{ c = Conv(x, v) y = {BN} }}",
        "weights of Conv_0 are computed while running",
    ),
    "nothing to fold into": (
        f"g (float[1,6,5,5] x) => (float[1,6,5,5] y) {{ c = Relu(x) y = {BN} }}",
        "no layer with constant weights stands before it or after it",
    ),
    "not per channel": (
        "g (float[1,6,5,5] x) => (float[1,6,3,3] y) { c = Conv(x, w) y = Mul(c, rows) }",
        "its constant of shape (3, 1) is not one number a channel",
    ),
    "shape grows": (
        "g (float[1,6,3,3] x) => (float[2,6,1,1] y) { c = Conv(x, w) y = Mul(c, batch) }",
        "it changes the shape of what it reads",
    ),
    "other axis": (
        f"g (float[1,6,6] x) => (float[1,6,6] y) {{ c = MatMul(x, square) y = {BN} }}",
        "normalises axis 1, but MatMul_0 has its channels on axis 2",
    ),
    "infinite": (
        "g (float[1,6,5,5] x) => (float[1,6,3,3] y) { c = Conv(x, w) y = Div(c, zero) }",
        "would not be finite",
    ),
    "in a branch": (
        f"""g (float[1,6,5,5] c, bool k) => (float[1,6,3,3] y) {{ n = {BN}
            y = If (k) < then_branch = a () => (float[1,6,3,3] t) {{ t = Conv(n, w) }},
                         else_branch = b () => (float[1,6,3,3] e) {{ e = Conv(c, w) }} > }}""",
        "stands in a branch or a loop",
    ),
    "transposed convolution": (
        f"g (float[1,6,5,5] c) => (float[1,6,7,7] y) {{ n = {BN} y = ConvTranspose(n, w) }}",
        "reaches its border otherwise than its middle",
    ),
}


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_near_misses_are_refused_with_a_reason(parse: Any, rewrite: Callable[..., Any], case: str) -> None:
    constants = {
        "w": _random(6, 6, 3, 3),
        "rows": _random(3, 1),
        "batch": _random(2, 1, 1, 1),
        "square": _random(6, 6),
        "zero": np.zeros((1,), np.float32),
    } | _statistics(6)
    text, reason = NEAR_MISSES[case]
    _refuses(parse, rewrite, text, {k: v for k, v in constants.items() if k in text}, reason)
