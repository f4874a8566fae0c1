"""Same inputs, same bytes: artifacts, plan and manifest, in two processes whose hashes differ."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

MODELS = Path(__file__).resolve().parents[1] / "models"
TIMED = {"report.json", "report.html"}  # timings and the date live in the report alone


def compile_in_a_process(stem: str, folder: Path, seed: str, *words: str) -> dict[str, bytes]:
    command = [
        sys.executable,
        "-m",
        "edgecc.cli",
        "compile",
        str(MODELS / f"{stem}.onnx"),
        *words,
        "-o",
        str(folder),
    ]
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name not in TIMED}


@pytest.mark.parametrize("stem", ["digits_cnn", "digits_mlp"])
@pytest.mark.parametrize("precision", ["int8", "fp32", "fp16", "dynamic"])
def test_two_processes_write_the_same_bytes(tmp_path: Path, stem: str, precision: str) -> None:
    data = ("--data", str(MODELS / f"{stem}_calib.npz")) if precision == "int8" else ()
    words = ("--precision", precision, *data, "--no-profile", "--no-verify")
    first = compile_in_a_process(stem, tmp_path / "a", "1", *words)
    second = compile_in_a_process(stem, tmp_path / "b", "4242", *words)
    assert set(first) == {f"{stem}.{precision}.tflite", f"{stem}.{precision}.onnx", "manifest.json"} | (
        {"plan.json"} if precision == "int8" else set()
    )
    assert [name for name in first if first[name] != second[name]] == []


def test_verification_timing_and_threads_do_not_change_the_bytes(tmp_path: Path) -> None:
    data = ("--data", str(MODELS / "digits_mlp_calib.npz"))
    first = compile_in_a_process("digits_mlp", tmp_path / "a", "1", *data, "--no-profile", "--no-verify")
    second = compile_in_a_process("digits_mlp", tmp_path / "b", "2", *data, "--threads", "2", "--debug-quant")
    assert first == second


def test_random_data_and_percentiles_are_seeded(tmp_path: Path) -> None:
    words = ("--random-data", "--observer", "percentile", "--seed", "5", "--no-profile", "--no-verify")
    first = compile_in_a_process("digits_cnn", tmp_path / "a", "1", *words)
    assert first == compile_in_a_process("digits_cnn", tmp_path / "b", "2", *words)
