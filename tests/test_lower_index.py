"""Finding, picking and placing by index, cumulative operators and masks: ONNX Runtime against LiteRT."""

from typing import Any

import numpy as np
import pytest
from tflite_cases import Case, case, check, compiled, ints, model, names, seeded

from edgecc.errors import UnsupportedError
from edgecc.importer import load
from edgecc.runtime.litert import LiteRtRunner

X = (2, 6, 4, 5)


def places(*shape: int, below: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-below, below, shape)


def distinct(count: int, of: int) -> np.ndarray:
    return np.random.default_rng(1).permutation(of)[:count]


CASES = [
    *(case(op, X, axis=a, keepdims=d) for op in ("ArgMax", "ArgMin") for a, d in ((0, 1), (1, 0), (-1,
    1), (2, 0))),
    case("ArgMax", (3, 5), axis=1, select_last_index=1, dtype="int32"),
    case("ArgMin", (3, 7), axis=1, select_last_index=1, dtype="int32"),
    *(case("Hardmax", X, axis=a) for a in (0, 1, -1)), case("Hardmax", (7,), axis=0),
    *(case("TopK", X, ints(2), axis=a, largest=g, outputs=2) for a in (1, -1, 0) for g in (0, 1)),
    case("TopK", (3, 9), ints(4), axis=1, largest=0, outputs=2, dtype="int64"),
    case("TopK", (3, 9), ints(4), axis=1, outputs=2, dtype="int32"),
    *(case("OneHot", np.array([[1, -2], [0, 7]]), ints(5), (2,), axis=a) for a in (0, 1, -1)),
    case("OneHot", (3, 2), np.array(4), np.array([0, 1], np.float32), axis=1, dtype="int64"),
    case("GatherElements", X, places(2, 3, 4, 5, below=6), axis=1),
    case("GatherElements", X, places(1, 6, 4, 5, below=2), axis=0),
    case("GatherElements", (9,), ints(3, -1, 0), axis=0),
    case("GatherND", X, np.array([[0, 5], [1, -1]])),
    case("GatherND", X, places(2, 3, 1, below=4), batch_dims=1),
    case("GatherND", X, np.array([[0, 5, 1, 2], [1, -1, 3, -5]])),
    *(case("ScatterElements", (4, 5), places(3, 5, below=4), seeded(3, 5), axis=0, reduction=r)
      for r in ("add", "mul", "max", "min")),
    case("ScatterElements", (4, 5), np.array([[1, -1, 0]]), seeded(1, 3), axis=1),
    case("ScatterND", (4, 5), np.array([[1], [3]]), seeded(2, 5)),
    case("ScatterND", (4, 5), np.array([[1], [3]]), (2, 5)),
    *(case("ScatterND", (4, 5), np.array([[1], [-3], [1]]), seeded(3, 5), reduction=r) for r in ("add",
    "mul", "max", "min")),
    *(case("CumSum", X, np.array(a), exclusive=e, reverse=r) for a in (1, -1) for e in (0,
    1) for r in (0, 1)),
    case("CumSum", (6,), np.array(0), dtype="int32"), case("CumSum", (2, 6), np.array(1), dtype="int64"),
    case("ReverseSequence", (4, 3, 2), ints(2, 4, 1), time_axis=0, batch_axis=1),
    case("ReverseSequence", (3, 4, 2), ints(2, 4, 1), time_axis=1, batch_axis=0),
    *(case("Trilu", s, np.array(d), upper=u) for s in (X, (3, 3)) for d in (0, -1, 2) for u in (0, 1)),
    case("Trilu", X), case("Trilu", (3, 4), dtype="int64"), case("Trilu", (3, 4), np.array(100)),
    case("EyeLike", (3, 4), k=1), case("Shape", X), case("Shape", X, start=1, end=-1), case("Size", X),
    case("Det", (3, 3)), case("Det", (2, 2, 2)), case("Det", (1, 1)),
    case("DFT", (2, 8, 1), None, np.array(1)), case("DFT", (2, 8, 1), None, np.array(1), onesided=1),
    case("DFT", (2, 6, 2), np.array(5), np.array(1)), case("DFT", (2, 6, 3, 2), np.array(8), np.array(-3)),
    case("MatMul", (4,), (4, 3)), case("MatMul", (2, 3, 4), (4,)), case("MatMul", (4,), (4,)),
    *(case("Einsum", *o, equation=e) for e, o in (
        ("ij,jk->ik", [(2, 3), (3, 4)]), ("bij,bkj->bik", [(2, 3, 4), (2, 5, 4)]), ("ij->ji", [(2, 3)]),
        ("ii->i", [(3, 3)]), ("ij->", [(2, 3)]), ("...ij,...jk->...ik", [(2, 5, 3, 4), (2, 5, 4, 2)]),
        ("i,j->ij", [(2,), (3,)]), ("bhwc,hkc->bhwk", [(2, 3, 4, 5), (3, 6, 5)]),
        ("ij,jk,kl", [(2, 3), (3, 4), (4, 2)]))),
]  # fmt: skip


