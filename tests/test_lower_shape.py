"""Operators that move, cut and join data, ONNX Runtime against LiteRT."""

import numpy as np
import pytest
from tflite_cases import Case, case, check, compiled, ints, model, seeded

from edgecc.errors import UnsupportedError

X = (2, 6, 4, 5)
LAST = np.iinfo(np.int64).max
FIRST = np.iinfo(np.int64).min


def cut(
    starts: list[int], ends: list[int], axes: list[int] | None = None, steps: list[int] | None = None
) -> Case:
    more = [None if v is None else ints(*v) for v in (axes, steps)]
    while more and more[-1] is None:
        more.pop()
    return case("Slice", X, ints(*starts), ints(*ends), *more)


def padded(
    *amounts: int, axes: list[int] | None = None, value: float | None = None, mode: str = "constant"
) -> Case:
    more = [None if value is None else np.array(value, np.float32), None if axes is None else ints(*axes)]
    while more and more[-1] is None:
        more.pop()
    return case("Pad", X, ints(*amounts), *more, mode=mode)


CASES = [
    *(case("Reshape", X, ints(*to)) for to in ((2, 120), (-1,), (2, 6, 20), (0, 0, -1), (2, 2, 3, 4, 5), (1, 2, 6, 4,
    5), (4, 5, 6, 2))),
    case("Reshape", (2, 3, 4), ints(2, 3, 2, 2)),
    case("Reshape", (2, 12), ints(2, 3, 2, 2)),
    *(case("Flatten", X, axis=a) for a in (0, 1, 2, -1, 4)),
    case("Squeeze", (1, 3, 1, 4), ints(0)), case("Squeeze", (1, 3, 1, 4), ints(-2)), case("Squeeze", (1, 3, 1, 4)),
    case("Unsqueeze", (2, 3, 4), ints(0)), case("Unsqueeze", (2, 3, 4), ints(-1)), case("Unsqueeze", (2, 3), ints(1,
    3)),
    *(case("Transpose", X, perm=p) for p in ([0, 2, 3, 1], [0, 3, 1, 2], [3, 2, 1, 0], [1, 0, 2, 3], [0, 1, 3, 2], [0,
    1, 2, 3])),
    case("Transpose", X), case("Transpose", (2, 3)), case("Transpose", (2, 3, 4), perm=[0, 2, 1]), case("Transpose",
    (2, 3, 4), perm=[1, 2, 0]),
    *(case("Concat", X, X, axis=a) for a in (0, 1, 2, 3, -1, -3)),
    case("Concat", X, (2, 1, 4, 5), seeded(2, 2, 4, 5), axis=1),
    case("Concat", X, axis=1), case("Concat", (2, 3), (2, 5), axis=1), case("Concat", (2, 3, 4), (2, 3, 1), axis=2),
    case("Concat", (2, 3, 2, 2, 2), (2, 3, 2, 2, 2), axis=1),
    *(case("Split", X, axis=a, num_outputs=2, outputs=2) for a in (0, 1, 2, -2)),
    case("Split", X, ints(1, 2, 3), axis=1, outputs=3), case("Split", X, ints(2, 3), axis=-1, outputs=2),
    case("Split", X, axis=3, num_outputs=2, outputs=2), case("Split", (6,), num_outputs=3, outputs=3),
    cut([1], [3], [1]), cut([0, 1], [2, 4], [2, 1]), cut([-3], [-1], [1]), cut([0, 1, 0, 1], [2, 5, 4, 4]),
    cut([0], [LAST], [1], [2]), cut([1, 1], [LAST, 100], [3, 2], [2, 3]), cut([-1], [FIRST], [1], [-1]),
    cut([LAST], [-LAST], [3], [-2]), cut([4], [0], [1], [-1]), cut([3, 0], [0, 2], [3, 2], [-2, 1]), cut([1], [2],
    [-1]),
    cut([0], [1], [0]), cut([-100], [100], [1]),
    padded(0, 0, 1, 2, 0, 0, 3, 0), padded(0, 1, 0, 0, 0, 2, 0, 0), padded(1, 1, 1, 1, 0, 0, 0, 0), padded(1, 2,
    axes=[1]),
    padded(1, 0, 2, 1, axes=[2, -1]), padded(0, 0, 1, 1, 0, 0, 1, 1, value=1.5), padded(1, 0, axes=[1], value=-2.0),
    *(padded(*a, mode=m) for m in ("edge", "wrap") for a in ((0, 0, 1, 2, 0, 0, 3, 1), (1, 0, 0, 0, 2, 5, 0, 0))),
    padded(0, 0, 1, 2, 0, 0, 3, 1, mode="reflect"), padded(2, 1, axes=[1], mode="reflect"), padded(0, 0, axes=[1]),
    *(case("Gather", X, ints(*i), axis=a) for i in ((0,), (1, 0, 1), (-1, 0)) for a in (0, 1, 2, 3, -1)),
    *(case("Gather", X, np.array(i), axis=a) for i in (1, -1) for a in (0, 1, 3)),
    *(case("Gather", X, np.array([[0, 1], [-1, 0]]), axis=a) for a in (0, 1, 3)),
    case("Gather", (5,), np.array([[0, 1], [-1, 0]])), case("Gather", (5,), np.array(2)), case("Gather", (3, 4),
    ints(2, 0), axis=1),
    *(case("Tile", X, ints(*r)) for r in ((1, 1, 1, 1), (1, 2, 1, 1), (2, 1, 1, 3), (1, 1, 2, 2))),
    case("Tile", (2, 3), ints(2, 2)), case("Tile", (2, 3, 4), ints(1, 3, 2)),
    case("Expand", (2, 6, 1, 5), ints(2, 6, 4, 5)), case("Expand", (6, 1, 1), ints(2, 6, 4, 5)), case("Expand", (3,
    1), ints(3, 4)),
    case("Expand", X, ints(1, 1, 1, 1)), case("Expand", X, ints(5)), case("Expand", (2, 1, 4), ints(2, 3, 4)),
    case("Expand", (), ints(2, 3)),
    case("DepthToSpace", (2, 12, 3, 2), blocksize=2), case("DepthToSpace", (2, 12, 3, 2), blocksize=2, mode="CRD"),
    case("SpaceToDepth", (2, 3, 4, 6), blocksize=2),
    *(case("Concat", X, X, axis=1, dtype=d) for d in ("int32", "int64", "bool", "uint8")),
    case("Transpose", X, perm=[0, 2, 3, 1], dtype="int64"), case("Gather", X, ints(1), axis=1, dtype="bool"),
    case("Identity", (), dtype="int64"),
]  # fmt: skip


@pytest.mark.parametrize("c", CASES, ids=str)
def test_answers(c: Case) -> None:
    check(c, layouts=("auto", "onnx"))


REFUSED = [
    padded(-1, 0, axes=[2]),
    case("Transpose", (2, 2, 2, 2, 2, 2, 3), perm=[1, 0, 3, 2, 5, 4, 6]),
    case("Split", X, axis=0, num_outputs=2, outputs=2, dtype="bool"),
]


@pytest.mark.parametrize("c", REFUSED, ids=str)
def test_refused(c: Case) -> None:
    with pytest.raises(UnsupportedError, match=r"node|y0"):
        compiled(model(c))
