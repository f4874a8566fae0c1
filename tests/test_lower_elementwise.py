"""Operators that work element by element, ONNX Runtime against LiteRT."""

import numpy as np
import onnx
import pytest
from tflite_cases import Array, Case, case, check, compiled, feed, ints, model, seeded

from edgecc.errors import UnsupportedError
from edgecc.runtime.litert import LiteRtRunner
from edgecc.runtime.ort import OrtRunner

X = (2, 3, 4, 5)
UNARY = [
    *(case(op, X) for op in ("Abs", "Ceil", "Cos", "Exp", "Floor", "HardSwish", "Neg", "Relu", "Round", "Sigmoid",
    "Sign", "Sin", "Tanh")),
    *(case(op, X, low=0.1) for op in ("Log", "Reciprocal", "Sqrt")),
    *(case(op, shape) for op in ("Relu", "Exp", "Tanh") for shape in ((3,), (2, 3), (2, 3, 4), (2, 3, 2, 2, 3), (2, 1,
    3, 2, 2, 3), ())),
    case("LeakyRelu", X),
    case("LeakyRelu", X, alpha=0.3),
    case("Elu", X),
    case("HardSigmoid", X),
    case("HardSigmoid", X, alpha=1 / 6, beta=0.5),
    case("Gelu", X),
    case("Gelu", X, approximate="tanh"),
    case("Clip", X, np.array(0, np.float32), np.array(6, np.float32)),
    case("Clip", X, np.array(-1, np.float32), np.array(1, np.float32)),
    case("Clip", X, np.array(0, np.float32)),
    case("Clip", X, np.array(-0.5, np.float32), np.array(0.25, np.float32)),
    case("Clip", X, None, np.array(0.25, np.float32)),
    case("Clip", X, np.array(-0.5, np.float32)),
    case("Clip", X),
    case("Clip", X, ()),
    case("Clip", X, (), ()),
    case("Clip", X, None, ()),
    case("Identity", X),
    case("Dropout", X),
    case("Dropout", X, np.array(0.5, np.float32), np.array(False)),
    case("Cast", X, to=onnx.TensorProto.FLOAT),
    case("Cast", X, to=onnx.TensorProto.INT32),
    case("Cast", X, to=onnx.TensorProto.INT64),
    case("Cast", X, to=onnx.TensorProto.BOOL),
    case("Cast", X, to=onnx.TensorProto.FLOAT, dtype="int64"),
    case("Cast", X, to=onnx.TensorProto.FLOAT, dtype="bool"),
    case("Not", X, dtype="bool"),
    *(case(op, X, dtype="int32") for op in ("Abs", "Neg", "Sign")),
    case("BatchNormalization", X, seeded(3), seeded(3), seeded(3), seeded(3, low=0.5)),
    case("BatchNormalization", (2, 3), seeded(3), seeded(3), seeded(3), seeded(3, low=0.5), epsilon=0.01),
    case("BatchNormalization", (2, 3, 4), seeded(3), seeded(3), seeded(3), seeded(3, low=0.5)),
]  # fmt: skip

OTHERS: list[tuple[int, ...] | Array] = [  # the second operand: every way to broadcast
    X, seeded(*X), seeded(1), np.array(0.7, np.float32), seeded(5), seeded(4, 5), seeded(3, 1, 1), seeded(1, 3, 1, 1),
    seeded(1, 1, 4, 5), seeded(2, 1, 1, 1), (5,), (3, 1, 1), (1, 3, 1, 1), (4, 1), (), (1, 1, 4, 5), (2, 3, 1, 1),
]  # fmt: skip
LOWER: list[tuple[tuple[int, ...], tuple[int, ...] | Array]] = [
    ((4, 5), X),
    ((5,), (2, 3, 5)),
    ((3, 1), (2, 1, 5)),
    ((1, 3, 1, 1), (2, 1, 4, 5)),
    ((2, 3), seeded(1, 3)),
    ((), (2, 3)),
]
BINARY = [
    *(case(op, X, other) for op in ("Add", "Sub", "Mul") for other in OTHERS),
    *(case(op, X, other) for op in ("Max", "Min", "PRelu") for other in OTHERS[:-2]),
    *(case(op, X, other, low=0.5) for op in ("Div", "Pow") for other in (X, (5,), (3, 1, 1), (1, 3, 1, 1))),
    *(case(op, X, np.abs(other) + 0.5, low=0.5) for op in ("Div", "Pow") for other in OTHERS if isinstance(other,
    np.ndarray)),
    *(case(op, a, b) for op in ("Add", "Sub", "Mul", "Max", "Min") for a, b in LOWER),
    *(case(op, a, b, low=0.5) for op in ("Div", "Pow") for a, b in LOWER),
    *(case(op, seeded(3, 1, 1), X) for op in ("Add", "Sub", "Mul", "Max", "Min")),
    case("Div", seeded(3, 1, 1), X, low=0.5),
    case("Pow", X, np.array(2, np.int64)),
    case("Pow", X, np.array(2, np.float32)),
    case("Sum", X), case("Sum", X, X), case("Sum", X, (3, 1, 1), seeded(5), (1, 3, 1, 1)),
    case("Max", X), case("Max", X, X, seeded(3, 1, 1)), case("Min", (5,), X, (4, 1)),
    case("PRelu", (2, 3), seeded(3)), case("PRelu", (2, 3, 4), seeded(3, 1)), case("PRelu", (2, 3, 4), seeded(1)),
    *(case(op, X, other) for op in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual") for other in (X,
    seeded(3, 1, 1), (3, 1, 1))),
    *(case(op, X, (3, 1, 1), dtype=d) for op in ("Add", "Sub", "Mul", "Max", "Min", "Less",
    "Equal") for d in ("int32", "int64")),
    case("Div", X, X, dtype="int32", low=1), case("Pow", X, ints(2), dtype="int32"),
    case("And", X, X, dtype="bool"), case("Or", X, (3, 1, 1), dtype="bool"),
    *(case(op, (2, 3, 2, 2, 3), (2, 3, 2, 2, 3)) for op in ("Add", "Div", "Max", "Less", "Sub")),
    *(case(op, (2, 3, 2, 2, 3), (1, 3, 1, 1, 1)) for op in ("Add", "Div", "Max", "Sub", "Mul")),
]  # fmt: skip
HIGH = (2, 3, 2, 2, 1, 2)
CONDITION = np.arange(120).reshape(X) % 3 == 0
WHERE = [
    case("Where", CONDITION, X, X),
    case("Where", CONDITION, X, np.array(0, np.float32)),
    case("Where", CONDITION[:1, :, :1, :1], X, seeded(3, 1, 1)),
    case("Where", CONDITION[0, 0], X, (3, 1, 1)),
]


