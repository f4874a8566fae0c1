"""Noise at the answers: one measure for everything that asks what an error does to the network."""

from typing import Any

import numpy as np
import pytest

from edgecc import ir
from edgecc.analysis.answers import Answers, Changes
from edgecc.importer import load


def test_noise_is_a_share_of_each_output_over_all_samples() -> None:
    wanted = [
        {"y": np.array([3.0, 0.0]), "z": np.array([1])},
        {"y": np.array([0.0, 4.0]), "z": np.array([2])},
    ]
    got = [{"y": np.array([3.0, 0.0]), "z": np.array([1])}, {"y": np.array([0.0, 9.0]), "z": np.array([2])}]
    assert Answers(wanted, ["y", "z"]).noise(got) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("wanted", "got", "noise"),
    [
        ([1.0, 2.0], None, 0.0),  # nothing that errs reaches the output
        ([1.0, 2.0], [1.0], 1.0),  # another number of answers: all are wrong
        ([0.0, 0.0], [1.0, 0.0], 1e6),
        ([np.inf, 2.0], [np.inf, 3.0], 0.25),
    ],
)
def test_what_is_no_plain_difference(wanted: list[float], got: list[float] | None, noise: float) -> None:
    found = {} if got is None else {"y": np.array(got)}
    with np.errstate(invalid="ignore"):
        assert Answers([{"y": np.array(wanted)}], ["y"]).noise([found]) == (noise,)


def test_changed_constants_are_noise_in_the_floats_alone(parse: Any) -> None:
    constants = {"w": np.array([1.0, 1.0], np.float32)}
    model = load(
        parse("g (float[1,2] x) => (float[1,2] y, int64[1,1] k) { y = Mul(x, w) k = ArgMax<axis = 1>(x) }",
              constants=constants)
    )  # fmt: skip
    answers = Changes(model, [{"x": np.array([[2.0, 1.0]], np.float32)}])
    assert answers.noise(model) == (0.0,)
    weight = model.graph.initializers["w"]
    weight.const_value = ir.Tensor(np.array([1.5, 1.0], np.float32), name="w")
    assert answers.noise(model) == pytest.approx((1 / 5,))
