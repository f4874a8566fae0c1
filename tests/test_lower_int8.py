"""int8 lowering: LiteRT's integer kernels against ONNX Runtime's unoptimised run of the same Q/DQ graph."""

import numpy as np
import onnx
import pytest
from tflite_cases import Array, Case, case, ints, model, quantized, seeded

from edgecc.runtime.litert import LiteRtRunner
from edgecc.runtime.ort import OrtRunner
from edgecc.tflite.lower import lower

X = (2, 4, 8, 6)


def network(text: str, **constants: Array) -> onnx.ModelProto:
    made = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> {text}')
    made.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in constants.items())
    return made


def check(
    made: onnx.ModelProto, steps: float = 1, islands: tuple[str, ...] = (), integer: bool = True
) -> dict[str, int]:
    """Within `steps` of each output's scale; only `islands` run on real values. Returns the operators."""
    graph, plan = quantized(made)
    artifact = lower(graph, precision="int8", target="arm")
    assert tuple(i["op_type"] for i in artifact.notes["float_islands"]) == islands
    found: dict[str, int] = artifact.notes["operators"]
    if integer and not islands:
        assert found.get("QUANTIZE", 0) == len(made.graph.input), found
        assert found.get("DEQUANTIZE", 0) == len(made.graph.output), found
    reference, runner = OrtRunner.from_model(graph, optimize=False), LiteRtRunner(artifact.data, threads=1)
    for seed in range(3):
        feeds = {s.name: seeded(*(d or 2 for d in s.shape), seed=seed + 50) for s in reference.inputs}
        wanted, got = reference.run(feeds), runner.run(feeds)
        for name, array in wanted.items():
            scale = float(plan.tensors[name].scale[0])
            worst = float(np.max(np.abs(got[name] - array))) / scale
            assert worst <= steps + 0.01, f"{name}: {worst} steps of {scale}; {found}"
    return found


