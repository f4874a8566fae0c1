"""unroll_scan: Scan and Loop as copies of their bodies."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecc.compile import lower_float
from edgecc.passes.unroll_scan import UnrollScan
from edgecc.runtime.litert import LiteRtRunner
from edgecc.runtime.ort import OrtRunner

CONSTANTS = {
    "zero": np.zeros(3, np.float32),
    "one": np.ones(3, np.float32),
    "three": np.array(3),
    "many": np.array(10**12),
    "true": np.array(True),
    "false": np.array(False),
    "start": np.array(0),
    "limit": np.array(4),
    "step": np.array(2),
}


def _parse(parse: Any, text: str) -> Any:
    used = {k: v for k, v in CONSTANTS.items() if f" {k}" in text or f"({k}" in text}
    return parse(text, 21, used)


BODY = "(float[3] a, float[3] b) => (float[3] c, float[3] d) { c = Add(a, b) d = Mul(c, b) }"
LOOP = "(int64 i, bool on, float[3] a) => (bool more, float[3] b, float[3] s)"
CASES: dict[str, str] = {
    "scan": f"""g (float[4,3] x) => (float[3] y, float[4,3] z) {{
        y, z = Scan<num_scan_inputs = 1, body = b {BODY}>(zero, x) }}""",
    "scan backwards along other axes": f"""g (float[3,4] x) => (float[3] y, float[3,4] z) {{
        y, z = Scan<num_scan_inputs = 1, scan_input_axes = [1], scan_input_directions = [1],
            scan_output_axes = [-1], scan_output_directions = [1], body = b {BODY}>(zero, x) }}""",
    "scan of two sequences without a state": """g (float[4,3] x) => (float[4,3] z) {
        w = Neg(x)
        z = Scan<num_scan_inputs = 2, body = b (float[3] a, float[3] b) => (float[3] c) { c = Mul(a, b) }>(x, w)
        }""",
    "scan that hands its state through": """g (float[4,3] x, float[3] h) => (float[3] y, float[4,3] z) {
        y, z = Scan<num_scan_inputs = 1, body = b (float[3] a, float[3] b) => (float[3] d, float[3] c)
            { d = Identity(a) c = Sub(b, a) }>(h, x) }""",
    "scan inside a scan": f"""g (float[2,4,3] x) => (float[3] y, float[2,4,3] z) {{
        y, z = Scan<num_scan_inputs = 1, body = outer (float[3] p, float[4,3] q) => (float[3] r, float[4,3] s)
            {{ r, s = Scan<num_scan_inputs = 1, body = b {BODY}>(p, q) }}>(zero, x) }}""",
    "loop": f"""g (float[3] x) => (float[3] y, float[3,3] z) {{
        y, z = Loop<body = b {LOOP} {{ more = Identity(on) b = Add(a, x) s = Mul(b, b) }}>(three, true, zero) }}""",
    "loop without a condition": f"""g (float[3] x) => (float[3] y, float[3,3] z) {{
        y, z = Loop<body = b {LOOP} {{ more = Identity(on) b = Add(a, x) s = Neg(b) }}>(three, , zero) }}""",
    "loop that counts its iterations": f"""g (float[3] x) => (float[3] y, float[n,3] z) {{
        y, z = Loop<body = b {LOOP} {{ more = Less(i, three) k = Cast<to = 1>(i) b = Add(a, k) s = Mul(b, x) }}>
            (many, true, zero) }}""",
    "loop with a counter of its own": """g (float[3] x) => (float[3] y) {
        n, y = Loop<body = b (int64 i, bool on, int64 n, float[3] a) => (bool more, int64 m, float[3] b)
            { m = Add(n, step) more = Less(m, limit) b = Add(a, x) }>( , true, start, zero) }""",
    "loop that never runs": """g (float[3] x) => (float[3] y) {
        y = Loop<body = b (int64 i, bool on, float[3] a) => (bool more, float[3] b)
            { more = Identity(on) b = Add(a, a) }>(three, false, x) }""",
    "loop with a branch a step": f"""g (float[3] x) => (float[3] y, float[3,3] z) {{
        y, z = Loop<body = b {LOOP} {{ more = Identity(on) first = Equal(i, start)
            b = If<then_branch = t () => (float[3] t) {{ t = Add(a, x) }},
                   else_branch = e () => (float[3] e) {{ e = Mul(a, x) }}>(first)
            s = Neg(b) }}>(three, true, zero) }}""",
}


@pytest.mark.parametrize("case", CASES)
def test_it_answers_as_the_loop(parse: Any, rewrite: Any, assert_same_answers: Any, case: str) -> None:
    proto = _parse(parse, CASES[case])
    result = rewrite(proto, UnrollScan())
    assert result.counts[0] >= 1, result.reasons
    assert not {n.op_type for n in result.model.graph} & {"Scan", "Loop", "If"}
    assert all(v.shape is not None for n in result.model.graph for v in n.outputs)
    assert_same_answers(proto, result.model)


def test_each_step_is_a_copy(parse: Any, rewrite: Any) -> None:
    result = rewrite(_parse(parse, CASES["scan"]), UnrollScan())
    kinds = [node.op_type for node in result.model.graph]
    assert [kinds.count(k) for k in ("Split", "Add", "Mul", "Concat")] == [1, 4, 4, 1]


NEAR_MISSES: dict[str, tuple[str, str]] = {
    "computed trip count": (
        f"""g (int64 m, float[3] x) => (float[3] y, float[n,3] z) {{
            y, z = Loop<body = b {LOOP} {{ more = Identity(on) b = Add(a, x) s = Neg(b) }}>(m, true, zero) }}""",
        "the number of its iterations is computed while running",
    ),
    "computed condition": (
        f"""g (float[3] x) => (float[3] y, float[n,3] z) {{
            y, z = Loop<body = b {LOOP} {{ b = Add(a, x) t = ReduceSum<keepdims = 0>(b) p = Cast<to = 9>(t)
                more = Not(p) s = Neg(b) }}>(three, true, zero) }}""",
        "its condition is computed while running",
    ),
    "too many": (
        f"""g (float[3] x) => (float[3] y, float[n,3] z) {{
            y, z = Loop<body = b {LOOP} {{ more = Identity(on) b = Add(a, x) s = Neg(b) }}>(many, true, zero) }}""",
        "it takes more than 10000 iterations",
    ),
}


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_near_misses_are_refused_with_a_reason(parse: Any, rewrite: Any, case: str) -> None:
    text, reason = NEAR_MISSES[case]
    result = rewrite(_parse(parse, text), UnrollScan())
    assert result.counts == [0]
    assert result.reasons == [reason]


def test_the_size_is_limited(parse: Any, rewrite: Any) -> None:
    result = rewrite(_parse(parse, CASES["scan"]), UnrollScan(max_nodes=8))
    assert result.reasons == ["its 4 steps of 2 nodes would make 9 nodes of the graph; max_nodes is 8"]


def test_a_real_network_of_a_scan(shared: Path) -> None:
    path = shared / "models" / "gru_s.onnx"
    reference = OrtRunner.from_file(path)
    random = np.random.default_rng(0)
    x = {
        s.name: random.standard_normal([d or 1 for d in s.shape]).astype(np.float32) for s in reference.inputs
    }
    got = LiteRtRunner(lower_float(path, io_layout="onnx").data).run(x)
    for name, array in reference.run(x).items():
        np.testing.assert_allclose(got[name], array, atol=1e-4)


def test_a_scan_whose_steps_choose_a_branch(parse: Any) -> None:
    proto = _parse(
        parse,
        """g (float[4,3] x) => (float[3] y, float[4,3] z) {
            y, z = Scan<num_scan_inputs = 1, body = b (float[3] a, float[3] b) => (float[3] c, float[3] d) {
                s = ReduceSum<keepdims = 0>(b) n = ReduceMax<keepdims = 0>(a) on = Greater(s, n)
                c = If<then_branch = t () => (float[3] p) { p = Add(a, b) },
                       else_branch = e () => (float[3] q) { q = Sub(a, b) }>(on)
                d = Neg(c) }>(zero, x) }""",
    )
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    got = LiteRtRunner(lower_float(proto, io_layout="onnx").data).run({"x": x})
    for name, array in OrtRunner.from_bytes(proto.SerializeToString()).run({"x": x}).items():
        np.testing.assert_allclose(got[name], array, atol=1e-5)
