"""batch_first and spread_batch: a free batch comes first everywhere, and constants reach every sample in one form."""

from typing import Any

import numpy as np
import pytest

from edgecc import ir
from edgecc.passes.batch_first import BatchFirst
from edgecc.passes.spread_batch import SpreadBatch

RANDOM = np.random.default_rng(0)
CONSTANTS = {
    "w": RANDOM.standard_normal((8, 8)).astype(np.float32),
    "b": RANDOM.standard_normal(8).astype(np.float32),
    "mid": RANDOM.standard_normal((5, 1, 8)).astype(np.float32),
    "full": RANDOM.standard_normal((5, 2, 8)).astype(np.float32),
    "token": RANDOM.standard_normal((1, 1, 8)).astype(np.float32),
    "query": RANDOM.standard_normal((3, 1, 8)).astype(np.float32),
    "five": np.array([-1, 5, 3, 2, 4]),
    "joined": np.array([5, -1, 4]),
    "rows": np.array([-1, 8]),
    "back": np.array([5, -1, 8]),
    "mixed": np.array([8, -1, 5]),
    "tiles": np.array([1, 2, 1]),
    "zero": np.array([0]),
    "two": np.array(2),
    "last": np.array([-1]),
    "rest": np.array([1, 8]),
    "front": np.array([3]),
    "width": np.array([8]),
    "start": np.array([1]),
    "stop": np.array([4]),
    "axis": np.array([0]),
}  # fmt: skip
TURN = "t = Transpose<perm=[1,0,2]>(x)"
BACK = "y = Transpose<perm=[1,0,2]>(u)"


def _parse(parse: Any, body: str, head: str = "float[N,5,8] x) => (float[] y", opset: int = 21) -> Any:
    used = {name: array for name, array in CONSTANTS.items() if f" {name}" in body or f"({name}" in body}
    return parse(f"g ({head}) {{ {body} }}", opset, used)


def _in_front(model: ir.Model) -> bool:
    shapes = [ir.dims(out) or () for node in model.graph for out in node.outputs]
    return all(None not in shape[1:] for shape in shapes)


@pytest.mark.parametrize(
    "body",
    [
        f"{TURN} a = MatMul(t, w) u = Add(a, b) {BACK}",
        f"{TURN} u = Mul(t, mid) {BACK}",
        f"{TURN} u = Mul(mid, t) {BACK}",
        f"{TURN} u = Softmax<axis=0>(t) {BACK}",
        f"{TURN} u = LayerNormalization<axis=-1>(t, b) {BACK}",
        f"{TURN} m = ReduceMean<keepdims=0>(t, zero) y = Relu(m)",
        f"{TURN} m = ReduceMax(t, last) u = Sub(t, m) {BACK}",
        f"{TURN} u = Slice(t, start, stop, axis) {BACK}",
        f"{TURN} u = Concat<axis=0>(t, t) {BACK}",
        f"{TURN} p, q = Split<axis=2,num_outputs=2>(t) u = Add(p, q) {BACK}",
        f"{TURN} y = Gather<axis=0>(t, two)",
        # torch: heads joined with the batch, and rows of a Gemm
        f"{TURN} j = Reshape(t, joined) h = Transpose<perm=[1,0,2]>(j) k = Transpose<perm=[0,2,1]>(h) s = MatMul(h, k)"
        f" o = MatMul(s, h) i = Transpose<perm=[1,0,2]>(o) u = Reshape(i, back) {BACK}",
        f"{TURN} r = Reshape(t, rows) g = Gemm<transB=1>(r, w, b) u = Reshape(g, back) {BACK}",
        # three parts in front
        "m = MatMul(x, w3) r = Reshape(m, five) t = Transpose<perm=[2,0,3,1,4]>(r) q = Gather<axis=0>(t, c0)"
        " k = Gather<axis=0>(t, c1) kt = Transpose<perm=[0,1,3,2]>(k) y = MatMul(q, kt)",
    ],
)
def test_batch_comes_first(parse: Any, rewrite: Any, assert_same_answers: Any, body: str) -> None:
    original = _parse(parse, body)
    if "w3" in body:
        extra = {
            "w3": RANDOM.standard_normal((8, 24)).astype(np.float32),
            "c0": np.array(0),
            "c1": np.array(1),
        }
        original = parse(f"g (float[N,5,8] x) => (float[] y) {{ {body} }}", 21,
                         {**extra, "five": np.array([-1, 5, 3, 2, 4])})  # fmt: skip
    result = rewrite(original, BatchFirst())
    assert result.counts[0] > 0
    assert result.reasons == []
    assert _in_front(result.model)
    for batch in (1, 3):
        assert_same_answers(original, result.model, batch=batch)


