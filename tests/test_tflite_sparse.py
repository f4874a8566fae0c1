"""float32 weights with many zeros take less room in a TFLite file, which answers as it would with all of them."""

from typing import Any

import numpy as np
import pytest

import edgecc
from edgecc import ir
from edgecc.analysis.tflite_workload import layers_of_graph
from edgecc.tflite import lower
from edgecc.tflite.flat import read_network
from edgecc.tflite.reader import read_graph
from edgecc.tflite.sparse import compressed

RNG = np.random.default_rng(0)
BODY = """g (float[1,8,6,6] x) => (float[1,10] y) {
    a = Conv<pads = [1,1,1,1]>(x, w, b) r = Relu(a) p = Conv(r, v, c) q = Relu(p)
    f = Flatten(q) y = Gemm<transB = 1>(f, m, d) }"""


def normal(*shape: int, zeros: float = 0.0) -> ir.Array:
    array = RNG.standard_normal(shape).astype(np.float32)
    array[RNG.random(shape) < zeros] = 0
    return array


def constants(zeros: float) -> dict[str, ir.Array]:
    return {
        "w": normal(32, 8, 3, 3, zeros=zeros), "b": normal(32), "v": normal(64, 32, 1, 1, zeros=zeros),
        "c": normal(64), "m": normal(10, 2304, zeros=zeros), "d": normal(10),
    }  # fmt: skip


def compiled(network: Any, **words: Any) -> Any:
    words = {"precision": "fp32", "format": "tflite", **words}
    return edgecc.compile(network, **words).artifacts["tflite"]


@pytest.mark.parametrize("built_in", [False, True])
def test_the_file_is_smaller_and_answers_the_same_bits(
    parse: Any, monkeypatch: pytest.MonkeyPatch, built_in: bool
) -> None:
    network = parse(BODY, constants=constants(0.8))
    sparse = compiled(network)
    assert sparse.notes["operators"]["DENSIFY"] == 3
    assert sparse.notes["not_in_tflite_runtime_2_14"] == []
    monkeypatch.setattr(lower, "store_sparse", lambda graph, known: 0)
    plain = compiled(network)
    assert "DENSIFY" not in plain.notes["operators"]
    assert len(sparse.content()) < 0.45 * len(plain.content())
    x = normal(1, 8, 6, 6)
    assert np.array_equal(run(sparse, x, built_in), run(plain, x, built_in))


def run(artifact: Any, x: ir.Array, built_in: bool) -> ir.Array:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kind = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES if built_in else OpResolverType.AUTO
    interpreter = Interpreter(
        model_content=artifact.content(), num_threads=1, experimental_op_resolver_type=kind
    )
    interpreter.allocate_tensors()
    detail = interpreter.get_input_details()[0]
    interpreter.set_tensor(detail["index"], x if detail["shape"][1] == 8 else x.transpose(0, 2, 3, 1))
    interpreter.invoke()
    return np.asarray(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))


@pytest.mark.parametrize(
    ("zeros", "words"),
    [(0.05, {}), (0.8, {"precision": "fp16"}), (0.8, {"precision": "dynamic"}), (0.8, {"precision": "int8"})],
)
def test_few_zeros_and_narrow_weights_stay_dense(parse: Any, zeros: float, words: Any) -> None:
    if words.get("precision") == "int8":
        words = {**words, "data": [{"x": normal(1, 8, 6, 6)} for _ in range(4)]}
    assert "DENSIFY" not in compiled(parse(BODY, constants=constants(zeros)), **words).notes["operators"]


def test_tflite_micro_has_no_kernel_for_it(parse: Any) -> None:
    from edgecc.importer import load

    model = load(parse(BODY, constants=constants(0.8)))
    lowered = lower.lower_graph(model, runtime="tflite-micro")
    assert "DENSIFY" not in lowered.notes["operators"]


def test_constants_come_back_to_the_last_bit() -> None:
    array = normal(3, 300, zeros=0.7)
    array[0, :2] = -0.0, np.nan
    array[1] = 0
    held = compressed(array)
    assert held.indices.dtype == np.uint16
    back = np.zeros_like(array)
    for row in range(3):
        at = slice(int(held.segments[row]), int(held.segments[row + 1]))
        back[row, held.indices[at]] = held.values[at]
    assert array.tobytes() == back.tobytes()
    assert held.nbytes < array.nbytes


def test_sparse_files_are_read_and_predicted_like_dense_ones(
    parse: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = parse(BODY, constants=constants(0.8))
    data = compiled(network).content()
    sparse = read_graph(data)
    monkeypatch.setattr(lower, "store_sparse", lambda graph, known: 0)
    plain = read_graph(compiled(network).content())
    stored = [o.given(0) for o in sparse.operators if o.code == "DENSIFY"]
    assert [(t.constant, t.data) for t in stored] == [(True, None)] * 3
    assert layers_of_graph(sparse) == layers_of_graph(plain)
    assert read_network(data).tensors[stored[0].index].constant


@pytest.mark.parametrize("built_in", [False, True])
def test_weights_that_are_all_zero_are_loaded(parse: Any, built_in: bool) -> None:
    """Heads are zero before training: the file must not hold an empty buffer, which is no constant."""
    some = {**constants(0.8), "m": np.zeros((10, 2304), np.float32)}
    sparse = compiled(parse(BODY, constants=some))
    assert sparse.notes["operators"]["DENSIFY"] == 3
    answer = run(sparse, normal(1, 8, 6, 6), built_in)
    assert np.array_equal(answer, some["d"].reshape(1, 10))
