"""The kernel table: read as it was measured, and measured again in the runtimes that are installed."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from tflite_cases import case, compiled, feed, ints, model, quantized

from edgecc import ir
from edgecc.errors import ModelError, UnsupportedError
from edgecc.importer import load
from edgecc.pipeline import PassContext, Pipeline
from edgecc.presets import make_pass
from edgecc.quant.params import QuantParams
from edgecc.runtime.litert import LiteRtRunner
from edgecc.tflite import kernels
from edgecc.tflite.graph import Operator, Tensor
from edgecc.tflite.kernels import demanded, kind_of, runtime_id, wanted
from edgecc.tflite.legality import objection
from edgecc.tflite.lower import lower, lower_graph, survey

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
ROWS = [(code, column) for code, rows in kernels.table()["kernels"].items() for column in rows]


@pytest.fixture(scope="module")
def probe() -> object:
    """benchmarks/kernels.py, which makes the table."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return __import__("kernels")
    finally:
        sys.path.remove(str(BENCHMARKS))


# One operator of each family, with types and ranks that some runtime does not take.
SAMPLE = ("RELU6", "ABS", "LOGICAL_AND", "SOFTMAX", "DEPTHWISE_CONV_2D", "MAX_POOL_2D")


@pytest.mark.parametrize("column", ["litert", "litert-builtin", "tflite-micro"])
@pytest.mark.parametrize("code", SAMPLE)
def test_the_table_says_what_the_runtimes_do(probe: object, code: str, column: str) -> None:
    """Every rank and type of a sample of operators, as `python benchmarks/kernels.py` tries them."""
    if column == kernels.MICRO and importlib.util.find_spec("tflite_micro") is None:
        pytest.skip("tflite-micro is not installed")
    tried = list(probe.cases(code))  # type: ignore[attr-defined]
    found = probe.summary(tried, probe.run(column, tried))  # type: ignore[attr-defined]
    held = dict(kernels.table()["kernels"][code].get(column, {}))
    held.pop("versions", None)
    assert found == held


def test_every_cell_can_be_read() -> None:
    for code, column in ROWS:
        row = kernels.table()["kernels"][code][column]
        assert 1 <= row["versions"] <= 16, code
        for kind in row:
            if kind != "versions":
                reach = kernels.kernels(column).reach(code, kind)
                assert reach is not None and 0 <= reach.low <= reach.high <= 8, (code, kind)
                assert reach.broadcast is None or reach.broadcast <= reach.high, (code, kind)


def test_what_every_runtime_has_is_less_than_what_each_has() -> None:
    for code in kernels.table()["kernels"]:
        ours = wanted("litert").kinds(code)
        for kind, reach in demanded("litert").kinds(code).items():
            if kind in ours:
                assert ours[kind].high <= reach.high
        assert set(ours) <= set(demanded("litert").kinds(code))


@pytest.mark.parametrize("name", ["LiteRT", "litert", "tflite-runtime 2.14", "TFLite Micro", "tflite-micro"])
def test_runtimes_may_be_spelt_freely(name: str) -> None:
    assert runtime_id(name) in kernels.RUNTIMES


def test_a_runtime_without_a_table() -> None:
    with pytest.raises(ModelError, match=r"no kernel table for the runtime 'TFLite Nano'.*tflite-micro"):
        demanded("TFLite Nano")


def test_kinds() -> None:
    def quant(dtype: str, axis: int | None = None) -> QuantParams:
        count = 1 if axis is None else 4
        return QuantParams(np.full(count, 0.1), np.zeros(count, int), dtype, axis)  # type: ignore[arg-type]

    tensors = [
        Tensor("x", (1, 5, 5, 8), "int8", quant=quant("int8")),
        Tensor("w", (4, 3, 3, 4), "int8", quant=quant("int8", 0)),
        Tensor("b", (4,), "int32"),
        Tensor("y", (1, 3, 3, 4), "int8", quant=quant("int8")),
        Tensor("f", (1, 5, 5, 8), "float32"),
    ]
    assert kind_of(Operator("CONV_2D", (0, 1, 2), (3,)), tensors) == "qint8*qint8/channel grouped"
    assert kind_of(Operator("QUANTIZE", (4,), (0,)), tensors) == "float32>qint8"
    assert kind_of(Operator("CONV_2D", (4, 1, 2), (3,)), tensors) == "float32*qint8/channel grouped"
    assert kernels.in_words("qint8*qint8/channel") == (
        "quantized int8 with quantized int8 weights (a scale a channel)"
    )


