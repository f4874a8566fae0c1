"""fold_constants: what does not depend on the input is computed while compiling, within limits."""

from typing import Any

import numpy as np
import pytest

from edgecc.passes.fold_constants import FoldConstants


def test_constant_expressions_fold(parse: Any, rewrite: Any) -> None:
    text = "g (float[1,6] x) => (float[1,6] y) { a = Sqrt(c) b = Reshape(a, s) y = Mul(x, b) }"
    result = rewrite(
        parse(text, 21, {"c": np.arange(6, dtype=np.float32).reshape(2, 3), "s": np.array([1, -1])}),
        FoldConstants(),
    )
    assert result.lines == ["y = Mul (x, b)"]
    assert set(result.model.graph.initializers) == {"b"}
    np.testing.assert_allclose(result.constant("b"), np.sqrt(np.arange(6))[None], rtol=1e-6)
    assert result.counts == [2]


def test_sizes_of_static_shapes_fold(parse: Any, rewrite: Any) -> None:
    text = """g (float[1,4,6] x) => (float[1,24] y) {
        s = Shape(x) n = Gather(s, i) u = Unsqueeze(n, z) t = Concat<axis = 0>(u, m) y = Reshape(x, t) }"""
    constants = {"i": np.array(0), "z": np.array([0]), "m": np.array([-1])}
    result = rewrite(parse(text, 21, constants), FoldConstants())
    assert result.lines == ["y = Reshape (x, t)"]
    np.testing.assert_array_equal(result.constant("t"), [1, -1])


def test_a_free_batch_is_not_baked_in_but_other_sizes_fold(parse: Any, rewrite: Any) -> None:
    text = """g (float[N,4,6] x) => (float[M,24] y) {
        s = Shape(x) n = Slice(s, zero, one) c = Slice(s, one, two) d = Slice(s, two, three)
        k = Mul(c, d) t = Concat<axis = 0>(n, k) y = Reshape(x, t) }"""
    constants = {name: np.array([i]) for i, name in enumerate(("zero", "one", "two", "three"))}
    result = rewrite(parse(text, 21, constants), FoldConstants())
    assert [line.split(" = ")[1].split(" ")[0] for line in result.lines] == [
        "Shape",
        "Slice",
        "Concat",
        "Reshape",
    ]
    np.testing.assert_array_equal(result.constant("k"), [24])


def test_the_branch_that_an_if_takes_is_inlined(parse: Any, rewrite: Any) -> None:
    text = """g (float[1,3] x) => (float[1,3] y) {
        r = If (c) <
            then_branch = a () => (float[1,3] t) { k = Relu(x) t = Mul(k, k) },
            else_branch = b () => (float[1,3] e) { e = Neg(x) }
        >
        y = Sigmoid(r) }"""
    taken = rewrite(parse(text, 21, {"c": np.array(True)}), FoldConstants())
    assert [line.split(" = ")[1].split(" ")[0] for line in taken.lines] == ["Relu", "Mul", "Sigmoid"]
    other = rewrite(parse(text, 21, {"c": np.array(False)}), FoldConstants())
    assert [line.split(" = ")[1].split(" ")[0] for line in other.lines] == ["Neg", "Sigmoid"]


NEAR_MISSES: dict[str, tuple[str, str]] = {
    "large": (
        "g (float[1,3] x) => (float[1,3] y) {"
        " b = Expand(c, big) m = ReduceMax<keepdims = 0>(b) y = Add(x, m) }",
        "its result would take 152 MiB",
    ),
    "quantization": (
        "g (float[1,3] x) => (float[1,3] y) { w = DequantizeLinear(q, scale) y = Add(x, w) }",
        "carries the quantization of a constant",
    ),
    "graph output": (
        "g (float[1,3] x) => (float[1,3] y, float z) { z = Neg(c) y = Add(x, z) }",
        "its result is a graph output",
    ),
    "running condition": (
        """g (float[1,3] x, bool k) => (float[1,3] y) {
            y = If (k) < then_branch = a () => (float[1,3] t) { t = Relu(x) },
                         else_branch = b () => (float[1,3] e) { e = Neg(x) } > }""",
        "its condition is computed while running",
    ),
    "unbounded": (
        "g (float[1,3] x) => (float[1,3] y) {"
        " n = NonZero(c) f = Cast<to = 1>(n) m = ReduceMax<keepdims = 0>(f) y = Add(x, m) }",
        "no rule bounds the size of what it computes",
    ),
}


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_near_misses_are_refused_with_a_reason(parse: Any, rewrite: Any, case: str) -> None:
    constants: dict[str, Any] = {
        "c": np.float32(2).reshape(()),
        "big": np.array([40_000_000]),
        "q": np.ones(3, np.int8),
        "scale": np.float32(0.5).reshape(()),
    }
    text, reason = NEAR_MISSES[case]
    used = {k: v for k, v in constants.items() if f"({k}" in text or f", {k})" in text}
    result = rewrite(parse(text, 21, used), FoldConstants())
    assert any(reason in given for given in result.reasons), result.reasons


def test_random_numbers_are_never_folded(parse: Any, rewrite: Any) -> None:
    text = (
        "g (float[1,3] x) => (float[1,3] y) { r = RandomNormal<shape = [3]>() s = Sub(r, r) y = Add(x, s) }"
    )
    result = rewrite(parse(text, 21), FoldConstants())
    assert result.counts == [0]
    assert result.reasons == ["draws random numbers anew each time"]


def test_the_limit_is_an_option(parse: Any, rewrite: Any) -> None:
    text = "g (float[9] x) => (float[9] y) { b = Expand(c, s) y = Add(x, b) }"
    constants = {"c": np.float32(2).reshape(()), "s": np.array([9])}
    assert rewrite(parse(text, 21, constants), FoldConstants(max_bytes=16)).counts == [0]
    assert rewrite(parse(text, 21, constants), FoldConstants()).counts == [1]


def test_standardized_weights_fold(parse: Any, rewrite: Any, assert_same_answers: Any) -> None:
    """NFNet and BiT standardize their weights by a BatchNormalization of the weights, with statistics of its own."""
    weights = np.random.default_rng(0).normal(1, 2, (1, 4, 27)).astype(np.float32)
    text = """g (float[N,3,6,6] x) => (float[N,4,4,4] y) {
        n, m, v = BatchNormalization<training_mode = 1>(w, g, b, a, s) k = Reshape(n, t) y = Conv(x, k) }"""
    constants = {
        "w": weights, "g": np.full(4, 0.5, np.float32), "b": np.zeros(4, np.float32),
        "a": np.zeros(4, np.float32), "s": np.ones(4, np.float32), "t": np.array([4, 3, 3, 3]),
    }  # fmt: skip
    original = parse(text, 21, constants)
    result = rewrite(original, FoldConstants())
    assert [node.op_type for node in result.model.graph] == ["Conv"]
    assert abs(float(result.constant("k").mean())) < 1e-6
    assert_same_answers(original, result.model, batch=2)