def test_transposes_that_only_move_the_batch_are_gone(parse: Any, rewrite: Any) -> None:
    result = rewrite(_parse(parse, f"{TURN} a = MatMul(t, w) u = Relu(a) {BACK}"), BatchFirst())
    assert [line.split(" = ")[1].split(" ")[0] for line in result.lines] == ["MatMul", "Relu"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (f"{TURN} u = Softmax<axis=1>(t) {BACK}", "the batch is not to be found in u"),
        (f"{TURN} u = Mul(t, full) {BACK}", "its result does not have the batch"),
        (f"{TURN} u = CumSum(t, two) {BACK}", "it works only where the batch is the first axis"),
        (f"{TURN} r = Reshape(t, mixed) y = Relu(r)", "the batch is not to be found in r"),
        ("y = Transpose<perm=[1,0,2]>(x)",
         "the network returns its result with the batch elsewhere than in front"),
    ],
)  # fmt: skip
def test_it_says_why_not(parse: Any, rewrite: Any, body: str, reason: str) -> None:
    result = rewrite(_parse(parse, body), BatchFirst())
    assert result.counts == [0]
    assert reason in result.reasons


def test_a_batch_joined_with_an_axis_behind_it_comes_apart(
    parse: Any, rewrite: Any, assert_same_answers: Any
) -> None:
    """Windows: (N * 2, 4, 8) becomes (N, 2, 4, 8), unless an operator such as a convolution wants them joined."""
    used = {
        "joined": np.array([-1, 4, 5]),
        "apart": np.array([-1, 5, 8]),
        "k": np.ones((3, 4, 1), np.float32),
    }
    text = "g (float[N,5,8] x) => (float[] y) {{ r = Reshape(x, joined) {} y = Reshape(s, apart) }}"
    original = parse(text.format("s = Softmax(r)"), 21, {n: used[n] for n in ("joined", "apart")})
    result = rewrite(original, BatchFirst())
    softmax = next(node for node in result.model.graph if node.op_type == "Softmax")
    assert ir.dims(softmax.outputs[0]) == (None, 2, 4, 5)
    assert_same_answers(original, result.model, batch=3)
    kept = parse(text.format("c = Conv(r, k) s = Concat<axis=1>(c, r)").replace("apart)", "flat)"), 21,
                 {**{n: used[n] for n in ("joined", "k")}, "flat": np.array([-1, 70])})  # fmt: skip
    assert rewrite(kept, BatchFirst()).counts == [0]


def test_nothing_to_do_where_the_batch_is_fixed(parse: Any, rewrite: Any) -> None:
    body = f"{TURN} u = Relu(t) {BACK}"
    assert rewrite(_parse(parse, body, "float[2,5,8] x) => (float[] y"), BatchFirst()).counts == [0]


SIZE = "s = Shape(x) n = Gather<axis=0>(s, zero)"


@pytest.mark.parametrize(
    ("body", "after"),
    [
        (f"{SIZE} d = Concat<axis=0>(n, rest) e = Expand(token, d) y = Concat<axis=1>(e, x)", "Expand"),
        (f"{SIZE} d = Concat<axis=0>(front, n, width) e = Expand(query, d) y = Mul(e, e)", "Expand"),
        (f"{SIZE} d = Concat<axis=0>(n, ones) e = Tile(token, d)"
         " y = Concat<axis=1>(e, x)", "Expand"),
        (f"{SIZE} d = Concat<axis=0>(n, rest) e = ConstantOfShape(d) y = Concat<axis=1>(e, x)", "Expand"),
    ],
)  # fmt: skip
def test_constants_are_spread_in_one_form(
    parse: Any, rewrite: Any, assert_same_answers: Any, body: str, after: str
) -> None:
    used = {name: array for name, array in CONSTANTS.items() if f" {name}" in body or f"({name}" in body}
    used["ones"] = np.array([1, 1])
    original = parse(f"g (float[N,5,8] x) => (float[] y) {{ {body} }}", 21, used)
    result = rewrite(original, SpreadBatch(), SpreadBatch())
    assert result.counts == [1, 0]
    operators = [line.split(" = ")[1].split(" ")[0] for line in result.lines]
    assert operators[:3] == ["Shape", "Concat", after]
    assert "start: int = 0" in result.lines[0]
    assert_same_answers(original, result.model, batch=3)