def test_a_version_that_a_runtime_does_not_load_is_an_objection() -> None:
    quant = QuantParams(np.full(4, 0.1), np.zeros(4, int), "int4", 0)
    tensors = [
        Tensor("x", (2, 8), "float32"), Tensor("w", (4, 8), "int4", quant=quant), Tensor("b", (4,), "float32"),
        Tensor("y", (2, 4), "float32"),
    ]  # fmt: skip
    op = Operator("FULLY_CONNECTED", (0, 1, 2), (3,))
    assert objection(op, tensors, demanded("litert")) is None
    reason = objection(op, tensors, kernels.kernels("tflite-runtime-2.14"))
    assert reason == "FULLY_CONNECTED version 12 is too new: at most 10 is known"


def test_what_the_older_runtime_lacks_runs_in_litert_and_is_noted() -> None:
    c = case("Slice", (2, 2, 2, 2, 2, 3), ints(1), ints(2))
    made = model(c)
    artifact = compiled(made)
    assert artifact.notes["not_in_tflite_runtime_2_14"] == [
        "STRIDED_SLICE has a kernel for at most 5 axes, here are 6"
    ]
    feeds = feed(made)
    (name,) = feeds
    (got,) = LiteRtRunner(artifact.data).run(feeds).values()
    np.testing.assert_array_equal(got, feeds[name][1:2])


def test_tflite_micro_refuses_all_that_it_lacks_at_once() -> None:
    graph = two_unserved()
    with pytest.raises(UnsupportedError) as caught:
        lower(graph, precision="fp32", target="board", runtime="TFLite Micro")
    found = {f.op_type: f.reason for f in caught.value.findings}
    assert set(found) == {"Sign", "Mod"}
    assert found["Sign"] == "SIGN has no kernel for float32 in TFLite Micro"
    lower(graph, precision="fp32", target="arm")


def two_unserved() -> ir.Model:
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[2,3] x, int32[4] i) => (float[2,3] y, int32[4] j) {
        r = Relu(x)
        y = Sign(r)
        two = Constant<value_ints=[2,2,2,2]>()
        c = Cast<to=6>(two)
        j = Mod(i, c)
    }"""
    passes = Pipeline([make_pass("fold_constants"), make_pass("clean_up")])
    return passes.run(load(onnx.parser.parse_model(text)), PassContext(check=False))[0]


def test_micro_moves_to_float_what_it_has_in_float_only() -> None:
    """EXP has no int8 kernel there: the site is lowered between DEQUANTIZE and QUANTIZE."""
    graph, _ = quantized(model(case("Exp", (2, 3))))
    ours = lower_graph(graph, io_dtype="int8")
    theirs = lower_graph(graph, io_dtype="int8", runtime="TFLite Micro")
    assert ours.notes["operators"] == {"EXP": 1}
    assert theirs.notes["operators"] == {"DEQUANTIZE": 1, "EXP": 1, "QUANTIZE": 1}
    (island,) = theirs.notes["float_islands"]
    assert island["reason"] == "EXP has no kernel for quantized int8 in TFLite Micro"


def test_survey_lists_what_runs_how_and_what_does_not() -> None:
    graph = two_unserved()
    placed, findings = survey(graph, runtime="tflite-micro")
    assert [(p.op_type, p.operators, p.stored) for p in placed] == [("Relu", ("RELU",), ("float32",))]
    assert {f.op_type for f in findings} == {"Sign", "Mod"}
    placed, findings = survey(graph)
    assert {p.op_type for p in placed} == {"Relu", "Sign", "Mod"} and not findings


def test_the_table_is_read_quickly_and_only_when_needed() -> None:
    code = (
        "import sys, time, edgecc\n"
        "assert 'edgecc.tflite.kernels' not in sys.modules\n"
        "from edgecc.tflite import kernels\n"
        "assert kernels.table.cache_info().currsize == 0\n"
        "print(len(kernels.table()['kernels']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 80
    assert len(json.dumps(kernels.table())) < 200_000
