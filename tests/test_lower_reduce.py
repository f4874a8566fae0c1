"""Reductions and Softmax, ONNX Runtime against LiteRT."""

import itertools

import pytest
from tflite_cases import Case, case, check, compiled, ints, model

from edgecc.errors import UnsupportedError

X = (2, 3, 4, 5)
AXES = [c for n in range(1, 5) for c in itertools.combinations(range(4), n)] + [(-1,), (-2, 1), (-3, -1)]
REDUCED = [
    *(case("ReduceMean", X, ints(*a), keepdims=k) for a in AXES for k in (0, 1)),
    *(case(op, X, ints(*a), keepdims=k) for op in ("ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd")
      for a in ((1,), (2, 3), (0, -1)) for k in (0, 1)),
    *(case("ReduceMean", shape, ints(*a), keepdims=k) for shape, a in (((2, 3, 4), (2,)), ((2, 3, 4), (1,)), ((2, 3),
    (1,)), ((2, 3, 2, 2, 3), (2, 3)))
      for k in (0, 1)),
    *(case("ReduceSum", X, *axes, keepdims=k) for axes in ((), (ints(),)) for k in (0, 1)),
    case("ReduceSum", X, noop_with_empty_axes=1),
    case("ReduceMean", X, ints(), noop_with_empty_axes=1, keepdims=0),
    case("ReduceSum", X, ints(1), noop_with_empty_axes=1),
    *(case("ReduceMax", X, ints(1, 2), dtype=d) for d in ("int32", "int64", "uint8", "bool")),
    case("ReduceMin", X, ints(1), dtype="bool"),
]  # fmt: skip
SOFT = [
    case(op, shape, axis=axis)
    for op in ("Softmax", "LogSoftmax")
    for shape in (X, (2, 3, 4), (2, 3), (4,), (2, 3, 2, 2, 3))
    for axis in range(-1, len(shape))
]


@pytest.mark.parametrize("c", REDUCED + SOFT, ids=str)
def test_answers(c: Case) -> None:
    check(c, layouts=("auto", "onnx"))


REFUSED = [
    case("ReduceL2", X, ints(1)),
    case("ReduceLogSumExp", X, ints(1)),
    case("ReduceSum", X, ints(1), dtype="uint32"),
]


@pytest.mark.parametrize("c", REFUSED, ids=str)
def test_refused(c: Case) -> None:
    with pytest.raises(UnsupportedError, match="node"):
        compiled(model(c))
