"""The simulator against LiteRT's reference kernels and TFLite Micro, operator by operator, every integer."""

import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from simulate_cases import differences, random_feeds, rescaled
from test_lower_int8 import GRAPHS, MOVING, ONE, graph
from tflite_cases import Case, case, ints, model, quantized, seeded

from edgecc.errors import UnsupportedError
from edgecc.simulate.network import KERNELS, Network
from edgecc.tflite.lower import lower
from edgecc.tflite.reader import read_graph

X = (2, 4, 8, 6)
# What LiteRT registers no reference kernel for: its whole file does not load there.
NO_REFERENCE = ("Elu", "DepthToSpace")
# The reference kernel of Sum reads int8 as uint8 (reduce.cc: QuantizedMeanOrSum); TFLite Micro's does not.
WRONG_REFERENCE = ("ReduceSum",)
MORE = [
    case("BatchNormalization", X, seeded(4), seeded(4), seeded(4), seeded(4, low=1)),
    case("Conv", (1, 3, 9, 7), seeded(8, 3, 5, 3), seeded(8), strides=[2, 1], auto_pad="SAME_UPPER"),
    case("Conv", (1, 6, 9, 7), seeded(12, 1, 3, 3), seeded(12), group=6, strides=[2, 2], pads=[1, 1, 1, 1]),
    case("Conv", (1, 260, 3, 3), seeded(2, 260, 3, 3)),  # sums past 2^24
    case("Gemm", (2, 900), seeded(900, 4), seeded(4)),
    case("Clip", X, np.array(-1, np.float32), np.array(1, np.float32)), case("LeakyRelu", X, alpha=1.5),
    case("Softmax", (2, 3)), case("LogSoftmax", (4, 100)), case("Softmax", (4, 100)),
    case("ReduceMean", X, ints(0, 2), keepdims=0),
    case("Tile", X, ints(1, 1, 2, 1)), case("Gelu", X, approximate="tanh"),
]  # fmt: skip

BETWEEN = [
    case("MaxPool", X, kernel_shape=[2, 2]), case("AveragePool", X, kernel_shape=[3, 3]),
    case("Resize", X, None, None, ints(2, 4, 5, 9), mode="linear", coordinate_transformation_mode="asymmetric"),
    case("Resize", X, None, None, ints(2, 4, 5, 9), mode="nearest", nearest_mode="floor",
    coordinate_transformation_mode="asymmetric"),
]  # fmt: skip


def artifact(made: onnx.ModelProto, per_channel: bool = True) -> bytes:
    rewritten, _ = quantized(made, per_channel=per_channel)
    return lower(rewritten, precision="int8", target="arm").data


def assert_equal(data: bytes, seeds: int = 2, micro: bool = False) -> None:
    for seed in range(seeds):
        wrong, compared = differences(data, random_feeds(data, seed), micro=micro)
        assert not wrong
        assert compared


REFERENCED = [c for c in (*ONE, *MORE) if c.op not in (*NO_REFERENCE, *WRONG_REFERENCE)]


@pytest.mark.parametrize("c", REFERENCED, ids=str)
def test_one_operator(c: Case) -> None:
    assert_equal(artifact(model(c)))


@pytest.mark.parametrize("c", [c for c in (*MOVING, *BETWEEN) if c.op not in NO_REFERENCE], ids=str)
def test_between_convolutions(c: Case) -> None:
    assert_equal(artifact(model(c, sandwiched=True)))


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("name", GRAPHS)
def test_graph(name: str, per_channel: bool) -> None:
    assert_equal(artifact(graph(GRAPHS[name]), per_channel))


# Kernels demand these scales, or the inputs' own, of the outputs (and inputs) of an operator.
FIXED = frozenset(
    ("LOGISTIC", "TANH", "SOFTMAX", "LOG_SOFTMAX", "MAXIMUM", "MINIMUM", "CONCATENATION", "MAX_POOL_2D",
    "AVERAGE_POOL_2D", "RESHAPE", "FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "DEQUANTIZE",
    "HARD_SWISH", "ADD")
)  # fmt: skip
SCALED = ("Sub", "Mul", "Relu", "LeakyRelu", "PRelu", "Sigmoid", "Tanh", "Softmax", "LogSoftmax", "Exp", "Gelu",
          "ReduceMean", "GlobalAveragePool", "MatMul")  # fmt: skip


