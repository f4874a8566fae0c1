"""Layouts of attention: what reshapes, products and picks carry; never more Transposes than the network itself has."""

import itertools
import math

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tflite_cases import assert_close, compiled, feed, seeded
from transformer_cases import K, Net

from edgecc.analysis.reshape_groups import carried, groups
from edgecc.runtime.litert import LiteRtRunner
from edgecc.runtime.ort import OrtRunner

Shape = tuple[int, ...]


def network(text: str, **constants: np.ndarray) -> onnx.ModelProto:
    made = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> {text}')
    made.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in constants.items())
    return made


def transposes(made: onnx.ModelProto, io_layout: str = "auto") -> int:
    """Compares with ONNX Runtime; how many TRANSPOSE operators the file has."""
    artifact = compiled(made, io_layout)
    inputs = feed(made)
    wanted = OrtRunner.from_bytes(made.SerializeToString(), optimize=False).run(inputs)
    assert_close(LiteRtRunner(artifact.data, threads=1).run(inputs), wanted)
    return int(artifact.notes["operators"].get("TRANSPOSE", 0))


# ---- reshapes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((2, 3, 4, 5), (2, 3, 20), [((0,), (0,)), ((1,), (1,)), ((2, 3), (2,))]),
        ((2, 12, 5), (2, 3, 4, 5), [((0,), (0,)), ((1,), (1, 2)), ((2,), (3,))]),
        ((1, 6, 1, 4), (6, 4, 1), [((1,), (0,)), ((3,), (1,))]),
        ((2, 3), (3, 2), [((0, 1), (0, 1))]),
        ((2, 3), (2, 4), None),
        ((1, 16, 8), (1, 4, 8), None),
    ],
)
def test_groups(before: Shape, after: Shape, expected: object) -> None:
    assert groups(before, after) == expected


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_carried_bytes_are_those_of_the_reshaped_value(data: st.DataObject) -> None:
    """Whatever order is given back, reading it as such gives the reshaped values."""
    sizes = st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=5)
    before = tuple(data.draw(sizes))
    order = tuple(data.draw(st.permutations(range(len(before)))))
    factors = [f for d in before for f in ((2, 2) if d == 4 else (d,))]
    cuts = data.draw(st.lists(st.booleans(), min_size=len(factors) - 1, max_size=len(factors) - 1))
    after = [1]
    for factor, cut in zip(factors, [False, *cuts], strict=True):
        after = [*after, factor] if cut else [*after[:-1], after[-1] * factor]
    found = carried(before, tuple(after), order)
    if order == tuple(range(len(before))):
        assert found == tuple(range(len(after)))
    if found is not None:
        values = np.arange(math.prod(before)).reshape(before)
        stored = values.transpose(order).reshape([after[a] for a in found])
        np.testing.assert_array_equal(stored, values.reshape(after).transpose(found))


@pytest.mark.parametrize(
    ("body", "shape", "layout", "most"),
    [
        # patches of a convolution: channels last already
        ("c = Conv(x, w) r = Reshape(c, s) t = Transpose<perm=[0,2,1]>(r) y = Softmax(t)", (2, 8, 30), "nhwc", 0),
        # a detector's head: anchors split off the channels, moved behind the places
        ("c = Conv(x, w) r = Reshape(c, s) t = Transpose<perm=[0,3,4,1,2]>(r) y = Sigmoid(t)",
         (2, 2, 4, 6, 5), "nhwc", 0),
        # flattened without a Transpose: ONNX's own sequence, so the data must move
        ("c = Conv(x, w) r = Reshape(c, s) y = Softmax(r)", (2, 240), "nhwc", 1),
        # and back to a map
        ("c = Conv(x, w) r = Reshape(c, s) a = Relu(r) b = Reshape(a, back) y = Conv(b, v)", (2, 8, 30), "nhwc", 0),
    ],
)  # fmt: skip
def test_reshapes_carry_channels_last(body: str, shape: Shape, layout: str, most: int) -> None:
    out = {3: "2,30,8", 5: "2,6,5,2,4", 2: "2,240"}[len(shape)] if "back" not in body else "2,8,6,5"
    made = network(
        f"g (float[2,3,6,5] x) => (float[{out}] y) {{ {body} }}",
        w=seeded(8, 3, 1, 1), s=np.array(shape), v=seeded(8, 8, 1, 1), back=np.array([2, 8, 6, 5]),
    )  # fmt: skip
    if len(shape) != 2 and "back" not in body:
        artifact = compiled(made, "auto")
        assert artifact.notes["operators"].get("TRANSPOSE", 0) == most
    assert transposes(made, "auto") == most


