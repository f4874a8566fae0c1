"""A network run piece by piece answers as in one run, and runs no node twice that it need not."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from edgecc import importer, ir
from edgecc.analysis.pieces import Pieces
from edgecc.runtime.ort import OrtRunner

Parse = Callable[..., onnx.ModelProto]
F = np.float32
TEXT = """g (float[2,3] x, bool c) => (float[2,3] y) {
    a = Exp (x)
    b = Neg (a)
    d = If (c) <then_branch = t () => (float[2,3] e) { e = Add (a, b) },
                else_branch = f () => (float[2,3] e) { e = Sub (a, b) }>
    y = Mul (d, a)
}"""
COARSE = """g (float[2,3] x) => (float[2,3] y) {
    a = Cast <to = 16> (x)
    b = Cast <to = 1> (a)
    y = Abs (b)
}"""


def values_of(model: ir.Model) -> dict[str, ir.Value]:
    return {str(out.name): out for node in model.graph for out in node.outputs}


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    kinds: list[str] = []
    load = OrtRunner.from_model

    def counted(model: ir.Model, **options: Any) -> OrtRunner:
        kinds.extend(node.op_type for node in model.graph)
        return load(model, **options)

    monkeypatch.setattr(OrtRunner, "from_model", counted)
    return kinds


@pytest.mark.parametrize("condition", [True, False])
def test_pieces_answer_as_the_whole(condition: bool, parse: Parse, loaded: list[str]) -> None:
    model = importer.load(parse(TEXT))
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 3)).astype(F), "c": np.array(condition)}
    expected = OrtRunner.from_model(model, extra_outputs=["b"]).run(feeds)
    loaded.clear()
    values = values_of(model)
    pieces = Pieces(model, feeds, [], {values["b"], values["y"]})
    np.testing.assert_array_equal(pieces.reach([values["b"]])[0], expected["b"])
    assert loaded == ["Exp", "Neg"]
    np.testing.assert_array_equal(pieces.reach([values["y"]])[0], expected["y"])
    assert loaded == ["Exp", "Neg", "If", "Mul"]  # a and b, which the branches read too, were handed over


def test_of_what_is_wanted_only_the_shape_is_kept(parse: Parse, loaded: list[str]) -> None:
    model = importer.load(parse("g (float[2,3] x) => (float[2,3] y) { a = Exp (x) \n y = Abs (a) }"))
    values = values_of(model)
    loaded.clear()
    pieces = Pieces(model, {"x": np.ones((2, 3), F)}, values.values(), ())
    pieces.reach([values["y"]])
    (found,) = pieces.reach([values["a"]])
    assert (found.shape, found.strides) == ((2, 3), (0, 0))
    assert loaded == ["Exp", "Abs"] + 2 * ["Shape"]  # reaching a took no second run


def test_what_numpy_cannot_hold_is_computed_again(parse: Parse, loaded: list[str]) -> None:
    model = importer.load(parse(COARSE))
    values = values_of(model)
    loaded.clear()
    pieces = Pieces(model, {"x": np.full((2, 3), 1.001, F)}, [], {values["y"]})
    assert pieces.reach([values["a"]])[0].shape == (2, 3)
    np.testing.assert_array_equal(pieces.reach([values["y"]])[0], 1.0)
    assert loaded == ["Cast", "Shape", "Cast", "Cast", "Abs"]