@pytest.mark.parametrize("c", [c for c in ONE if c.op in SCALED], ids=str)
def test_any_scales(c: Case) -> None:
    """Random scales and zero points, most of them far from what calibration would choose: values saturate."""
    data = artifact(model(c))
    for seed in range(12):
        changed = rescaled(data, seed, FIXED)
        wrong, _ = differences(changed, random_feeds(changed, seed, spread=2.0))
        assert not wrong, seed


@pytest.mark.parametrize(
    "c", [case("Add", X, X), case("HardSwish", X), case("Conv", X, seeded(5, 4, 3, 3))], ids=str
)
def test_any_scales_a_little_apart(c: Case) -> None:
    """Of operators whose kernels refuse an output that is much finer than the input."""
    data = artifact(model(c))
    for seed in range(12):
        changed = rescaled(data, seed, FIXED - {"ADD", "HARD_SWISH", "CONV_2D"})
        wrong, _ = differences(changed, random_feeds(changed, seed, spread=2.0))
        assert not wrong, seed


def test_the_reference_kernel_of_sum_is_defective() -> None:
    """Should this fail, LiteRT has mended it, and Sum belongs to the operators above."""
    data = artifact(model(case("ReduceSum", X, ints(1))))
    wrong, _ = differences(data, random_feeds(data, 0))
    assert wrong
    assert wrong[0].startswith("SUM")


micro = pytest.mark.skipif(find_spec("tflite_micro") is None, reason="tflite-micro is not installed")
# TFLite Micro: no such kernel, or (Clip) a kernel of Relu6 that does not rescale.
NOT_IN_MICRO = ("Exp", "Clip", "Gelu", "Tile")


@micro
@pytest.mark.parametrize("c", [c for c in (*ONE, *MORE) if c.op not in NOT_IN_MICRO], ids=str)
def test_one_operator_in_tflite_micro(c: Case) -> None:
    assert_equal(artifact(model(c)), micro=True)


@micro
@pytest.mark.parametrize("name", GRAPHS)
def test_graph_in_tflite_micro(name: str) -> None:
    assert_equal(artifact(graph(GRAPHS[name])), micro=True)


def test_fully_connected_is_what_the_two_runtimes_round_otherwise() -> None:
    """A float64 product in LiteRT's reference kernel, fixed point in TFLite Micro: seldom another integer."""
    network = read_graph(artifact(model(case("Gemm", (64, 200), seeded(200, 64), seeded(64)))))
    feeds = {t.index: seeded(*t.shape, seed=3) for t in network.inputs}
    litert, device = (Network(network, micro).run(feeds)[0] for micro in (False, True))
    step = float(network.operators[-1].given(0).scale)
    gaps = np.rint(np.abs(litert - device) / step)
    assert gaps.max() <= 1
    assert np.count_nonzero(gaps) <= gaps.size // 50


def test_int4_weights() -> None:
    rewritten, _ = quantized(graph(GRAPHS["flatten"]), precision="int4")
    data = lower(rewritten, precision="int4", target="arm").data
    codes = {op.code for op in read_graph(data).operators}
    assert "FULLY_CONNECTED" in codes
    assert_equal(data)


def test_what_is_not_simulated_is_named_at_once() -> None:
    made = graph("c = Conv(x, w) s = Softplus(c) d = Conv(s, w) y = Relu(d)")
    made.graph.node[1].op_type = "Sin"
    with pytest.raises(UnsupportedError, match="SIN") as caught:
        Network(read_graph(artifact(made)))
    assert [f.op_type for f in caught.value.findings] == ["SIN"]
    rewritten, _ = quantized(graph(GRAPHS["residual"]), precision="int16x8")
    data = lower(rewritten, precision="int16x8", target="arm").data
    with pytest.raises(UnsupportedError, match="CONV_2D, ADD"):
        Network(read_graph(data))


def test_the_page_lists_every_operator() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "bit_true.md").read_text(encoding="utf-8")
    known = {code for table in KERNELS.values() for code in table}
    assert known <= set(re.findall(r"[A-Z][A-Z0-9_]+", page))
