"""Fidelity: the figures, against definitions written out; limits; layers; the command's Python name."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgecc import ir
from edgecc.artifact import Artifact
from edgecc.calibration.dataset import Dataset, open_dataset, random_samples
from edgecc.errors import FidelityError, ModelError, UsageError
from edgecc.fidelity import MAX_SQNR_DB, Accumulator, Fidelity, OutputFidelity
from edgecc.importer import load
from edgecc.ir import Array
from edgecc.layerwise import OnnxLayers, evenly
from edgecc.runtime import TensorSpec
from edgecc.runtime.ort import OrtRunner
from edgecc.tflite.lower import lower
from edgecc.verify import check_limits, class_outputs, compare, compare_all, compare_layers, verify

Parse = Callable[..., onnx.ModelProto]
TWO = np.float32(2)
Data = tuple[Array, Dataset]
NETWORK = """small (float[N,3,8,10] x) => (float[N,5] p) {
    c = Conv<pads=[1,1,1,1]>(x, w, b)
    r = Relu(c)
    m = GlobalAveragePool(r)
    f = Flatten(m)
    logits = Gemm(f, g, h)
    p = Softmax(logits)
}"""


@pytest.fixture(scope="module")
def model(parse: Parse) -> ir.Model:
    rng = np.random.default_rng(7)
    shapes = {"w": (6, 3, 3, 3), "b": (6,), "g": (6, 5), "h": (5,)}
    return load(
        parse(NETWORK, constants={n: 0.3 * rng.standard_normal(s, np.float32) for n, s in shapes.items()})
    )


class Answers:
    """A runner that answers from a function."""

    def __init__(self, answer: Callable[[Array], Array], name: str = "y") -> None:
        self.inputs: tuple[TensorSpec, ...] = (TensorSpec("x", (1, 4), "float32"),)
        self.outputs: tuple[TensorSpec, ...] = (TensorSpec("y", (1, 4), "float32"),)
        self.answer, self.name = answer, name

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return {self.name: self.answer(feeds["x"])}


@pytest.fixture
def data() -> Data:
    rows = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    return rows, open_dataset({"x": rows}, [TensorSpec("x", (1, 4), "float32")])


def test_figures_are_what_their_definitions_say(data: Data) -> None:
    rows, dataset = data
    noise = np.random.default_rng(1).standard_normal((20, 4)).astype(np.float32) * 0.1
    answers = iter(rows + noise)
    got = compare(Answers(lambda x: x), Answers(lambda x: next(answers)[None]), dataset, classes={"y"})
    a, b = rows.astype(float), (rows + noise).astype(float)
    output = got.outputs[0]
    assert got.samples == 20
    assert got.sqnr_db == pytest.approx(10 * math.log10((a**2).sum() / ((a - b) ** 2).sum()))
    assert got.cosine == pytest.approx((a * b).sum() / math.sqrt((a**2).sum() * (b**2).sum()))
    assert got.max_abs_error == pytest.approx(np.abs(a - b).max())
    assert got.relative_error == pytest.approx(np.abs(a - b).max() / np.abs(a).max())
    assert output.agreement == pytest.approx((a.argmax(1) == b.argmax(1)).mean())
    assert got.accuracy is None


def test_equal_answers(data: Data) -> None:
    got = compare(Answers(lambda x: x), Answers(lambda x: x), data[1], classes={"y"})
    assert (got.sqnr_db, got.agreement, got.relative_error) == (MAX_SQNR_DB, 1.0, 0.0)
    check_limits(got, precision="fp32", min_agreement=1.0, min_sqnr=100, max_drop=0)


def test_cached_answers_replace_the_reference(data: Data) -> None:
    rows, dataset = data
    cached = [{"y": row[None]} for row in rows]
    live = compare(Answers(lambda x: x), Answers(lambda x: x * 0.9), dataset)
    assert compare(cached, Answers(lambda x: x * 0.9), dataset) == live
    with pytest.raises(UsageError, match="fewer answers"):
        compare(cached[:-1], Answers(lambda x: x), dataset)


def test_several_candidates_in_one_pass(data: Data) -> None:
    runners = {"a": Answers(lambda x: x), "b": Answers(lambda x: -x)}
    got = compare_all(Answers(lambda x: x), runners, data[1], classes={"y"})
    assert got["a"].agreement == 1.0
    assert got["b"].agreement == 0.0
    assert got["b"].sqnr_db == pytest.approx(-6.02, abs=0.01)


def test_labels_make_accuracy_and_drop(data: Data) -> None:
    rows, dataset = data
    labels = rows.argmax(1)
    labels[:4] = (labels[:4] + 1) % 4  # the reference is right on 16 of 20
    answers = iter([*rows[:18], *-rows[18:]])
    candidate = Answers(lambda x: next(answers)[None])
    got = compare(Answers(lambda x: x), candidate, dataset, classes={"y"}, labels=labels)
    assert got.reference_accuracy == pytest.approx(0.8)
    assert got.accuracy == pytest.approx(0.7)
    assert got.drop == pytest.approx(10)
    assert got.agreement == pytest.approx(0.9)
    with pytest.raises(UsageError, match="fewer than samples"):
        compare(Answers(lambda x: x), Answers(lambda x: x), dataset, classes={"y"}, labels=labels[:9])
    with pytest.raises(UsageError, match="a label 4, but the network tells 4 classes apart"):
        compare(Answers(lambda x: x), Answers(lambda x: x), dataset, classes={"y"}, labels=labels + 1)
    with pytest.raises(UsageError, match="no output of the network is scores"):
        compare(Answers(lambda x: x), Answers(lambda x: x), dataset, labels=labels)


def test_integer_outputs_agree_by_equality() -> None:
    sums = Accumulator("indices")
    sums.add(np.array([[1, 2, 3, 4]]), np.array([[1, 2, 3, 5]]))
    assert sums.result().agreement == 0.75


def test_nan_of_the_candidate_always_fails(data: Data) -> None:
    def broken(x: Array) -> Array:
        return np.where(np.arange(4) == 2, np.nan, x).astype(np.float32)

    got = compare(Answers(lambda x: x), Answers(broken), data[1])
    assert got.nonfinite == 20
    with pytest.raises(FidelityError, match="20 NaN or infinite") as caught:
        check_limits(got)
    assert caught.value.exit_code == 4
    same = compare(Answers(broken), Answers(broken), data[1])
    assert (same.nonfinite, same.sqnr_db) == (0, MAX_SQNR_DB)


def test_another_shape_or_a_missing_output_is_an_error(data: Data) -> None:
    with pytest.raises(FidelityError, match=r"has shape \(1, 2\) where the original has \(1, 4\)"):
        compare(Answers(lambda x: x), Answers(lambda x: x[:, :2]), data[1])
    other = Answers(lambda x: x, name="z")
    with pytest.raises(UsageError, match="no such output"):
        compare(Answers(lambda x: x), other, data[1])


def fidelity(**figures: Any) -> Fidelity:
    base = OutputFidelity("y", 20.0, 0.99, 0.5, 0.05, agreement=0.97)
    return Fidelity((replace(base, **figures),), 100, "100 samples")


@pytest.mark.parametrize(
    ("limits", "match"),
    [
        ({"precision": "fp32"}, r"differs by 5.00e-02 of its range, allowed for float32: 1e-03"),
        ({"min_agreement": 0.98}, r"agreement is 97.00%, at least 98.00%"),
        ({"min_sqnr": 25}, r"SQNR is 20.00 dB, at least 25 dB"),
        ({"max_drop": 2.5}, r"3.00 points of agreement are lost, at most 2.5"),
    ],
)
def test_limits_name_the_figure_and_the_limit(limits: dict[str, Any], match: str) -> None:
    check_limits(fidelity(), precision="int8")
    with pytest.raises(FidelityError, match=match) as caught:
        check_limits(fidelity(), artifact="a.tflite", **limits)
    assert caught.value.node == "a.tflite"
    assert caught.value.remedy


def test_limits_at_the_figure_hold() -> None:
    check_limits(fidelity(), min_agreement=0.97, min_sqnr=20, max_drop=3)
    drop = fidelity(accuracy=0.91, reference_accuracy=0.915)
    check_limits(drop, max_drop=0.5)  # 100 * (0.915 - 0.91) is a little more than 0.5
    with pytest.raises(FidelityError, match="points of accuracy"):
        check_limits(drop, max_drop=0.49)


def test_a_limit_on_classes_needs_classes() -> None:
    with pytest.raises(UsageError, match="no output of this network is scores of classes"):
        check_limits(fidelity(agreement=None), min_agreement=0.9)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("g (float[N,4] x) => (float[N,4] y) { y = Softmax(x) }", set()),  # the shape of an input
        ("g (float[N,4] x) => (float[N,3] y) { h = MatMul(x, w) y = Softmax(h) }", {"y"}),
        ("g (float[N,4] x) => (float[N,3] y) { y = MatMul(x, w) }", {"y"}),
        ("g (float[N,4] x) => (float[N,3] y) { h = MatMul(x, w) y = Add(h, b) }", {"y"}),
        ("g (float[N,4] x) => (float[N,3] y) { h = MatMul(x, w) y = Sigmoid(h) }", set()),
        (
            "g (float[N,4] x) => (float[N,3] y, float[N,3] box) { h = MatMul(x, w) y = Softmax(h)"
            " box = MatMul(x, w) }",
            {"y"},  # boxes beside scores are no logits
        ),
    ],
)
def test_class_outputs(parse: Parse, text: str, expected: set[str]) -> None:
    constants = {"w": np.ones((4, 3), np.float32), "b": np.ones(3, np.float32)}
    used = {name: array for name, array in constants.items() if f", {name})" in text}
    assert class_outputs(load(parse(text, constants=used))) == expected


def test_classes_of_the_reference_networks(shared: Path) -> None:
    expected = {
        "ic_resnet8": {"dense"},
        "mobilenet_v2_1.0": {"logits"},
        "mtcnn_onet": {"prob"},
        "ad_ae_from_tflite": set(),
    }
    for name, outputs in expected.items():
        assert class_outputs(load(shared / f"models/{name}.onnx")) == outputs


@pytest.mark.parametrize("form", ["tflite", "onnx"])
def test_layers_are_compared_by_name_in_graph_order(model: ir.Model, form: str, tmp_path: Path) -> None:
    dataset = random_samples(model, 4, seed=0)
    reference = OrtRunner.from_model(model)
    compiled: Artifact | Path
    if form == "tflite":
        compiled = lower(model, precision="fp32", target="arm")
    else:
        compiled = tmp_path / "copy.onnx"
        compiled.write_bytes(ir.serde.serialize_model(model).SerializeToString())
    found = compare_layers(model, compiled, dataset, like=reference)
    names = [layer.name for layer in found]
    order = [out.name for node in model.graph for out in node.outputs]
    assert names == [name for name in order if name in names]
    assert {"r", "p"} <= set(names)
    assert all(layer.sqnr_db > 90 for layer in found)
    assert {layer.name: layer.op_type for layer in found}["r"] == "Relu"


def test_the_quantized_form_of_a_value_is_what_is_compared(parse: Parse) -> None:
    text = """g (float[N,4] x) => (float[N,4] y) {
        v = Relu(x)
        v_quantized = QuantizeLinear(v, s, z)
        v_dequantized = DequantizeLinear(v_quantized, s, z)
        y = Neg(v_dequantized)
    }"""
    plain = load(parse("g (float[N,4] x) => (float[N,4] y) { v = Relu(x) y = Neg(v) }", opset=21))
    constants = {"s": np.float32(0.25), "z": np.int8(0).reshape(())}
    quantized = parse(text, opset=21, constants=constants)
    compiled = Artifact(quantized.SerializeToString(), "onnx", "int8", "arm", (), ())
    found = compare_layers(
        plain, compiled, random_samples(plain, 8, seed=0), like=OrtRunner.from_model(plain)
    )
    assert [layer.name for layer in found] == ["v", "y"]
    assert all(10 < layer.sqnr_db < 40 for layer in found)
    rounded, negated = found
    assert rounded.own_sqnr_db == rounded.sqnr_db  # nothing came before it
    assert negated.own_sqnr_db == MAX_SQNR_DB  # Neg is exact: all of its error arrived from v


def test_a_layers_own_error_is_told_from_what_arrives(parse: Parse) -> None:
    """y = 2 * relu(x): the compiled one adds 0.5 to the first and 0.1 to the second."""
    plain = load(
        parse("g (float[N,4] x) => (float[N,4] y) { v = Relu(x) y = Mul(v, two) }", 21, {"two": TWO})
    )
    text = "g (float[N,4] x) => (float[N,4] y) { r = Relu(x) v = Add(r, a) m = Mul(v, two) y = Add(m, b) }"
    constants = {"two": TWO, "a": np.float32(0.5), "b": np.float32(0.1)}
    compiled = Artifact(parse(text, 21, constants).SerializeToString(), "onnx", "int8", "arm", (), ())
    dataset = random_samples(plain, 8, seed=0)
    found = compare_layers(plain, compiled, dataset, like=OrtRunner.from_model(plain))
    v = np.concatenate([np.maximum(s["x"], 0) for s in dataset]).astype(np.float64)
    assert [layer.name for layer in found] == ["v", "y"]
    assert found[0].own_sqnr_db == pytest.approx(found[0].sqnr_db)
    assert found[1].sqnr_db == pytest.approx(
        10 * np.log10(np.square(2 * v).sum() / (v.size * 1.1**2)), abs=0.01
    )
    own = 2 * (v + 0.5)  # what the original makes of the compiled v
    assert found[1].own_sqnr_db == pytest.approx(
        10 * np.log10(np.square(own).sum() / (v.size * 0.1**2)), abs=0.01
    )
    worst = Fidelity((), 8, "d", found).worst_layers()
    assert [layer.name for layer in worst] == ["v", "y"]


@pytest.mark.parametrize("damage", ["cut", "constant"])
def test_layers_of_a_damaged_file_are_refused(model: ir.Model, damage: str) -> None:
    proto = ir.serde.serialize_model(model)
    proto.graph.initializer[0].data_type = 99
    data = b"\xff" * 9 if damage == "cut" else proto.SerializeToString()
    with pytest.raises(ModelError, match="cannot be read"):
        OnnxLayers(data)


def test_samples_for_layers_are_evenly_spaced() -> None:
    rows = np.arange(100, dtype=np.float32).reshape(100, 1)
    dataset = open_dataset({"x": rows}, [TensorSpec("x", (1, 1), "float32")])
    assert [float(s["x"][0, 0]) for s in evenly(dataset, 4)] == [0, 25, 50, 75]
    assert len(list(evenly(dataset, 1000))) == 100


def test_verify_takes_files_and_data(model: ir.Model, tmp_path: Path) -> None:
    original, compiled = tmp_path / "m.onnx", tmp_path / "m.tflite"
    original.write_bytes(ir.serde.serialize_model(model).SerializeToString())
    compiled.write_bytes(lower(model, precision="fp32", target="arm").data)
    images = np.random.default_rng(0).standard_normal((12, 3, 8, 10)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=images)
    labels = np.zeros(12, np.int64)
    found = verify(original, compiled, data=tmp_path / "d.npz", labels=labels, layers=True)
    assert (found.samples, found.agreement) == (12, 1.0)
    assert found.accuracy == found.reference_accuracy
    assert found.layers
    assert "12" in found.data
    without = verify(original, compiled)
    assert "random" in without.data
    with pytest.raises(UsageError, match="no such file"):
        verify(original, tmp_path / "none.tflite", data=images)
    (tmp_path / "bad.onnx").write_bytes(b"nonsense")
    with pytest.raises(ModelError):
        verify(original, tmp_path / "bad.onnx", data=images)


def test_verify_holds_a_float_file_to_the_float_limit(model: ir.Model, parse: Parse, tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    shapes = {"w": (6, 3, 3, 3), "b": (6,), "g": (6, 5), "h": (5,)}
    other = load(
        parse(NETWORK, constants={n: 0.3 * rng.standard_normal(s, np.float32) for n, s in shapes.items()})
    )
    (tmp_path / "other.tflite").write_bytes(lower(other, precision="fp32", target="arm").data)
    with pytest.raises(FidelityError, match="allowed for float32"):
        verify(model, tmp_path / "other.tflite")


def test_a_file_of_another_converter_on_labelled_data(shared: Path) -> None:
    data = np.load(shared / "data/cifar10_test_dev.npz")
    images = data["x"][::50].transpose(0, 3, 1, 2).astype(np.float32)
    original = shared / "models/ic_resnet8.onnx"
    found = verify(
        original, shared / "peers/ic_resnet8_int8.tflite", data={"input": images}, labels=data["y"][::50]
    )
    assert found.agreement is not None
    assert found.agreement > 0.9
    assert found.accuracy is not None
    assert found.accuracy > 0.8


def test_what_rounding_alone_does_is_allowed_to_float_files() -> None:
    tail = OutputFidelity("y", 60.0, 1.0, 1e-8, 2e-3)
    for output, sound in (
        (tail, False),
        (replace(tail, rounding=1e-6), False),
        (replace(tail, rounding=1e-3), True),
        (replace(tail, integers=True, agreement=0.995), True),
        (replace(tail, integers=True, agreement=0.98), False),
    ):
        fidelity = Fidelity((output,), 1, "data")
        if sound:
            check_limits(fidelity, precision="fp32")
        else:
            with pytest.raises(FidelityError, match="allowed for float32"):
                check_limits(fidelity, precision="fp32")
