"""inline_if: an If whose condition is computed becomes both branches and a choice."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecc.compile import lower_float
from edgecc.errors import UnsupportedError
from edgecc.importer import load
from edgecc.passes.inline_if import InlineIf
from edgecc.runtime.litert import LiteRtRunner
from edgecc.runtime.ort import OrtRunner

CONSTANTS = {
    "zero": np.float32(0).reshape(()),
    "row": np.array([0]),
    "flat": np.array([6]),
    "deep": np.array([6, 1]),
    "two": np.array(2),
}


def _parse(parse: Any, text: str) -> Any:
    used = {k: v for k, v in CONSTANTS.items() if f" {k}" in text or f"({k}" in text}
    return parse(text, 21, used)


TEST = "s = ReduceSum<keepdims = 0>(x) on = Greater(s, zero)"
CASES: dict[str, str] = {
    "plain": f"""g (float[2,3] x) => (float[2,3] y) {{ {TEST}
        y = If<then_branch = t () => (float[2,3] a) {{ a = Relu(x) }},
               else_branch = e () => (float[2,3] b) {{ b = Neg(x) }}>(on) }}""",
    "two results, one constant": f"""g (float[2,3] x) => (float[2,3] y, float z) {{ {TEST}
        y, z = If<then_branch = t () => (float[2,3] a, float c) {{ a = Relu(x) c = Identity(zero) }},
                  else_branch = e () => (float[2,3] b, float d) {{ b = Neg(x) d = ReduceMax<keepdims = 0>(x) }}>(on)
        }}""",
    "condition of one element": """g (float[2,3] x) => (float y) {
        s = ReduceSum<keepdims = 0>(x) p = Greater(s, zero) on = Unsqueeze(p, row)
        y = If<then_branch = t () => (float a) { a = Abs(s) },
               else_branch = e () => (float b) { b = Exp(s) }>(on) }""",
    "division of floats": f"""g (float[2,3] x) => (float[2,3] y) {{ {TEST}
        y = If<then_branch = t () => (float[2,3] a) {{ p = Abs(x) a = Div(x, p) }},
               else_branch = e () => (float[2,3] b) {{ b = Neg(x) }}>(on) }}""",
    "nested": f"""g (float[2,3] x) => (float[2,3] y) {{ {TEST} m = ReduceMax<keepdims = 0>(x) in = Less(m, s)
        y = If<then_branch = t () => (float[2,3] a) {{
                   a = If<then_branch = u () => (float[2,3] c) {{ c = Relu(x) }},
                          else_branch = v () => (float[2,3] d) {{ d = Sigmoid(x) }}>(in) }},
               else_branch = e () => (float[2,3] b) {{ b = Neg(x) }}>(on) }}""",
    "nested, inner one decided by shapes": f"""g (float[2,3] x) => (float[2,3] y) {{ {TEST}
        y = If<then_branch = t () => (float[2,3] a) {{ f = Flatten<axis = 0>(x) n = Size(f) w = Equal(n, two)
                   a = If<then_branch = u () => (float[2,3] c) {{ c = Relu(x) }},
                          else_branch = v () => (float[2,3] d) {{ d = Sigmoid(x) }}>(w) }},
               else_branch = e () => (float[2,3] b) {{ b = Neg(x) }}>(on) }}""",
}


@pytest.mark.parametrize("case", CASES)
def test_both_answers_are_kept(parse: Any, rewrite: Any, case: str) -> None:
    proto = _parse(parse, CASES[case])
    result = rewrite(proto, InlineIf())
    assert result.counts[0] >= 1, result.reasons
    assert "If" not in {node.op_type for node in result.model.graph}
    reference = OrtRunner.from_bytes(proto.SerializeToString(), optimize=False)
    rewritten = OrtRunner.from_model(result.model, optimize=False)
    tflite = LiteRtRunner(lower_float(proto, io_layout="onnx").data)
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    for data in (np.abs(x), -np.abs(x), x):
        expected = reference.run({"x": data})
        for got in (rewritten.run({"x": data}), tflite.run({"x": data})):
            for name, array in expected.items():
                assert got[name].shape == array.shape
                np.testing.assert_allclose(got[name], array, rtol=1e-5, atol=1e-6, err_msg=name)


NEAR_MISSES: dict[str, tuple[str, str]] = {
    "shapes": (
        f"""g (float[2,3] x) => (float[] y) {{ {TEST}
            y = If<then_branch = t () => (float[6] a) {{ a = Reshape(x, flat) }},
                   else_branch = e () => (float[6,1] b) {{ b = Reshape(x, deep) }}>(on) }}""",
        "its condition is computed while running, and its branches return different shapes for 'y': [6] and [6, 1]",
    ),
    "division": (
        f"""g (float[2,3] x, int64[3] i) => (int64[3] y) {{ {TEST}
            y = If<then_branch = t () => (int64[3] a) {{ n = Neg(i) a = Div(i, n) }},
                   else_branch = e () => (int64[3] b) {{ b = Neg(i) }}>(on) }}""",
        "its condition is computed while running, and {} (Div) may fail where its branch is not meant to run",
    ),
    "indices": (
        f"""g (float[2,3] x, int64 i) => (float[3] y) {{ {TEST}
            y = If<then_branch = t () => (float[3] a) {{ a = Gather(x, i) }},
                   else_branch = e () => (float[3] b) {{ b = ReduceMax<keepdims = 0>(x, row) }}>(on) }}""",
        "its condition is computed while running, and {} (Gather) may fail where its branch is not meant to run",
    ),
}


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_near_misses_are_refused_with_a_reason(parse: Any, rewrite: Any, case: str) -> None:
    text, reason = NEAR_MISSES[case]
    proto = _parse(parse, text)
    result = rewrite(proto, InlineIf())
    assert result.counts == [0]
    parts = reason.split("{}")
    assert len(result.reasons) == 1
    assert result.reasons[0].startswith(parts[0])
    assert result.reasons[0].endswith(parts[-1])
    with pytest.raises(UnsupportedError) as raised:  # and the message of the compiler says the same
        lower_float(proto, io_layout="onnx")
    assert result.reasons[0] in str(raised.value)
    assert raised.value.exit_code == 3


def test_the_size_is_limited(parse: Any, rewrite: Any) -> None:
    result = rewrite(_parse(parse, CASES["plain"]), InlineIf(max_nodes=4))
    assert result.reasons == [
        "its condition is computed while running, and both branches make 5 nodes; max_nodes is 4"
    ]


@pytest.mark.parametrize(("samples", "rates"), [(512, (16000,)), (256, (16000, 8000))])
def test_a_real_network_with_a_branch_for_each_rate(
    shared: Path, samples: int, rates: tuple[int, ...]
) -> None:
    """Its branch for 8 kHz takes 256 samples; on 512 it cannot run, in ONNX Runtime either."""
    path = shared / "models" / "silero_vad.onnx"
    model = load(path, input_shape={"input": [1, samples], "state": [2, 1, 128]})
    reference, runner = OrtRunner.from_file(path), LiteRtRunner(lower_float(model, io_layout="onnx").data)
    random = np.random.default_rng(0)
    for rate in rates:
        data: dict[str, Any] = {
            "input": random.standard_normal((1, samples)).astype(np.float32) / 10,
            "state": random.standard_normal((2, 1, 128)).astype(np.float32),
            "sr": np.array(rate),
        }
        got = runner.run(data)
        for name, array in reference.run(data).items():
            assert got[name].shape == array.shape
            np.testing.assert_allclose(got[name], array, atol=1e-5)
