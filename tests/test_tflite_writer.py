"""The bytes of a .tflite file, and networks whose batch stays free."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from tflite_cases import Array, assert_close, case, compiled, feed, ints, model, quantized, seeded

from edgecc.errors import UnsupportedError
from edgecc.importer import load
from edgecc.quant.params import QuantParams
from edgecc.runtime.litert import LiteRtRunner
from edgecc.runtime.litert_ports import read_metadata
from edgecc.runtime.ort import OrtRunner
from edgecc.tflite import LOWERINGS, lowers
from edgecc.tflite.graph import Graph, Operator, Tensor
from edgecc.tflite.kernels import table as kernel_table
from edgecc.tflite.lower import lower, lowerings
from edgecc.tflite.writer import write

MODELS = Path(__file__).resolve().parents[1] / "models"
PASSES = ["clean_up", "fold_constants", "simplify_reshapes", "merge_slices", "fuse_pad", "fuse_gemm",
"fold_batchnorm", "fuse_activation", "clean_up"]  # fmt: skip


def network(text: str, **constants: Array) -> onnx.ModelProto:
    made = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> {text}')
    made.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in constants.items())
    return made


def tables(data: bytes) -> schema.ModelT:
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))


def places(data: bytes) -> list[tuple[int, int]]:
    """Offset and length of each constant in the file."""
    root = schema.Model.GetRootAs(data, 0)
    found = []
    for i in range(root.BuffersLength()):
        table = root.Buffers(i)._tab
        field = table.Offset(4)
        if field:
            found.append((table.Vector(field), table.VectorLen(field)))
    return found


def test_constants_are_aligned_and_stored_once() -> None:
    made = network(
        "g (float[1,3,4,4] x) => (float[1,3,4,4] y) { a = Conv(x, w) b = Conv(a, v) c = Conv(b, u) y = Add(c, odd) }",
        w=seeded(3, 3, 1, 1), v=seeded(3, 3, 1, 1), u=seeded(3, 3, 1, 1, seed=1), odd=seeded(3, 1, 1),
    )  # fmt: skip
    data = compiled(made).data
    assert places(data)
    assert all(start % 16 == 0 for start, _ in places(data))
    contents = [data[start : start + size] for start, size in places(data)]
    assert len(set(contents)) == len(contents)
    assert contents.count(seeded(3, 3, 1, 1).tobytes()) == 1


def test_names_signature_and_metadata() -> None:
    made = network(
        "g (float[N,3,4,4] image) => (float[N,2,4,4] mask) { mid = Conv(image, w) mask = Sigmoid(mid) }",
        w=seeded(2, 3, 1, 1),
    )
    artifact = compiled(made)
    held = tables(artifact.data)
    assert held.version == 3
    assert artifact.data[4:8] == b"TFL3"
    graph = held.subgraphs[0]
    assert {"image", "mid", "mask"} <= {t.name.decode() for t in graph.tensors}
    image = graph.tensors[graph.inputs[0]]
    assert image.shape.tolist() == [1, 4, 4, 3]
    assert image.shapeSignature.tolist() == [-1, 4, 4, 3]
    signature = Interpreter(model_content=artifact.data).get_signature_list()
    assert signature == {"serving_default": {"inputs": ["image"], "outputs": ["mask"]}}
    facts = read_metadata(artifact.data)
    assert facts["precision"] == "fp32"
    assert facts["inputs"][0]["permutation"] == [0, 2, 3, 1]
    assert json.dumps(facts)


def test_names_survive_aliases_and_shared_outputs() -> None:
    """Outputs that are an input, an alias, a constant or the same value twice keep their names."""
    made = network(
        "g (float[2,3] x) => (float[2,3] same, float[2,3] y, float[3,2] t) "
        "{ same = Identity(x) y = Relu(x) t = Reshape(y, s) }",
        s=ints(3, 2),
    )
    feeds = feed(made)
    runner = LiteRtRunner(compiled(made).data)
    assert_close(runner.run(feeds), OrtRunner.from_bytes(made.SerializeToString()).run(feeds))


def test_same_bytes_in_two_processes() -> None:
    code = (
        "import sys, hashlib; sys.path.insert(0, 'tests')\n"
        "from tflite_cases import *\n"
        "from edgecc.tflite.lower import lower\n"
        "graph, _ = quantized(onnx.load('models/digits_cnn.onnx'), ['fold_batchnorm', 'fuse_gemm', 'clean_up'])\n"
        "print(hashlib.sha256(lower(graph, precision='int8', target='arm').data).hexdigest())"
    )
    found = set()
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        run = subprocess.run([sys.executable, "-c", code], cwd=MODELS.parent, env=env, capture_output=True, text=True,
        check=True)  # fmt: skip
        found.add(run.stdout.strip())
    assert len(found) == 1


def test_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecc.tflite.writer.MAX_BYTES", 2**20 + 100)
    with pytest.raises(UnsupportedError, match="do not fit into a TFLite file"):
        compiled(model(case("Add", (2, 50), seeded(2, 50))))


def test_every_operator_code_and_option_exists() -> None:
    for code in kernel_table()["kernels"]:
        assert hasattr(schema.BuiltinOperator, code), code


def test_quantized_tensors_carry_their_axis() -> None:
    rewritten, _ = quantized(
        network("g (float[1,3,4,4] x) => (float[1,2,4,4] y) { y = Conv(x, w) }", w=seeded(2, 3, 1, 1))
    )
    held = tables(lower(rewritten, precision="int8", target="arm").data).subgraphs[0]
    weights = next(t for t in held.tensors if t.name.startswith(b"w"))
    assert weights.quantization.quantizedDimension == 0
    assert len(weights.quantization.scale) == 2


def test_a_graph_of_ones_own() -> None:
    quant = QuantParams(scale=np.array([0.5]), zero_point=np.array([1]), dtype="int8")
    graph = Graph(
        [Tensor("x", (1, 2), "int8", quant=quant), Tensor("y", (1, 2), "float32")],
        [Operator("DEQUANTIZE", (0,), (1,), version=2)], [0], [1], ["x"], ["y"],
    )  # fmt: skip
    got = LiteRtRunner(write(graph, description="d", metadata={})).run(
        {"x": np.array([[1.0, -2.0]], np.float32)}
    )
    assert got["y"].tolist() == [[1.0, -2.0]]


def test_two_lowerings_for_one_operator() -> None:
    from edgecc.errors import UsageError

    lowerings()
    with pytest.raises(UsageError, match=r"Relu has two lowerings: .*unary_int8 and .*<lambda>"):
        lowers("Relu")(lambda site, b: None)
    assert LOWERINGS["Relu"].int8


def test_everything_that_cannot_be_served_is_listed_at_once() -> None:
    made = network("g (float[2,3] x) => (float[n] y, float[m] z) { y = Unique(x) b = Neg(x) z = Unique(b) }")
    with pytest.raises(UnsupportedError) as caught:
        compiled(made)
    assert [f.op_type for f in caught.value.findings] == ["Unique", "Unique"]
    assert caught.value.exit_code == 3


# ---- symbolic batch -----------------------------------------------------------------------------------------------

BATCHED = {
    "flatten": "c = Conv(x, w) f = Flatten(c) y = Gemm<transB=1>(f, g)",
    "reshape": "c = Conv(x, w) f = Reshape(c, flat) y = Relu(f)",
    "groups": "f = Reshape(x, split) t = Transpose<perm=[0,2,1,3,4]>(f) c = Reshape(t, back) y = Conv(c, w)",
    "gap": "c = Conv(x, w) p = GlobalAveragePool(c) y = Reshape(p, flat)",
    "mean": "c = Conv(x, w) y = ReduceMean<keepdims=0>(c, axes)",
    "transposed": "y = ConvTranspose<strides=[2,2]>(x, u)",
    "transposed and cropped": "y = ConvTranspose<strides=[2,2], pads=[1,1,1,1]>(x, u)",
    "expand": "p = ReduceMean<keepdims=1>(x, axes) y = Mul(p, x)",
    "softmax": "c = Conv(x, w) y = Softmax<axis=1>(c)",
    "attention": "f = Reshape(x, rows) t = Transpose<perm=[0,2,1]>(f) s = MatMul(f, t) y = Softmax(s)",
    "slices": "a = Slice(x, zero, two, one) y = Concat<axis=1>(a, x)",
    "whole batch": "a = Slice(x, zero, far, zero) y = Relu(a)",
    "split": "a, b = Split<axis=1, num_outputs=2>(x) y = Max(a, b)",
    "pool and resize":
        "p = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x) y = Resize<mode=\"linear\">(p, , scales)",
    "line": "f = Reshape(x, rows) y = Conv(f, w1)",
    "unsqueeze": "f = Unsqueeze(x, one) s = Squeeze(f, one) y = Conv(s, w)",
    "average": "y = AveragePool<kernel_shape=[3,3], pads=[1,0,1,0], count_include_pad=1>(x)",
}  # fmt: skip
CONSTANTS = {
    "w": seeded(4, 4, 1, 1), "w1": seeded(3, 4, 3), "u": seeded(4, 3, 2, 2), "g": seeded(5, 120), "flat": ints(0, -1),
    "rows": ints(0, 4, 30),
    "split": ints(0, 2, 2, 6, 5), "back": ints(0, 4, 6, 5), "axes": ints(2, 3), "zero": ints(0), "one": ints(1),
    "two": ints(2),
    "far": ints(2**40), "scales": np.array([1, 1, 2, 2], np.float32),
}  # fmt: skip


def batched(text: str) -> onnx.ModelProto:
    used = set(text.replace(",", " ").replace("(", " ").replace(")", " ").split())
    made = network(
        f"g (float[N,4,6,5] x) => (float y) {{ {text} }}", **{n: a for n, a in CONSTANTS.items() if n in used}
    )
    del made.graph.output[:]
    made = onnx.shape_inference.infer_shapes(made, data_prop=True)
    made.graph.output.extend(v for v in made.graph.value_info if v.name == "y")
    return made


@pytest.mark.parametrize("name", BATCHED)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_batch_of_five(name: str, precision: str) -> None:
    made = batched(BATCHED[name])
    if precision == "fp32":
        artifact, tolerance = compiled(made, passes=["simplify_reshapes", "fuse_gemm"]), 1e-5
        reference = OrtRunner.from_bytes(made.SerializeToString(), optimize=False)
    else:
        graph, _ = quantized(made, ["simplify_reshapes", "fuse_gemm"])
        artifact, tolerance = lower(graph, precision=precision, target="arm"), 0.03
        reference = OrtRunner.from_model(graph, optimize=False)
    runner = LiteRtRunner(artifact.data)
    assert runner.inputs[0].shape[0] is None
    assert artifact.outputs[0].shape[0] == -1
    for count in (1, 5, 2):
        feeds = {"x": seeded(count, 4, 6, 5)}
        assert_close(runner.run(feeds), reference.run(feeds), tolerance)


@pytest.mark.parametrize(
    "text",
    [
        "y = Slice(x, zero, one, zero)",
        "y = Gather<axis=0>(x, zero)",
        "y = Pad(x, wider)",
        "y = Concat<axis=0>(x, wide)",
    ],
)
def test_what_cuts_the_batch(text: str) -> None:
    constants = {
        "zero": ints(0),
        "one": ints(1),
        "wider": ints(1, 0, 0, 0, 0, 0, 0, 0),
        "wide": seeded(1, 4, 6, 5),
    }
    used = set(text.replace(",", " ").replace("(", " ").replace(")", " ").split())
    made = network(
        f"g (float[N,4,6,5] x) => (float[a,b,c,d] y) {{ {text} }}",
        **{n: a for n, a in constants.items() if n in used},
    )
    if "Concat" in text:  # the kernel joins any number of samples
        feeds = {"x": seeded(3, 4, 6, 5)}
        assert_close(
            LiteRtRunner(compiled(made).data).run(feeds),
            OrtRunner.from_bytes(made.SerializeToString()).run(feeds),
        )
        return
    with pytest.raises(UnsupportedError, match="batch"):
        compiled(made)


def test_networks_with_a_free_batch(shared: Path) -> None:
    for path in (MODELS / "digits_mlp.onnx", shared / "models" / "resnet20_dyn.onnx"):
        original = load(path)
        runner = LiteRtRunner(compiled(original, passes=PASSES).data)
        spec = runner.inputs[0]
        assert spec.shape[0] is None
        feeds = {spec.name: seeded(5, *(d or 1 for d in spec.shape[1:]))}
        assert_close(runner.run(feeds), OrtRunner.from_model(original).run(feeds), 1e-4)


def test_rank_of_outputs_that_are_scalars() -> None:
    made = model(case("ReduceSum", (2, 3), keepdims=0))
    got = LiteRtRunner(compiled(made).data).run(feed(made))
    assert got["y0"].shape == ()
