"""simplify_reshapes: every reshape gets a constant target, a free batch stays free."""

from typing import Any

import numpy as np
import pytest

from edgecc.passes.simplify_reshapes import SimplifyReshapes

INTS = {
    "i": np.array(0),
    "z": np.array([0]),
    "m": np.array([-1]),
    "last": np.array([2, 3]),
    "flat": np.array([0, -1]),
    "whole": np.array([0, 6, 1, 1]),
    "square": np.array([-1, 2, 3]),
    "rows": np.array([3, -1]),
}


def _parse(parse: Any, body: str, shape: str = "N,6,1,1", out: str = "float[] y") -> Any:
    used = {k: v for k, v in INTS.items() if f", {k})" in body or f"({k}," in body}
    return parse(f"g (float[{shape}] x) => ({out}) {{ {body} }}", 21, used)


SHAPE_CHAIN = "s = Shape(x) n = Gather(s, i) u = Unsqueeze(n, z) t = Concat<axis = 0>(u, m) y = Reshape(x, t)"


@pytest.mark.parametrize(
    "body", [SHAPE_CHAIN, "y = Flatten(x)", "y = Squeeze(x, last)", "y = Reshape(x, flat)"]
)
@pytest.mark.parametrize(("batch", "target"), [("N", [-1, 6]), ("1", [1, 6]), ("4", [4, 6])])
def test_the_target_becomes_constant(
    parse: Any, rewrite: Any, body: str, batch: str, target: list[int]
) -> None:
    result = rewrite(_parse(parse, body, f"{batch},6,1,1"), SimplifyReshapes())
    assert result.lines == ["y = Reshape (x, y_shape)"]
    assert result.constant("y_shape").tolist() == target


def test_unsqueeze(parse: Any, rewrite: Any) -> None:
    result = rewrite(_parse(parse, "y = Unsqueeze(x, last)", "N,6"), SimplifyReshapes())
    assert result.constant("y_shape").tolist() == [-1, 6, 1, 1]


def test_consecutive_reshapes_merge(parse: Any, rewrite: Any) -> None:
    result = rewrite(
        _parse(parse, "a = Flatten(x) b = Reshape(a, whole) y = Reshape(b, square)"), SimplifyReshapes()
    )
    assert result.lines == ["y = Reshape (x, square)"]


def test_reshapes_that_cancel_go(parse: Any, rewrite: Any) -> None:
    result = rewrite(_parse(parse, "a = Flatten(x) b = Reshape(a, whole) y = Relu(b)"), SimplifyReshapes())
    assert result.lines == ["y = Relu (x)"]


def test_reshapes_around_a_softmax_of_the_last_axis_go(parse: Any, rewrite: Any) -> None:
    body = "r = Relu(x) a = Flatten<axis = 2>(r) s = Softmax<axis = 1>(a) y = Reshape(s, square)"
    result = rewrite(_parse(parse, body, "N,2,3"), SimplifyReshapes())
    assert result.lines == ["r = Relu (x)", "y = Softmax <axis: int = -1> (r)"]


def test_a_softmax_over_more_than_the_last_axis_keeps_them(parse: Any, rewrite: Any) -> None:
    result = rewrite(
        _parse(parse, "a = Flatten(x) s = Softmax(a) y = Reshape(s, square)", "N,2,3"), SimplifyReshapes()
    )
    assert len(result.lines) == 3


def test_a_value_that_others_read_stays_between(parse: Any, rewrite: Any) -> None:
    body = "a = Flatten(x) z = Relu(a) y = Reshape(a, square)"
    result = rewrite(_parse(parse, body, out="float[] y, float[] z"), SimplifyReshapes())
    assert result.lines == ["a = Reshape (x, a_shape)", "z = Relu (a)", "y = Reshape (a, square)"]


@pytest.mark.parametrize("batch", [1, 3])
def test_the_batch_can_still_be_chosen(
    parse: Any, rewrite: Any, assert_same_answers: Any, batch: int
) -> None:
    original = _parse(parse, SHAPE_CHAIN, out="float[M,6] y")
    assert_same_answers(original, rewrite(original, SimplifyReshapes()).model, batch=batch)


def test_two_open_dimensions_are_refused(parse: Any) -> None:
    from edgecc import ir
    from edgecc.passes import simplify_reshapes
    from edgecc.pipeline import PassContext

    text = "g (float[N,M] x, int64[2] t) => (float[A,B] y) { y = Reshape(x, t) }"
    model = ir.serde.deserialize_model(parse(text, 21))
    result = simplify_reshapes.SimplifyReshapes().apply(model, PassContext())
    assert result.rewritten == 0
    assert [refusal.reason for refusal in result.refused] == [
        "its output shape [A,B] leaves more than one dimension open"
    ]


def test_constants_are_left_to_fold_constants(parse: Any, rewrite: Any) -> None:
    model = parse("g (float[N,6] x) => (float[N,6] y) { c = Flatten<axis = 0>(w) y = Mul(x, c) }", 21,
                  {"w": np.ones((2, 3), np.float32)})  # fmt: skip
    result = rewrite(model, SimplifyReshapes())
    assert result.reasons == ["reshapes a constant: fold_constants evaluates it"]


@pytest.mark.parametrize(
    ("body", "line", "target"),
    [
        ("p = GlobalAveragePool(x) s = Shape(x) y = Expand(p, s)", "y = Expand (p, y_shape)", [1, 3, 4, 6]),
        (
            'p = MaxPool<kernel_shape=[1,4]>(x) s = Shape(x) y = Resize<mode="linear">(p, , , s)',
            'y = Resize <mode: string = "linear"> (p, "", y_scales)',
            [1, 1, 1, 2],
        ),
        (
            "p = MaxPool<kernel_shape=[3,4]>(x) y = Resize<axes=[3,2]>(p, , half)",
            'y = Resize (p, "", y_scales)',
            [1, 1, 2, 2],
        ),
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_targets_of_expand_and_resize_become_constant(
    parse: Any, rewrite: Any, assert_same_answers: Any, body: str, line: str, target: list[int], batch: int
) -> None:
    constants = {"half": np.full(2, 2, np.float32)} if "half" in body else {}
    original = parse(f"g (float[N,3,4,6] x) => (float[N,3,4,6] y) {{ {body} }}", 21, constants)
    result = rewrite(original, SimplifyReshapes())
    assert result.lines[-1] == line
    assert not any("Shape (" in each for each in result.lines)
    assert [v.tolist() for v in map(result.constant, result.model.graph.initializers)] == [target]
    assert_same_answers(original, result.model, batch=batch)


def test_sizes_that_are_no_factor_stay(parse: Any, rewrite: Any) -> None:
    body = "p = MaxPool<kernel_shape=[2,2]>(x) s = Shape(x) y = Resize(p, , , s)"
    text = f"g (float[N,3,4,6] x) => (float[N,3,4,6] y) {{ {body} }}"
    result = rewrite(parse(text, 21), SimplifyReshapes())
    assert result.reasons == ["its sizes, 3 to 4, are no factor in float32"]


def test_an_expand_over_the_batch_is_refused(parse: Any, rewrite: Any) -> None:
    text = "g (float[N,3] x, float[1,3] c) => (float[N,3] y) { s = Shape(x) y = Expand(c, s) }"
    result = rewrite(parse(text, 21), SimplifyReshapes())
    assert "open dimension that its input has not" in result.reasons[0]