@pytest.mark.parametrize("c", UNARY + BINARY + WHERE, ids=str)
def test_answers(c: Case) -> None:
    tolerance = 2e-4 if c.op == "Gelu" else 1e-5  # LiteRT's GELU has a polynomial of its own
    check(c, layouts=("auto", "onnx"), tolerance=tolerance)


def test_computed_condition() -> None:
    made = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 21]>
        g (float[2,3,4,5] x, float[3,1,1] l) => (float[2,3,4,5] y) { c = Less(x, l) r = Neg(x) y = Where(c, x, r) }"""
    )
    feeds = feed(made)
    wanted = OrtRunner.from_bytes(made.SerializeToString()).run(feeds)
    np.testing.assert_allclose(LiteRtRunner(compiled(made).data).run(feeds)["y"], wanted["y"], rtol=1e-6)


MORE = [  # types and numbers of axes without a kernel of their own
    case("Elu", X, alpha=0.5),
    *(case(op, X, X, dtype=d) for op in ("Less", "LessOrEqual", "Greater", "GreaterOrEqual",
    "Equal") for d in ("int8", "uint8", "int16")),
    *(case(op, X, (3, 1, 1), dtype=d) for op in ("Add", "Sub", "Mul") for d in ("int8", "uint8", "int16")),
    *(case("Div", X, X, dtype=d, low=1) for d in ("int8", "uint8", "int16", "int64")),
    case("Pow", X, X, dtype="int64", low=1),
    case("Pow", X, ints(3), dtype="int64", low=1),
    *(case(op, X, dtype=d) for op in ("Abs", "Sign") for d in ("int8", "int16", "int64")),
    *(case("Neg", X, dtype=d) for d in ("int8", "int64")),
    *(case(op, HIGH, (1, 3, 1, 1, 1, 1)) for op in ("Add", "Less", "Max", "PRelu", "Div")),
    *(case(op, HIGH, (2, 1, 2)) for op in ("Mul", "Equal", "Pow")),
    case("Less", (2, 3, 2, 2, 3), (1, 3, 1, 1, 1)),
    case("Add", (1, 2, 1, 2, 3, 2, 2), (2, 2)),
    case("Neg", (1, 2, 1, 2, 3, 2, 2)),
    case("Where", np.array([True, False, True]).reshape(1, 3, 1, 1, 1, 1), HIGH, HIGH),
]  # fmt: skip


@pytest.mark.parametrize("c", MORE, ids=str)
def test_types_and_axes_without_a_kernel(c: Case) -> None:
    check(c, layouts=("auto",))


def test_the_mask_of_dropout() -> None:
    made = model(case("Dropout", X, outputs=2))
    got = LiteRtRunner(compiled(made).data).run(feed(made))
    assert all(array.all() for name, array in got.items() if array.dtype == np.bool_)


REFUSED = [
    case("Dropout", X, np.array(0.5, np.float32), np.array(True)),
    *(case(op, X, X, dtype="uint32") for op in ("Add", "Less", "Equal")),
]


@pytest.mark.parametrize("c", REFUSED, ids=str)
def test_refused(c: Case) -> None:
    with pytest.raises(UnsupportedError, match="node"):
        compiled(model(c))
