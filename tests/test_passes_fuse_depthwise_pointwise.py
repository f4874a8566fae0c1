"""fuse_depthwise_pointwise: two layers with nothing nonlinear between become one, where that is faster."""

from typing import Any

import numpy as np
import pytest

import edgecc
from edgecc.importer import load
from edgecc.passes.fuse_depthwise_pointwise import FuseDepthwisePointwise
from edgecc.pipeline import PassContext, Pipeline


def _random(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


CONSTANTS = {
    "d": _random(12, 1, 3, 3, seed=1),  # depthwise, three kernels a channel
    "p": _random(2, 12, 1, 1, seed=2),
    "q": _random(8, 4, 1, 1, seed=3),
    "wide": _random(64, 4, 1, 1, seed=4),
    "back": _random(3, 64, 1, 1, seed=5),
    "s": _random(4, 1, 1, 1, seed=6),
    "k": _random(5, 8, 3, 3, seed=7),
    "g": _random(8, 2, 3, 3, seed=8),  # two groups
    "h": _random(4, 4, 1, 1, seed=9),
    "b12": _random(12), "b3": _random(3), "b8": _random(8), "b2": _random(2), "b64": _random(64),
    "zero": np.zeros(4, np.float32),
    "m": _random(6, 40), "n": _random(40, 5, seed=1), "b40": _random(40), "b5": _random(5),
}  # fmt: skip


def _parse(parse: Any, body: str, shape: str = "float[N,4,9,8]") -> Any:
    words = body.replace(",", " ").replace(")", " ").replace("(", " ").split()
    used = {name: array for name, array in CONSTANTS.items() if name in words}
    return parse(f"g ({shape} x) => (float[] y) {{ {body} }}", 21, used)


FUSED = {
    "depthwise, pointwise": "a = Conv<group = 4, pads = [1, 1, 1, 1]>(x, d, b12) y = Conv(a, p, b2)",
    "strides of both": "a = Conv<group = 4, pads = [1, 0, 2, 1], strides = [2, 1]>(x, d)"
    " y = Conv<strides = [2, 3]>(a, p)",
    "pointwise, pointwise": "a = Conv<strides = [1, 2]>(x, wide, b64) y = Conv<strides = [2, 1]>(a, back)",
    "pointwise, kernel": "a = Conv(x, q, b8) y = Conv<dilations = [2, 1]>(a, k)",
    "pointwise, depthwise": "a = Conv<group = 4>(x, s, zero) y = Conv<group = 4>(a, d, b12)",
    "no bias, padding": "a = Conv(x, q) y = Conv<pads = [1, 1, 1, 1]>(a, k)",
    "a bias of zeros, padding": "a = Conv<group = 4>(x, s, zero) y = Conv<group = 4, pads = [1, 1, 1, 1]>(a, d)",
    "groups stay": "a = Conv<group = 2>(x, g) y = Conv<group = 2>(a, h)",
}


@pytest.mark.parametrize("case", FUSED)
def test_one_layer_is_left(parse: Any, rewrite: Any, case: str) -> None:
    result = rewrite(_parse(parse, FUSED[case]), FuseDepthwisePointwise())
    assert len(result.lines) == 1
    assert result.counts[0] in (1, 2)


def test_strides_multiply_and_the_padding_stays(parse: Any, rewrite: Any) -> None:
    result = rewrite(_parse(parse, FUSED["strides of both"]), FuseDepthwisePointwise())
    for words in ("strides: ints = [4, 3]", "pads: ints = [1, 0, 2, 1]", "kernel_shape: ints = [3, 3]"):
        assert words in result.lines[0]


def test_groups_are_kept(parse: Any, rewrite: Any) -> None:
    result = rewrite(_parse(parse, FUSED["groups stay"]), FuseDepthwisePointwise())
    assert "group: int = 2" in result.lines[0]
    assert result.constant("y_weight").shape == (4, 2, 3, 3)


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        ("a = Gemm<alpha = 0.5>(x, m, b40) y = Gemm<beta = 2.0>(a, n, b5)", "float[N,6]"),
        ("a = MatMul(x, m) c = Add(a, b40) y = MatMul(c, n)", "float[N,6]"),
        ("a = MatMul(x, m) c = Add(a, b40) f = MatMul(c, n) y = Add(f, b5)", "float[N,3,6]"),
    ],
)
def test_products(parse: Any, rewrite: Any, body: str, shape: str) -> None:
    result = rewrite(_parse(parse, body, shape), FuseDepthwisePointwise())
    assert result.counts == [1]
    assert len(result.lines) <= 2