def test_what_is_larger_along_the_batch_is_left(parse: Any, rewrite: Any) -> None:
    body = f"{SIZE} d = Concat<axis=0>(n, tiles2) e = Tile(x2, d) y = Relu(e)"
    used = {"zero": np.array([0]), "tiles2": np.array([1, 1]), "x2": CONSTANTS["query"]}
    original = parse(f"g (float[N,5,8] x) => (float[] y) {{ {body} }}", 21, used)
    assert rewrite(original, SpreadBatch()).counts == [0]


def test_what_is_computed_of_repeated_constants_is_one(
    parse: Any, rewrite: Any, assert_same_answers: Any
) -> None:
    """A mask of ones, summed up, scaled and shown to Sin and Cos, is a position embedding (EdgeNeXt, DETR)."""
    body = (
        f"{SIZE} d = Concat<axis=0>(n, sides) z = ConstantOfShape(d) m = Cast<to=9>(z) k = Not(m) f = Cast<to=1>(k)"
        " c = CumSum(f, one) v = Mul(c, tenth) e = Unsqueeze(v, last) p = Sin(e) q = Cos(e)"
        " j = Concat<axis=3>(p, q) t = Transpose<perm=[0,3,1,2]>(j) y = Add(x, t)"
    )
    used = {
        "zero": np.array([0]),
        "sides": np.array([3, 4]),
        "one": np.array(1),
        "tenth": np.float32(0.1),
        "last": np.array([-1]),
    }
    original = parse(f"g (float[N,2,3,4] x) => (float[] y) {{ {body} }}", 21, used)
    result = rewrite(original, SpreadBatch())
    assert [node.op_type for node in result.model.graph] == ["Shape", "Concat", "Expand", "Add"]
    assert_same_answers(original, result.model, batch=3)


def test_what_differs_between_samples_is_computed(parse: Any, rewrite: Any) -> None:
    """Numbers of the samples: CumSum over the batch."""
    body = f"{SIZE} d = Concat<axis=0>(n, rest) z = ConstantOfShape(d) f = Cos(z) c = CumSum(f, axis0) y = Add(x, c)"
    used = {"zero": np.array([0]), "rest": np.array([1, 8]), "axis0": np.array(0)}
    original = parse(f"g (float[N,5,8] x) => (float[] y) {{ {body} }}", 21, used)
    result = rewrite(original, SpreadBatch())
    assert "CumSum" in [node.op_type for node in result.model.graph]
    assert "Cos" not in [node.op_type for node in result.model.graph]


@pytest.mark.parametrize("pads", [[0, 0, 0, 0, 0, 1, 1, 0], [0] * 8])
def test_a_pad_does_not_hide_the_batch(
    parse: Any, rewrite: Any, assert_same_answers: Any, pads: list[int]
) -> None:
    """Swin transformers pad an image to whole windows and compute (3, batch * windows, heads, ...) of them."""
    side = 4 - max(pads)
    body = (
        "p = Pad(x, pads) r = Reshape(p, cut) t = Transpose<perm=[0,1,3,2,4,5]>(r) w = Reshape(t, parts)"
        " u = Transpose<perm=[2,0,1,3]>(w) s = Softmax(u) v = Transpose<perm=[1,2,0,3]>(s) y = Reshape(v, whole)"
    )
    used = {
        "pads": np.array(pads),
        "cut": np.array([-1, 2, 2, 2, 2, 6]),
        "parts": np.array([-1, 4, 3, 2]),
        "whole": np.array([-1, 4, 4, 6]),
    }
    original = parse(f"g (float[N,{side},{side},6] x) => (float[] y) {{ {body} }}", 21, used)
    result = rewrite(original, BatchFirst())
    assert _in_front(result.model)
    assert_same_answers(original, result.model, batch=3)


def test_a_pad_behind_a_moved_batch(parse: Any, rewrite: Any, assert_same_answers: Any) -> None:
    used = {"pads": np.array([1, 0, 0, 0, 0, 2])}
    body = f"{TURN} p = Pad(t, pads) s = Softmax<axis=0>(p) y = Transpose<perm=[1,0,2]>(s)"
    original = parse(f"g (float[N,5,8] x) => (float[] y) {{ {body} }}", 21, used)
    result = rewrite(original, BatchFirst())
    assert _in_front(result.model)
    assert_same_answers(original, result.model, batch=3)
