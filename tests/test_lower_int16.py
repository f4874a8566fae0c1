"""int16 activations with int8 weights: LiteRT's kernels against ONNX Runtime's unoptimised run of the Q/DQ graph."""

import numpy as np
import onnx
import pytest
import test_lower_int8
from tflite_cases import Case, case, model, quantized, seeded

from edgecc.quant.rules import TFLITE_INT16
from edgecc.runtime.litert import LiteRtRunner
from edgecc.runtime.ort import OrtRunner
from edgecc.tflite.lower import lower

X = test_lower_int8.X


def check(made: onnx.ModelProto, decibels: float, islands: tuple[str, ...] = ()) -> dict[str, int]:
    """At least `decibels` of SQNR on every output; only `islands` run on real values. Returns the operators."""
    graph, _ = quantized(made, precision="int16x8")
    artifact = lower(graph, precision="int16x8", target="arm")
    assert tuple(i["op_type"] for i in artifact.notes["float_islands"]) == islands
    found: dict[str, int] = artifact.notes["operators"]
    if not islands:
        assert found.get("QUANTIZE", 0) == len(made.graph.input), found
        assert found.get("DEQUANTIZE", 0) == len(made.graph.output), found
    reference, runner = OrtRunner.from_model(graph, optimize=False), LiteRtRunner(artifact.data, threads=1)
    feeds = {s.name: seeded(*(d or 2 for d in s.shape), seed=50) for s in reference.inputs}
    got = runner.run(feeds)
    for name, array in reference.run(feeds).items():
        error = np.sum((got[name].astype(np.float64) - array) ** 2)
        assert 10 * np.log10(np.sum(array.astype(np.float64) ** 2) / max(error, 1e-30)) > decibels, found
    return found


def islands_of(c: Case) -> tuple[str, ...]:
    slopes = c.operands[1] if c.op == "PRelu" else None
    served = isinstance(slopes, np.ndarray) and slopes.size == 1
    return (c.op,) if c.op in TFLITE_INT16 and not served else ()


def decibels(c: Case) -> float:
    """LiteRT places the cells of a linear Resize on a grid of 2^-10, and looks exponentials up in tables."""
    return 50 if "mode=linear" in str(c) else 70


@pytest.mark.parametrize("c", [*test_lower_int8.ONE, case("PRelu", X, seeded(1, 1, 1))], ids=str)
def test_one_operator(c: Case) -> None:
    check(model(c), decibels(c), islands_of(c))


@pytest.mark.parametrize("c", test_lower_int8.MOVING, ids=str)
def test_moving_between_convolutions(c: Case) -> None:
    check(model(c, sandwiched=True), decibels(c), islands_of(c))


@pytest.mark.parametrize("name", test_lower_int8.GRAPHS)
def test_graph(name: str) -> None:
    text = test_lower_int8.GRAPHS[name]
    check(test_lower_int8.graph(text), 70, tuple(op for op in ("HardSwish", "PRelu") if f"{op}(" in text))


def test_several_int16_matrices_are_one_in_front_of_fully_connected() -> None:
    """tflite-runtime 2.14 computes the first of them only."""
    found = check(model(case("MatMul", (2, 3, 10), seeded(10, 5))), 70)
    assert (found["RESHAPE"], found["FULLY_CONNECTED"]) == (2, 1)


def test_sums_beyond_16_bits() -> None:
    check(model(case("Conv", (1, 70, 8, 8), seeded(5, 70, 3, 3), seeded(5))), 70)
    check(model(case("Gemm", (3, 700), seeded(5, 700), seeded(5), transB=1)), 70)


def test_results_that_never_leave_zero() -> None:
    """Their scale is next to nothing, beyond what the kernels' multipliers can be."""
    for text in ("y = Sub(x, x)", "y = Mul(x, nothing)", "p = Mul(x, nothing) a = Add(p, x) y = Add(a, p)"):
        made = test_lower_int8.network(
            f"g (float[2,4,8,6] x) => (float[2,4,8,6] y) {{ {text} }}",
            **({"nothing": np.zeros(1, np.float32)} if "nothing" in text else {}),
        )
        graph, _ = quantized(made, precision="int16x8")
        feeds = {"x": seeded(2, 4, 8, 6)}
        wanted = OrtRunner.from_model(graph, optimize=False).run(feeds)["y"]
        got = LiteRtRunner(lower(graph, precision="int16x8", target="arm").data).run(feeds)["y"]
        np.testing.assert_allclose(got, wanted, atol=1e-3)


@pytest.mark.parametrize("op", ["Softmax", "Sigmoid", "Tanh"])
def test_scales_of_other_quantizers(op: str) -> None:
    """The kernel demands 2^-15 of its result."""
    made = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21]> g (float[3,10] x) => (float[3,10] y) {'
        f" a = QuantizeLinear(x, s, z) b = DequantizeLinear(a, s, z) c = {op}(b)"
        " q = QuantizeLinear(c, t, z) y = DequantizeLinear(q, t, z) }"
    )
    for name, array in (("s", np.float32(1e-4)), ("t", np.float32(1e-4)), ("z", np.int16(0))):
        made.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    from edgecc.importer import load

    artifact = lower(load(made), precision="int16x8", target="arm")
    feeds = {"x": seeded(3, 10)}
    wanted = OrtRunner.from_bytes(made.SerializeToString(), optimize=False).run(feeds)["y"]
    np.testing.assert_allclose(LiteRtRunner(artifact.data).run(feeds)["y"], wanted, atol=1.5e-4)


def test_the_lowest_value_pads_maxima() -> None:
    made = model(case("MaxPool", X, kernel_shape=[2, 2], pads=[1, 0, 0, 1]), sandwiched=True)
    made.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(-np.ones((4, 4, 1, 1), np.float32), "w0"))
    check(made, 70)