NEAR_MISSES: dict[str, tuple[str, str]] = {
    "bias before padding": (
        "a = Conv(x, q, b8) y = Conv<pads = [1, 1, 1, 1]>(a, k)",
        "it pads with zeros, but where Conv_0 reads zeros it gives its bias",
    ),
    "others read": ("a = Conv(x, q) y = Conv(a, k) z = Relu(a)", "others read what Conv_0 computes, too"),
    "left out": ("a = Conv<strides = [2, 1]>(x, q) y = Conv(a, k)", "is pointwise, but pads or leaves places out"),
    "pads": ("a = Conv<pads = [1, 1, 1, 1]>(x, q) y = Conv(a, k)", "is pointwise, but pads or leaves places out"),
    "automatic": ('a = Conv(x, q) y = Conv<auto_pad = "SAME_UPPER">(a, k)', "its padding is given by auto_pad"),
    "slower": ("a = Conv<group = 4>(x, d) y = Conv(a, many)", "cycles in int8, the two"),
}  # fmt: skip


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_refused_with_a_reason(parse: Any, case: str) -> None:
    body, reason = NEAR_MISSES[case]
    proto = _parse(parse, body.replace("many", "p") if case != "slower" else body)
    if case == "slower":
        import onnx

        proto.graph.initializer.append(onnx.numpy_helper.from_array(_random(64, 12, 1, 1), "many"))
    _, log = Pipeline([FuseDepthwisePointwise()]).run(load(proto), PassContext(target=edgecc.target("arm")))
    assert log.records[0].rewritten == 0
    assert any(reason in refusal.reason for refusal in log.records[0].refused), log.records[0].refused


@pytest.mark.parametrize(
    "body", ["a = Conv(x, q) r = Relu(a) y = Conv(r, k)", "a = Conv(x, g2) y = Conv(a, k2)"]
)
def test_no_such_pair_is_no_refusal(parse: Any, rewrite: Any, body: str) -> None:
    """A nonlinearity between, or two kernels."""
    constants = {
        "q": CONSTANTS["q"],
        "k": CONSTANTS["k"],
        "g2": _random(3, 4, 2, 2),
        "k2": _random(2, 3, 2, 2),
    }
    used = {name: array for name, array in constants.items() if f" {name}" in body}
    result = rewrite(
        parse(f"g (float[N,4,9,8] x) => (float[] y) {{ {body} }}", 21, used), FuseDepthwisePointwise()
    )
    assert (result.counts, result.reasons) == ([0], [])


def test_precision_decides(parse: Any) -> None:
    """Where one precision gains and the other does not, both are asked for unless the option says which."""
    from msgspec.structs import replace

    target = edgecc.target("arm")
    # The one has half the multiply-accumulates of the two; a negative price turns that round.
    target = replace(target, cost=replace(target.cost, mac={"fp32": 1e3, "int8": -1e3, "int16x8": 0.0}))
    proto = _parse(parse, "a = Conv<group = 4>(x, d) y = Conv(a, p)")
    counts = []
    ways: tuple[Any, ...] = ("both", "int8", "fp32")
    for precision in ways:
        step = FuseDepthwisePointwise(precision=precision)
        _, log = Pipeline([step]).run(load(proto), PassContext(target=target))
        counts.append(log.records[0].rewritten)
    assert counts == [0, 0, 1]