@pytest.mark.parametrize("perm", list(itertools.permutations(range(3))), ids=str)
@pytest.mark.parametrize(
    "shape", [(2, 4, 3, 5), (2, 2, 2, 15), (8, 15), (2, 1, 4, 15), (4, 2, 15), (2, 60)], ids=str
)
@pytest.mark.parametrize("layout", ["auto", "onnx", "nhwc"])
def test_reshape_of_any_transposition(shape: Shape, perm: Shape, layout: str) -> None:
    dims = ",".join(map(str, shape))
    made = network(
        f"g (float[2,3,4,5] x) => (float[{dims}] y) {{ c = Conv(x, w) r = Reshape(c, three)"
        f" t = Transpose<perm={list(perm)}>(r) a = Relu(t) y = Reshape(a, s) }}",
        w=seeded(4, 3, 1, 1), three=np.array([2, 4, 20]), s=np.array(shape),
    ) if math.prod(shape) == 160 else network(
        f"g (float[2,4,15] x) => (float[{dims}] y) {{ c = Conv(x, w)"
        f" t = Transpose<perm={list(perm)}>(c) a = Relu(t) y = Reshape(a, s) }}",
        w=seeded(4, 4, 1), s=np.array(shape),
    )  # fmt: skip
    transposes(made, layout)


# ---- products -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [3, 4, 5])
def test_swapped_matrices_are_a_flag(rank: int) -> None:
    lead = (2, 3, 2)[: rank - 2]
    dims = ",".join(map(str, lead))
    perm = [*range(rank - 2), rank - 1, rank - 2]
    made = network(
        f"g (float[{dims},4,5] x, float[{dims},6,5] z) => (float[{dims},4,6] y)"
        f" {{ t = Transpose<perm={perm}>(z) y = MatMul(x, t) }}"
    )
    assert transposes(made, "onnx") == 0


def test_a_value_times_its_own_transposition() -> None:
    made = network(
        "g (float[2,4,5] x) => (float[2,4,4] y) { t = Transpose<perm=[0,2,1]>(x) y = MatMul(x, t) }"
    )
    assert transposes(made, "onnx") == 0
    made = network(
        "g (float[2,4,4] x) => (float[2,4,4] y) { t = Transpose<perm=[0,2,1]>(x) y = MatMul(t, t) }"
    )
    assert transposes(made, "onnx") == 1


@pytest.mark.parametrize("parts", ["gather", "split"])
def test_query_key_value_are_transposed_together(parts: str) -> None:
    n = Net(x=(2, 10, 32))
    qkv = n.t(n.reshape(n.linear("x", 32, 96), 2, 10, 3, 4, K), 2, 0, 3, 1, 4)
    if parts == "gather":
        q, k, v = (n("Gather", qkv, n.c(i), axis=0) for i in range(3))
    else:
        split = n("Split", qkv, n.c([1, 1, 1]), outputs=3, axis=0)
        q, k, v = (n("Squeeze", p, n.c([0])) for p in split)
    made = n.model(n.linear(n.attend(q, k, v)))
    artifact = compiled(made, "onnx", ["fold_constants", "simplify_reshapes"])
    assert artifact.notes["operators"]["TRANSPOSE"] == 2
    inputs = feed(made)
    wanted = OrtRunner.from_bytes(made.SerializeToString(), optimize=False).run(inputs)
    assert_close(LiteRtRunner(artifact.data, threads=1).run(inputs), wanted)


@pytest.mark.parametrize("rank", [3, 4, 5])
def test_block_between_channels_last_and_back(rank: int) -> None:
    """ConvNeXt at every rank: the Add joins a convolution's result with one that a Transpose brings back."""
    spatial = (6, 5, 4)[: rank - 2]
    dims = ",".join(map(str, spatial))
    there, back = [0, *range(2, rank), 1], [0, rank - 1, *range(1, rank - 1)]
    made = network(
        f"g (float[2,3,{dims}] x) => (float[2,8,{dims}] y) {{ c = Conv(x, w) t = Transpose<perm={there}>(c)"
        f" m = MatMul(t, v) g = Mul(m, scale) u = Transpose<perm={back}>(g) a = Add(c, u) y = Conv(a, z) }}",
        w=seeded(8, 3, *[1] * (rank - 2)), v=seeded(8, 8), scale=seeded(8), z=seeded(8, 8, *[1] * (rank - 2)),
    )  # fmt: skip
    assert transposes(made, "auto") == 0


def test_picks_carry_the_layout() -> None:
    made = network(
        "g (float[2,3,6,5] x) => (float[2,8,5] y) { c = Conv(x, w) p = Gather<axis=2>(c, i) y = Conv(p, v) }",
        w=seeded(8, 3, 1, 1), i=np.array(-2), v=seeded(8, 8, 1),
    )  # fmt: skip
    assert transposes(made, "auto") == 0