@pytest.mark.parametrize("c", CASES, ids=str)
def test_as_onnx_runtime(c: Case) -> None:
    check(c)


def computed(c: Case, positions: set[int]) -> None:
    """The case with some constants computed: both answer alike."""
    import onnx
    from onnx import helper, numpy_helper

    from edgecc.runtime.litert import LiteRtRunner

    made = model(c)
    whole = compiled(made, "onnx")
    free = onnx.ModelProto()
    free.CopyFrom(made)
    feeds = {f"x{i}": seeded(*o, seed=i) for i, o in enumerate(c.operands) if isinstance(o, tuple)}
    wanted = LiteRtRunner(whole.data, threads=1).run(feeds)
    for initializer in [t for t in free.graph.initializer if int(t.name[1:]) in positions]:
        array = numpy_helper.to_array(initializer)
        free.graph.initializer.remove(initializer)
        free.graph.input.append(
            helper.make_tensor_value_info(initializer.name, initializer.data_type, array.shape)
        )
        feeds[initializer.name] = array
    got = LiteRtRunner(compiled(free, "onnx").data, threads=1).run(feeds)
    for name, array in wanted.items():
        np.testing.assert_allclose(got[name], array, rtol=1e-5, atol=1e-6)


FREE = [
    (case("GatherElements", X, places(2, 3, 4, 5, below=6), axis=1), {1}),
    (case("GatherND", X, places(2, 3, 1, below=4), batch_dims=1), {1}),
    (case("Gather", X, np.array([[0, -1], [1, 2]]), axis=2), {1}),
    *((case("ScatterElements", (4, 5), places(3, 5, below=4), seeded(3, 5), axis=0, reduction=r), {1, 2})
      for r in ("add", "mul", "max", "min")),
    (case("ScatterND", (4, 5), distinct(3, 4)[:, None], seeded(3, 5)), {1, 2}),
    (case("ReverseSequence", (4, 3, 2), ints(2, 4, 1), time_axis=0, batch_axis=1), {1}),
    (case("Trilu", (3, 4), np.array(1)), {1}),
    (case("CumSum", (3, 4), np.array(-1)), {1}),
]  # fmt: skip


@pytest.mark.parametrize(("c", "positions"), FREE, ids=names([c for c, _ in FREE]))
def test_computed_indices(c: Case, positions: set[int]) -> None:
    computed(c, positions)


@pytest.mark.parametrize(
    "c",
    [
        case("GatherElements", (2, 3), np.array([[0, 5]]), axis=1),
        case("NonZero", (2, 3)),
        case("Det", (5, 5)),
        case("DFT", (2, 8, 2), None, np.array(1), inverse=1),
    ],
    ids=str,
)
def test_refused(c: Case) -> None:
    with pytest.raises(UnsupportedError):
        compiled(model(c))


@pytest.mark.parametrize("largest", [0, 1])
def test_the_largest_of_every_sample_of_a_free_batch(parse: Any, largest: int) -> None:
    text = (
        f"g (float[N,9,3] x) => (float[] y, int64[] i) {{ y, i = TopK<axis = 1, largest = {largest}>(x, k) }}"
    )
    runner = LiteRtRunner(compiled(load(parse(text, 21, {"k": np.array([4])}))).content())
    x = seeded(3, 9, 3)
    order = np.argsort(-x if largest else x, axis=1, kind="stable")[:, :4]
    found = runner.run({"x": x})
    np.testing.assert_array_equal(found["i"], order)
    np.testing.assert_array_equal(found["y"], np.take_along_axis(x, order, 1))


@pytest.mark.parametrize(
    "body",
    [
        "y, i = TopK<axis = 0>(x, k)",
        "t = Transpose<perm = [1, 0, 2]>(x) y, i = GRU<hidden_size = 2>(t, w, r)",
    ],
)
def test_a_refusal_of_the_batch_says_what_to_write(parse: Any, body: str) -> None:
    used = {"k": np.array([1]), "w": seeded(1, 6, 3), "r": seeded(1, 6, 2)}
    named = {name: array for name, array in used.items() if f" {name}" in body}
    network = load(parse(f"g (float[N,9,3] x) => (float[] y) {{ {body} }}", 21, named))
    with pytest.raises(UnsupportedError, match="--input-shape x=1x9x3") as caught:
        compiled(network, passes=["unroll_recurrent"])
    assert "max_steps" not in str(caught.value)
