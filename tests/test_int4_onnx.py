"""int4 weights in ONNX files: what ONNX Runtime fuses, what it makes real when it loads them, and the answers."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tflite_cases import Array, seeded

from edgecc import ir
from edgecc.artifact import Artifact
from edgecc.calibration.dataset import random_samples
from edgecc.calibration.observers import collect
from edgecc.importer import load
from edgecc.onnxrt.export import export
from edgecc.passes.insert_qdq import InsertQDQ
from edgecc.passes.quantize_weights import QuantizeWeights
from edgecc.pipeline import PassContext, Pipeline
from edgecc.quant.plan import make_plan
from edgecc.runtime.ort import OrtRunner
from edgecc.target import target

CONSTANTS = {
    "k": seeded(16, 8, 3, 3), "c": seeded(16), "d": seeded(16, 1, 3, 3), "e": seeded(64, 16, 1, 1),
    "m": seeded(64, 6), "t": seeded(64, 64), "u": seeded(64), "p": seeded(32, 64, 1, 1),
}  # fmt: skip
# Name -> the node(s), and the operators that are left in ONNX Runtime with int4 weights alone.
PRODUCTS = {
    "MatMul": "y = MatMul(x, t)",
    "MatMul of rank 3": "y = MatMul(x, t)",
    "MatMul, Add": "h = MatMul(x, t) y = Add(h, u)",
    "Gemm": "y = Gemm(x, t, u)",
    "Gemm, transB": "y = Gemm<transB=1>(x, t, u)",
    "Gemm without bias": "y = Gemm<transB=1>(x, t)",
}


def network(text: str) -> onnx.ModelProto:
    made = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> {text}')
    used = {name for node in made.graph.node for name in node.input}
    made.graph.initializer.extend(
        onnx.numpy_helper.from_array(a, n) for n, a in CONSTANTS.items() if n in used
    )
    return made


def optimized(data: bytes, folder: Path) -> onnx.ModelProto:
    path = folder / "optimized.onnx"
    OrtRunner(data, optimized=path, threads=1)
    return onnx.load(path)


def operators(data: bytes, folder: Path) -> list[str]:
    return sorted(node.op_type for node in optimized(data, folder).graph.node if node.op_type != "Reshape")


def weights_only(made: onnx.ModelProto, **options: Any) -> tuple[ir.Model, Artifact]:
    """The graph with int4 weights, and the artifact."""
    step = QuantizeWeights(min_elements=1, **{"dtype": "int4", **options})
    model, _ = Pipeline([step]).run(load(made), PassContext(check=False))
    return model, export(model, precision="int4", target="arm")


def answers(model: ir.Model, feeds: dict[str, Array]) -> Array:
    return OrtRunner.from_model(model, optimize=False).run(feeds)["y"]


@pytest.mark.parametrize(
    "options", [{}, {"block_size": 32}, {"dtype": "int8"}], ids=["int4", "blocks", "int8"]
)
@pytest.mark.parametrize("name", PRODUCTS)
def test_products_become_one_kernel(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    shape = (2, 3, 64) if name == "MatMul of rank 3" else (3, 64)
    sizes = ",".join(map(str, shape))
    made = network(f"g (float[{sizes}] x) => (float[{sizes}] y) {{ {PRODUCTS[name]} }}")
    model, artifact = weights_only(made, **options)
    assert operators(artifact.data, tmp_path) == ["MatMulNBits"]
    kernel = next(n for n in optimized(artifact.data, tmp_path).graph.node if n.op_type == "MatMulNBits")
    facts = {a.name: onnx.helper.get_attribute_value(a) for a in kernel.attribute}
    assert facts["bits"] == (8 if options.get("dtype") == "int8" else 4)
    feeds = {"x": seeded(*shape, seed=2)}
    wanted, got = answers(model, feeds), OrtRunner.from_bytes(artifact.data).run(feeds)["y"]
    assert (
        np.abs(got - wanted).max() <= 0.02 * np.abs(wanted).max()
    )  # it quantizes activations to int8 as it runs
    plain = OrtRunner.from_bytes(artifact.data, optimize=False).run(feeds)["y"]
    np.testing.assert_allclose(plain, wanted, rtol=1e-5, atol=1e-5)


CONVOLUTIONS = {
    "window": ("float[1,8,9,9]", "y = Conv<pads=[1,1,1,1]>(x, k, c)"),
    "depthwise": ("float[1,16,9,9]", "y = Conv<group=16>(x, d)"),
    "pointwise": ("float[1,64,9,9]", "y = Conv(x, p)"),
}


@pytest.mark.parametrize(
    ("name", "options"),
    [*((n, o) for n in CONVOLUTIONS for o in ({}, {"dtype": "int8"})), ("pointwise", {"block_size": 32})],
)
def test_convolutions_find_real_weights_when_they_run(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    kind, text = CONVOLUTIONS[name]
    made = network(f"g ({kind} x) => (float[1,a,b,c] y) {{ {text} }}")
    model, artifact = weights_only(made, **options)
    left = operators(artifact.data, tmp_path)
    assert not {"DequantizeLinear", "Cast", "Mul"} & set(left)
    feeds = {"x": seeded(*(int(d) for d in kind[6:-1].split(",")))}
    got = OrtRunner.from_bytes(artifact.data).run(feeds)["y"]
    np.testing.assert_allclose(got, answers(model, feeds), rtol=1e-4, atol=1e-4)
    expected = name != "depthwise" and options.get("dtype") != "int8"
    assert (
        any("float32 once ONNX Runtime has loaded" in r for r in artifact.notes.get("remarks", ()))
        == expected
    )


def test_int8_activations_meet_integer_kernels_only(tmp_path: Path) -> None:
    made = network(
        "g (float[1,8,9,9] x) => (float[1,6] y) { a = Conv<pads=[1,1,1,1]>(x, k, c) r = Relu(a)"
        " b = Conv<group=16, pads=[1,1,1,1]>(r, d) h = Conv(b, e) g = GlobalAveragePool(h) f = Flatten(g)"
        " s = Gemm<transB=1>(f, t, u) y = MatMul(s, m) }"
    )
    floats = load(made)
    statistics = collect(floats, random_samples(floats, count=8, seed=3))
    whole = make_plan(floats, statistics, precision="int4")
    for device in ("arm", "x86-64"):
        plan = whole.for_runtime("onnx", floats, target(device))
        model, _ = Pipeline([InsertQDQ()]).run(floats, PassContext(plan=plan))
        artifact = export(model, precision="int4", target=device)
        assert artifact.notes["unfused"] == []
        assert artifact.notes["float_islands"] == []
        assert artifact.notes["conversions"] == 2
        assert {"QLinearConv": 3, "QGemm": 1, "QLinearMatMul": 1}.items() <= artifact.notes[
            "operators"
        ].items()
        assert artifact.notes["remarks"] == [
            "4 int4 weights are int8 once ONNX Runtime has loaded the file, as it has no int4 kernels"
        ]
        feeds = {"x": seeded(1, 8, 9, 9)}
        wanted = answers(model, feeds)
        plain = OrtRunner.from_bytes(artifact.data, optimize=False).run(feeds)["y"]
        np.testing.assert_allclose(plain, wanted, rtol=1e-5, atol=1e-6)
        if device == "x86-64":
            got = OrtRunner.from_bytes(artifact.data).run(feeds)["y"]
            assert np.abs(got - wanted).max() <= 0.03 * np.abs(wanted).max()


def test_the_bytes_are_half_of_int8_and_always_the_same() -> None:
    made = network("g (float[1,64,9,9] x) => (float[1,32,9,9] y) { y = Conv(x, p) }")
    model, artifact = weights_only(made)
    assert export(model, precision="int4", target="arm").data == artifact.data
    stored = {i.name: i for i in onnx.load_model_from_string(artifact.data).graph.initializer}
    packed = next(i for i in stored.values() if i.data_type == onnx.TensorProto.INT4)
    assert len(packed.raw_data) == 32 * 64 // 2
    assert all(node.op_type != "Cast" for node in model.graph)  # the graph given stays as it is


def test_a_weight_with_two_kinds_of_readers_serves_both() -> None:
    """t is read by a product and, as a 1x1 kernel would be, by a MatMul that ONNX Runtime cannot turn."""
    made = network(
        "g (float[64,64] x) => (float[64,64] y) { a = Gemm(x, t) b = Gemm<transB=1>(a, t) y = Add(a, b) }"
    )
    model, artifact = weights_only(made)
    feeds = {"x": seeded(64, 64)}
    got = OrtRunner.from_bytes(artifact.data).run(feeds)["y"]
    wanted = answers(model, feeds)
    assert np.abs(got - wanted).max() <= 0.02 * np.abs(wanted).max()