ONE = [
    case("Conv", X, seeded(5, 4, 3, 3), seeded(5)),
    case("Conv", X, seeded(5, 4, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2]),
    case("Conv", X, seeded(5, 4, 3, 3), pads=[1, 1, 1, 1]),
    case("Conv", X, seeded(4, 1, 3, 3), seeded(4), group=4, pads=[1, 1, 1, 1]),
    case("Conv", X, seeded(8, 1, 3, 3), seeded(8), group=4, dilations=[2, 2]),
    case("Conv", X, seeded(6, 2, 3, 3), seeded(6), group=2, pads=[1, 1, 1, 1]),
    case("Conv", (2, 4, 9), seeded(5, 4, 3), seeded(5), pads=[1, 1]),
    case("ConvTranspose", X, seeded(4, 3, 3, 3), seeded(3), strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
    case("ConvTranspose", X, seeded(4, 3, 2, 2), strides=[2, 2]),
    case("ConvTranspose", X, seeded(4, 1, 2, 2), seeded(4), strides=[2, 2], group=4),
    case("Gemm", (3, 10), seeded(5, 10), seeded(5), transB=1),
    case("Gemm", (3, 10), seeded(10, 5), seeded(5)),
    case("MatMul", (2, 3, 10), seeded(10, 5)),
    case("MatMul", (2, 3, 10), (2, 10, 5)),
    case("Add", X, X), case("Add", X, seeded(4, 1, 1)), case("Add", X, (1, 4, 1, 1)),
    case("Sub", X, X), case("Sub", seeded(4, 1, 1), X), case("Mul", X, X), case("Mul", X, seeded(4, 1, 1)),
    case("Mul", X, (2, 4, 1, 1)),
    case("Relu", X), case("LeakyRelu", X, alpha=0.2), case("PRelu", X, seeded(4, 1, 1)), case("HardSwish", X),
    case("Sigmoid", X), case("Tanh", X), case("Softmax", (3, 10)), case("Softmax", (2, 3, 10), axis=-1), case("Clip",
    X, np.array(0, np.float32), np.array(6, np.float32)),
    case("Elu", X), case("Exp", X), case("Gelu", X), case("LogSoftmax", (3, 10)),
    case("GlobalAveragePool", X), case("ReduceMean", X, ints(2, 3), keepdims=0), case("ReduceMean", X, ints(1)),
    case("ReduceSum", X, ints(1)),
]  # fmt: skip
# operators that only move values, between two convolutions
MOVING = [
    case("MaxPool", X, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), case("MaxPool", X, kernel_shape=[2,
    2], pads=[1, 0, 0, 1]),
    case("AveragePool", X, kernel_shape=[2, 2], strides=[2, 2]), case("AveragePool", X, kernel_shape=[3, 3], pads=[1,
    1, 1, 1]),
    case("AveragePool", X, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    case("GlobalMaxPool", X), case("ReduceMax", X, ints(3)), case("ReduceMin", X, ints(1)),
    case("Max", X, X), case("Min", X, X), case("Max", X, seeded(4, 1, 1)),
    case("Concat", X, X, axis=1), case("Concat", X, seeded(2, 1, 8, 6), axis=1), case("Split", X, num_outputs=2,
    axis=1, outputs=2),
    case("Split", X, ints(1, 3), axis=1, outputs=2), case("Slice", X, ints(1, 0), ints(3, 6), ints(1, 3), ints(1, 2)),
    case("Slice", X, ints(-1), ints(-100), ints(1), ints(-1)), case("Pad", X, ints(0, 1, 1, 0, 0, 2, 0, 1)),
    case("Pad", X, ints(0, 0, 1, 1, 0, 0, 1, 1), mode="reflect"),
    case("Resize", X, None, None, ints(2, 4, 16, 12)), case("Resize", X, None, None, ints(2, 4, 16, 12), mode="linear"),
    case("Resize", X, None, None, ints(2, 4, 11, 5), mode="linear", coordinate_transformation_mode="align_corners"),
    case("Gather", X, ints(2, 0, 1), axis=1), case("Gather", X, np.array(1), axis=0), case("Transpose", X, perm=[0, 1,
    3, 2]), case("Reshape", X, ints(2, 8, 4, 6)),
    case("Unsqueeze", (2, 4, 6), ints(2)), case("DepthToSpace", X, blocksize=2), case("DepthToSpace", X, blocksize=2,
    mode="CRD"), case("SpaceToDepth", X, blocksize=2),
    case("Expand", (2, 4, 1, 6), ints(2, 4, 8, 6)), case("Identity", X),
]  # fmt: skip


@pytest.mark.parametrize("c", ONE, ids=str)
def test_one_operator(c: Case) -> None:
    check(model(c), steps=2)


@pytest.mark.parametrize("c", MOVING, ids=str)
def test_moving_between_convolutions(c: Case) -> None:
    check(model(c, sandwiched=True), steps=3)  # the last convolution sums up steps


GRAPHS = {
    "relu": "c = Conv(x, w) y = Relu(c)",
    "relu6": "c = Conv(x, w, b) y = Clip(c, zero, six)",
    "relu_n1_to_1": "c = Conv(x, w, b) y = Clip(c, minus, one)",
    "hard_swish": "c = Conv(x, w, b) y = HardSwish(c)",
    "sigmoid gate": "c = Conv(x, w, b) s = Sigmoid(c) y = Mul(c, s)",
    "residual": "c = Conv(x, w, b) r = Relu(c) d = Conv(r, w) a = Add(x, d) y = Relu(a)",
    "residual without activation": "c = Conv(x, w, b) y = Add(x, c)",
    "depthwise": "c = Conv<group=4, pads=[1,1,1,1], strides=[2,2]>(x, dw, b) r = Clip(c, zero, six) y = Conv(r, w)",
    "squeeze and excite": "p = GlobalAveragePool(x) c = Conv(p, w) r = Relu(c) s = Sigmoid(r) y = Mul(x, s)",
    "branches": "c = Conv(x, w) m = MaxPool<kernel_shape=[1,1]>(x) k = Concat<axis=1>(c, m, x) y = Relu(k)",
    "pad and pool": "p = Pad(x, amounts) c = Conv(p, dense) y = AveragePool<kernel_shape=[2,2], strides=[2,2]>(c)",
    "head": "c = Conv(x, w) p = GlobalAveragePool(c) f = Reshape(p, flat) g = Gemm(f, fc, fb) y = Softmax(g)",
    "flatten": "c = Conv(x, w) r = Relu(c) f = Reshape(c, flat) g = Gemm(f, full) y = Sigmoid(g)",
    "two outputs": "c = Conv(x, w) y = Relu(c) z = Conv(y, w)",
    "upsample": "c = Conv(x, w) r = Resize(c, , , bigger) d = Conv(r, w) y = PRelu(d, slope)",
}
CONSTANTS = {
    "w": seeded(4, 4, 1, 1), "b": seeded(4), "dw": seeded(4, 1, 3, 3), "dense": seeded(4, 4, 3, 3),
    "zero": np.array(0, np.float32),
    "six": np.array(6, np.float32), "minus": np.array(-1, np.float32), "one": np.array(1, np.float32),
    "slope": seeded(4, 1, 1),
    "amounts": ints(0, 0, 0, 2, 0, 0, 1, 0), "flat": ints(2, -1), "fc": seeded(4, 3), "fb": seeded(3),
    "full": seeded(192, 3), "bigger": ints(2, 4, 16, 12),
}  # fmt: skip


def graph(text: str) -> onnx.ModelProto:
    names = set(text.replace(",", " ").replace("(", " ").replace(")", " ").split())
    outputs = ", ".join(f"float[{','.join('abcd')}] {n}" for n in ("y", "z") if f"{n} =" in text)
    made = network(
        f"g (float[2,4,8,6] x) => ({outputs}) {{ {text} }}",
        **{n: a for n, a in CONSTANTS.items() if n in names},
    )
    del made.graph.output[:]
    shapes = {v.name: v for v in onnx.shape_inference.infer_shapes(made, data_prop=True).graph.value_info}
    made.graph.output.extend(shapes[n] for n in ("y", "z") if f"{n} =" in text)
    return made


@pytest.mark.parametrize("name", GRAPHS)
def test_graph(name: str) -> None:
    check(graph(GRAPHS[name]), steps=3)


def test_activations_are_fused() -> None:
    for name in ("relu", "relu6", "residual", "depthwise"):
        assert not {"RELU", "RELU6"} & set(check(graph(GRAPHS[name]), steps=3)), name


def test_float_islands() -> None:
    made = graph("c = Conv(x, w) s = Softplus(c) d = Conv(s, w) y = Relu(d)")
    made.graph.node[1].op_type = "Sin"
    found = check(made, steps=3, islands=("Sin",))
    assert (found["DEQUANTIZE"], found["QUANTIZE"]) == (2, 2)
    found = check(graph("c = Conv(x, w) e = Exp(c) d = Div(c, e) y = Conv(d, w)"), steps=3, islands=("Div",))
    assert (found["DEQUANTIZE"], found["QUANTIZE"]) == (3, 2)


def test_per_tensor_weights() -> None:
    made = graph(GRAPHS["residual"])
    rewritten, plan = quantized(made, per_channel=False)
    artifact = lower(rewritten, precision="int8", target="arm")
    feeds = {"x": seeded(2, 4, 8, 6, seed=9)}
    wanted = OrtRunner.from_model(rewritten, optimize=False).run(feeds)["y"]
    got = LiteRtRunner(artifact.data).run(feeds)["y"]
    assert np.max(np.abs(got - wanted)) <= 2.01 * float(plan.tensors["y"].scale[0])


@pytest.mark.parametrize("io_dtype", ["int8", "uint8"])
def test_integer_ports(io_dtype: str) -> None:
    rewritten, plan = quantized(graph(GRAPHS["head"]))
    artifact = lower(rewritten, precision="int8", target="arm", io_dtype=io_dtype)  # type: ignore[arg-type]
    assert {p.dtype for p in (*artifact.inputs, *artifact.outputs)} == {io_dtype}
    feeds = {"x": seeded(2, 4, 8, 6, seed=9)}
    wanted = OrtRunner.from_model(rewritten, optimize=False).run(feeds)["y"]
    got = LiteRtRunner(artifact.data).run(feeds)["y"]
    assert np.max(np.abs(got - wanted)) <= 2.01 * float(plan.tensors["y"].scale[0])


def test_scales_of_other_quantizers() -> None:
    """A Q/DQ graph that nobody unified: kernels that demand equal scales must not be fed with others."""
    made = network(
        "g (float[2,4,8,6] x) => (float[2,8,8,6] y) { "
        "a = QuantizeLinear(x, s1, z) b = DequantizeLinear(a, s1, z) c = MaxPool<kernel_shape=[1,1]>(b) "
        "d = QuantizeLinear(c, s2, z) e = DequantizeLinear(d, s2, z) "
        "k = Concat<axis=1>(b, e) q = QuantizeLinear(k, s3, z) y = DequantizeLinear(q, s3, z) }",
        s1=np.array(0.03, np.float32), s2=np.array(0.05, np.float32), s3=np.array(0.02, np.float32), z=np.array(0,
        np.int8),
    )  # fmt: skip
    from edgecc.importer import load

    artifact = lower(load(made), precision="int8", target="arm")
    feeds = {"x": seeded(2, 4, 8, 6, seed=9)}
    wanted = OrtRunner.from_bytes(made.SerializeToString(), optimize=False).run(feeds)["y"]
    got = LiteRtRunner(artifact.data).run(feeds)["y"]
    assert np.max(np.abs(got - wanted)) <= 0.03 + 0.05 + 0.02  # one step of each scale on the way
    assert np.mean(np.abs(got - wanted) > 0.0201) < 0.02


@pytest.mark.parametrize("weights", [np.uint8, np.int8])
def test_unsigned_networks_of_other_quantizers(weights: type) -> None:
    """uint8 activations and weights with a zero point, as ONNX Runtime's quantizer makes them for x86."""
    random = np.random.default_rng(0)
    made = network(
        "g (float[1,4,6,5] x) => (float[1,3,6,5] y) { a = QuantizeLinear(x, s1, z) b = DequantizeLinear(a, s1, z) "
        "v = DequantizeLinear(w, s2, zw) c = Conv(b, v) q = QuantizeLinear(c, s3, z) y = DequantizeLinear(q, s3, z) }",
        s1=np.array(0.03, np.float32), s2=np.array(0.01, np.float32), s3=np.array(0.05, np.float32),
        z=np.array(120, np.uint8), zw=np.array(7, weights), w=random.integers(0, 100, (3, 4, 1, 1)).astype(weights),
    )  # fmt: skip
    from edgecc.importer import load

    artifact = lower(load(made), precision="int8", target="arm")
    feeds = {"x": seeded(1, 4, 6, 5, seed=9)}
    wanted = OrtRunner.from_bytes(made.SerializeToString(), optimize=False).run(feeds)["y"]
    assert np.max(np.abs(LiteRtRunner(artifact.data).run(feeds)["y"] - wanted)) <= 0.0501


@pytest.mark.parametrize(
    "text",
    [
        "y = QuantizeLinear(x, s, z)",
        "a = QuantizeLinear(x, s, z) r = Reshape(a, shape) y = DequantizeLinear(r, s, z)",
        "a = QuantizeLinear<axis=1>(x, many, zs) y = DequantizeLinear<axis=1>(a, many, zs)",
        "a = QuantizeLinear(x, s, z) y = DequantizeLinear(a, other, z)",
        "m = ReduceMax<keepdims=0>(x) a = QuantizeLinear(x, m, z) y = DequantizeLinear(a, m, z)",
    ],
)
def test_conversions_that_are_operators(text: str) -> None:
    """Where the integers go elsewhere, or no kernel has such scales, they are computed like anything else."""
    from edgecc.importer import load

    constants: dict[str, Array] = {
        "s": np.array(0.1, np.float32), "z": np.array(2, np.int8), "shape": ints(3, 2),
        "zs": np.array([1, -2, 3], np.int8),
        "many": np.array([0.1, 0.2, 0.3], np.float32), "other": np.array(0.3, np.float32),
    }  # fmt: skip
    used = set(text.replace(",", " ").replace("(", " ").replace(")", " ").split())
    kind, shape = "int8" if text.startswith("y") else "float", "3,2" if "Reshape" in text else "2,3"
    made = network(
        f"g (float[2,3] x) => ({kind}[{shape}] y) {{ {text} }}",
        **{n: a for n, a in constants.items() if n in used},
    )
    artifact = lower(load(made), precision="int8", target="arm")
    feeds = {"x": 3 * seeded(2, 3, seed=3)}
    wanted = OrtRunner.from_bytes(made.SerializeToString(), optimize=False).run(feeds)["y"]
    got = LiteRtRunner(artifact.data).run(feeds)["y"]
    assert got.dtype == wanted.dtype
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_sixteen_bits_with_a_zero_point() -> None:
    """No kernel has them: int16 without one covers the same range."""
    from edgecc.importer import load

    made = network(
        "g (float[2,3] x) => (float[2,3] y)"
        " { a = QuantizeLinear(x, s, wide) y = DequantizeLinear(a, s, wide) }",
        s=np.array(1e-4, np.float32), wide=np.array(30000, np.uint16),
    )  # fmt: skip
    artifact = lower(load(made), precision="int16x8", target="arm")
    feeds = {"x": 5 * seeded(2, 3, seed=3)}
    wanted = OrtRunner.from_bytes(made.SerializeToString(), optimize=False).run(feeds)["y"]
    assert np.max(np.abs(LiteRtRunner(artifact.data).run(feeds)["y"] - wanted)) <= 1.2e-4


def test_int16_activations() -> None:
    rewritten, plan = quantized(graph(GRAPHS["residual"]), precision="int16x8")
    artifact = lower(rewritten, precision="int16x8", target="arm")
    feeds = {"x": seeded(2, 4, 8, 6, seed=9)}
    wanted = OrtRunner.from_model(rewritten, optimize=False).run(feeds)["y"]
    got = LiteRtRunner(artifact.data).run(feeds)["y"]
    assert np.max(np.abs(got - wanted)) <= 3 * float(plan.tensors["y"].scale[0])


@pytest.mark.parametrize(("name", "tolerance"), [("quantize_weights", 0.05), ("halve_weights", 2e-3)])
@pytest.mark.parametrize("text", ["residual", "depthwise", "head", "flatten"])
def test_weights_only(name: str, tolerance: float, text: str) -> None:
    from tflite_cases import compiled

    made = graph(GRAPHS[text])
    artifact = compiled(made, passes=["fuse_gemm", name])
    feeds = {"x": seeded(2, 4, 8, 6, seed=9)}
    wanted = OrtRunner.from_bytes(made.SerializeToString()).run(feeds)["y"]
    got = LiteRtRunner(artifact.data).run(feeds)["y"]
    assert np.max(np.abs(got - wanted)) <= tolerance * np.max(np.abs(wanted))


@pytest.mark.parametrize(
    "text", ["y = Sub(x, x)", "y = Mul(x, nothing)", "y = Conv(x, tiny)",
    "p = Mul(x, nothing) a = Add(p, x) y = Concat<axis=1>(a, p)", "y = Gemm(f, dead)"],
)  # fmt: skip
def test_results_that_never_leave_zero(text: str) -> None:
    """Their scale is next to nothing, beyond what XNNPACK computes: such an operator runs on real values."""
    made = network(
        "g (float[2,4,8,6] x, float[2,5] f) => (float[2,a,b,c] y) { " + text + " }",
        nothing=np.zeros(1, np.float32), tiny=np.zeros((4, 4, 1, 1), np.float32), dead=np.zeros((5, 3), np.float32),
    )  # fmt: skip
    for name in ("nothing", "tiny", "dead"):
        if name not in text:
            made.graph.initializer.remove(next(i for i in made.graph.initializer if i.name == name))
    for value in list(made.graph.input):
        if f"({value.name}" not in text and f"{value.name})" not in text:
            made.graph.input.remove(value)
    del made.graph.output[:]
    shapes = onnx.shape_inference.infer_shapes(made).graph.value_info
    made.graph.output.extend(v for v in shapes if v.name == "y")
    rewritten, _ = quantized(made)
    feeds = {v.name: seeded(*(d.dim_value for d in v.type.tensor_type.shape.dim)) for v in made.graph.input}
    wanted = OrtRunner.from_model(rewritten, optimize=False).run(feeds)["y"]
    got = LiteRtRunner(lower(rewritten, precision="int8", target="arm").data).run(feeds)["y"]
    np.testing.assert_allclose(got, wanted, atol=0.1)


def test_a_product_over_five_axes_stays_real_between_integers() -> None:
    """The int8 kernel serves four where shapes differ; the heads of detectors have five."""
    text = "g (float[1,3,4,4,2] x) => (float[1,3,4,4,2] y) { s = Sigmoid(x) p = Mul(s, k) y = Add(p, j) }"
    made = network(text, k=np.array(2, np.float32), j=seeded(4, 4, 2))
    assert check(made, steps=2, islands=("Mul",))["MUL"] == 1
