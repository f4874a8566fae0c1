"""Profiles: rows from the runtimes' events, figures from real files, and what a failing runtime does."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from edgecc import profile
from edgecc.artifact import Artifact
from edgecc.errors import EdgeccError, UsageError
from edgecc.profile import local
from edgecc.profile.litert_profile import operators_from_litert
from edgecc.profile.local import Job, profile_all
from edgecc.profile.ort_profile import operators_from_ort, steady_mean
from edgecc.runtime import stopwatch

Parse = Callable[..., ModelProto]


def test_rows_of_onnx_runtime_keep_the_order_of_execution() -> None:
    run = [("a", "Conv", 10, "ort"), ("b", "Relu", 1, "ort"), ("c", "Conv", 5, "ort")]
    slower = [(name, kind, us + 1, source) for name, kind, us, source in run]
    rows = operators_from_ort([*run, *slower, *run, *slower])
    assert [(r.index, r.name, r.type, r.us) for r in rows] == [
        (0, "a", "Conv", 10.5),
        (1, "b", "Relu", 1.5),
        (2, "c", "Conv", 5.5),
    ]
    assert sum(r.share for r in rows) == pytest.approx(1)
    assert profile.time_by_type(rows) == {"Conv": 16.0, "Relu": 1.5}


def test_rows_of_litert_hold_delegated_and_builtin_operators_once() -> None:
    run = [
        ("invoke", 16, 120, 0),
        ("TfLiteXNNPackDelegate", 2, 100, 7),
        ("Convolution (NHWC, F32)", 8, 80, 0),
        ("Convolution (NHWC, F32)", 8, 15, 1),
        ("SOFTMAX", 2, 5, 8),
    ]
    rows = operators_from_litert(run * 3)
    assert [(r.name, r.us, r.source) for r in rows] == [
        ("Convolution (NHWC, F32) #0", 80, "xnnpack"),
        ("Convolution (NHWC, F32) #1", 15, "xnnpack"),
        ("SOFTMAX #8", 5, "builtin"),
    ]


def test_runs_that_differ_are_put_together_by_name() -> None:
    events = [("a", "If", 3, "ort"), ("b", "Conv", 4, "ort"), ("a", "If", 5, "ort")]
    assert [(r.name, r.us) for r in operators_from_ort(events)] == [("a", 4), ("b", 4)]


def test_the_mean_of_a_coarse_clock_keeps_fractions_and_drops_outliers() -> None:
    assert steady_mean([0, 1, 1, 1, 1, 1, 1, 1, 1, 1000]) == pytest.approx(8 / 9)


@pytest.mark.parametrize("threads", [1, 2])
def test_both_formats_are_measured(onnx_file: Path, tflite_file: Path, threads: int) -> None:
    found = profile_all({"onnx": Job(onnx_file), "tflite": Job(tflite_file)}, threads=threads, seconds=0.02)
    for name, runtime in (("onnx", "ONNX Runtime"), ("tflite", "LiteRT")):
        p = found[name]
        assert p.runtime == runtime
        assert p.tier == "measured here"
        assert p.threads == threads
        assert p.median_ms is not None and p.p10_ms is not None and p.p90_ms is not None
        assert 0 < p.min_ms <= p.p10_ms <= p.median_ms <= p.p90_ms
        assert p.runs >= 3
        assert p.machine
        assert p.size_bytes == (onnx_file if name == "onnx" else tflite_file).stat().st_size
        assert p.operators, p.notes
        assert p.memory_bytes is None or 0 < p.memory_bytes < 200e6
        table = p.table(limit=1)
        assert "measured here" in table
        assert "slowest 1 of" in table


def test_runs_are_as_many_as_asked_for_and_operators_can_be_left_out(onnx_file: Path) -> None:
    artifact = Artifact(onnx_file.read_bytes(), "onnx", "fp32", "arm", (), ())
    found = profile.profile_artifact(artifact, runs=5, operators=False)
    assert (found.runs, found.operators, found.notes) == (5, (), ())


def test_a_symbolic_dimension_can_be_bound(parse: Parse, tmp_path: Path) -> None:
    model = parse("g (float[N,M] x) => (float[N,M] y) { y = Relu(x) }")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    found = profile.profile_artifact(tmp_path / "m.onnx", runs=3, input_shape={"x": (4, 1000)})
    assert found.operators[0].type == "Relu"


def test_wrong_use(tmp_path: Path, onnx_file: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        profile.profile_artifact(tmp_path / "none.onnx")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UsageError, match=r"profiles \.onnx and \.tflite"):
        profile.profile_artifact(tmp_path / "a.txt")
    with pytest.raises(UsageError, match="at least 1"):
        profile.profile_artifact(onnx_file, threads=0)


def test_a_file_that_does_not_load_is_an_error_with_the_cause(tmp_path: Path, onnx_file: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"nonsense")
    with pytest.raises(EdgeccError, match=r"ONNX Runtime cannot run it: .*exit code 1"):
        profile.profile_artifact(tmp_path / "bad.onnx")
    (tmp_path / "bad.tflite").write_bytes(b"....TFL3 nonsense")
    with pytest.raises(EdgeccError, match="LiteRT does not load the file"):
        profile.profile_artifact(tmp_path / "bad.tflite")


def test_a_crash_of_the_unofficial_interface_leaves_the_interpreter(
    tflite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stopwatch is replaced by one that dies as a wild pointer would make it."""
    script = tmp_path / "stopwatch.py"
    script.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setattr(local, "_STOPWATCH", script)
    found = profile.profile_artifact(tflite_file)
    assert found.typical_ms > 0
    assert found.operators == ()
    assert "signal 11" in found.notes[0]


def test_a_stopwatch_without_operator_times_says_why(
    tflite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(stopwatch.__file__).read_text(encoding="utf-8")
    script = tmp_path / "stopwatch.py"
    script.write_text(source.replace("LiteRtStartProfiler", "LiteRtNoSuchFunction"))
    monkeypatch.setattr(local, "_STOPWATCH", script)
    found = profile.profile_artifact(tflite_file, runs=3)
    assert found.operators == ()
    assert found.memory_bytes
    assert "LiteRtNoSuchFunction" in found.notes[0]


def test_a_network_that_hangs_is_given_up(
    tflite_file: Path, onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "stopwatch.py"
    script.write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(local, "_STOPWATCH", script)
    with pytest.raises(EdgeccError, match="signal 9"):
        profile_all({"a": Job(onnx_file)}, timeout=0.3)


def test_quantiles_interpolate() -> None:
    values = [4.0, 1.0, 3.0, 2.0]
    assert [profile.quantile(values, q) for q in (0, 0.5, 1)] == [1.0, 2.5, 4.0]
    assert [profile.quantile(values, q) for q in (0.1, 0.9)] == pytest.approx(np.quantile(values, [0.1, 0.9]))


def test_what_cannot_be_measured_is_told_and_the_rest_measured(
    parse: Parse, tmp_path: Path, onnx_file: Path
) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"nonsense")
    failed: dict[str, EdgeccError] = {}
    found = profile_all({"bad": Job(bad), "good": Job(onnx_file)}, runs=3, failed=failed)
    assert set(found) == {"good"}
    assert "cannot run it" in failed["bad"].message


def test_a_later_version_of_the_file_format_is_measured(onnx_file: Path, tmp_path: Path) -> None:
    model = onnx.load(onnx_file)
    model.ir_version = onnx.IR_VERSION + 1
    onnx.save(model, tmp_path / "late.onnx")
    assert profile_all({"late": Job(tmp_path / "late.onnx")}, runs=3)["late"].runs == 3
