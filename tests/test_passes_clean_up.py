"""clean_up: what computes nothing goes, names of inputs and outputs stay."""

import logging
from typing import Any

import numpy as np
import pytest

from edgecc.passes.clean_up import CleanUp

INTS = {
    "shape": np.array([0, 3, 4, 5]),
    "no_pads": np.zeros(8, np.int64),
    "zero": np.array([0]),
    "end": np.array([2**63 - 1]),
    "two": np.array([2]),
    "ones": np.array([1, 1]),
    "ratio": np.float32(0.5).reshape(()),
}


@pytest.mark.parametrize(
    "node",
    [
        "Identity(a)",
        "Dropout(a, ratio)",
        "Cast<to = 1>(a)",
        "CastLike(a, x)",
        "Transpose<perm = [0, 1, 2, 3]>(a)",
        "Reshape(a, shape)",
        "Pad(a, no_pads)",
        "Slice(a, zero, end, two)",
        "Concat<axis = 1>(a)",
        "Max(a)",
        "Expand(a, ones)",
    ],
)
def test_operators_without_effect_go(parse: Any, rewrite: Any, node: str) -> None:
    text = f"g (float[N,3,4,5] x) => (float[N,3,4,5] y) {{ a = Relu(x) b = {node} y = Sigmoid(b) }}"
    result = rewrite(parse(text, 21, {k: v for k, v in INTS.items() if k in node}), CleanUp())
    assert result.lines == ["a = Relu (x)", "y = Sigmoid (a)"]
    assert not result.model.graph.initializers


@pytest.mark.parametrize(
    "node",
    [
        "Transpose<perm = [0, 1, 3, 2]>(a)",
        "Slice(a, two, end, two)",
        "Concat<axis = 1>(a, a)",
    ],
)
def test_operators_with_effect_stay(parse: Any, rewrite: Any, node: str) -> None:
    text = f"g (float[N,3,4,5] x) => (float[] y) {{ a = Relu(x) b = {node} y = Sigmoid(b) }}"
    result = rewrite(parse(text, 21, {k: v for k, v in INTS.items() if k in node}), CleanUp())
    assert result.counts == [0]
    assert len(result.lines) == 3


def test_an_output_keeps_its_name(parse: Any, rewrite: Any) -> None:
    result = rewrite(
        parse("g (float[1,3] x) => (float[1,3] y) { a = Relu(x) y = Identity(a) }", 21), CleanUp()
    )
    assert result.lines == ["y = Relu (x)"]


def test_two_names_of_the_interface_stay_two(parse: Any, rewrite: Any) -> None:
    result = rewrite(parse("g (float[1,3] x) => (float[1,3] y) { y = Identity(x) }", 21), CleanUp())
    assert result.lines == ["y = Identity (x)"]
    assert result.reasons == ["has no effect, but joins two inputs or outputs of the graph, whose names stay"]


def test_dead_nodes_and_constants_go(parse: Any, rewrite: Any) -> None:
    text = "g (float[1,3] x) => (float[1,3] y) { d = Add(x, c) e = Relu(d) y = Relu(x) }"
    result = rewrite(
        parse(text, 21, {"c": np.ones(3, np.float32), "unused": np.ones(9, np.float32)}), CleanUp()
    )
    assert result.lines == ["y = Relu (x)"]
    assert not result.model.graph.initializers
    assert result.counts == [4]


def test_equal_nodes_are_shared(parse: Any, rewrite: Any) -> None:
    text = "g (float[1,3] x) => (float[1,3] y) { a = Add(x, c) b = Add(x, d) y = Mul(a, b) }"
    same = np.ones(3, np.float32)
    result = rewrite(parse(text, 21, {"c": same, "d": same.copy()}), CleanUp())
    assert result.lines == ["a = Add (x, c)", "y = Mul (a, a)"]


def test_equal_outputs_keep_both_names(parse: Any, rewrite: Any) -> None:
    outputs = "float[1,3] y, float[1,3] z, float[1,3] v"
    text = f"g (float[1,3] x) => ({outputs}) {{ y = Relu(x) z = Relu(x) v = Relu(x) }}"
    result = rewrite(parse(text, 21), CleanUp(), CleanUp())
    assert [v.name for v in result.model.graph.outputs] == ["y", "z", "v"]
    assert sum("Relu" in line for line in result.lines) == 1
    assert result.counts[1] == 0


def test_it_logs_nothing(parse: Any, rewrite: Any, caplog: pytest.LogCaptureFixture) -> None:
    text = "g (float[1,3] x) => (float[1,3] y, float[3] c) { y = Add(x, c) }"
    with caplog.at_level(logging.WARNING):
        rewrite(parse(text, 21, {"c": np.ones(3, np.float32)}), CleanUp())
    assert not caplog.records


def test_an_operand_without_elements_is_left_out_of_a_concat(parse: Any, rewrite: Any) -> None:
    """What a slice of no columns leaves, on the way of a network with a free batch."""
    text = """g (float[N,3,2] x) => (float[N,3,2] y) {
        s = Shape(x) n = Slice(s, zero, one) t = Concat<axis=0>(n, none) e = Expand(k, t)
        c = Concat<axis=1>(e, x) y = Relu(c)
    }"""
    constants = {"zero": np.array([0]), "one": np.array([1]), "none": np.array([0, 2])}
    constants["k"] = np.ones((1, 0, 2), np.float32)
    result = rewrite(parse(text, 21, constants), CleanUp(), CleanUp())
    assert result.lines == ["y = Relu (x)"]
    assert not result.model.graph.initializers


def test_an_expand_that_its_readers_do_anyway_goes(
    parse: Any, rewrite: Any, assert_same_answers: Any
) -> None:
    text = """g (float[N,3,4,5] x) => (float[N,3,4,5] y, float[N,3,4,5] z) {
        p = GlobalAveragePool(x) s = Shape(x) e = Expand(p, s) y = Mul(x, e) z = READER(e) }"""
    gate = parse(text.replace("READER(e)", "Sub(e, x)"), 21)
    result = rewrite(gate, CleanUp())
    assert result.lines[1:] == ["y = Mul (x, p)", "z = Sub (p, x)"]
    assert_same_answers(gate, result.model)
    kept = rewrite(parse(text.replace("READER(e)", "Relu(e)"), 21), CleanUp())
    assert any("Expand" in line for line in kept.lines)
