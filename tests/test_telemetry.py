"""ONNX Runtime reports nothing to its makers when edgecc runs it, unless the user asks for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

MODEL = Path(__file__).resolve().parents[1] / "models" / "digits_mlp.onnx"
PROGRAM = (
    "import os, sys, edgecc\n"
    "from edgecc.runtime.ort import OrtRunner\n"
    "OrtRunner.from_model(edgecc.load(sys.argv[1]))\n"
    "print(os.environ['ORT_DISABLE_TELEMETRY'])\n"
)


@pytest.mark.parametrize("asked", [None, "0"])
def test_nothing_is_reported_unless_asked_for(tmp_path: Path, asked: str | None) -> None:
    kept = {k: v for k, v in os.environ.items() if k not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")}
    words = {} if asked is None else {"ORT_DISABLE_TELEMETRY": asked}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(MODEL)],
        env={**kept, **words, "HOME": str(tmp_path)},
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.split() == [asked or "1"]
    if asked is None:  # its identifier of the device and its queue of reports
        assert not list(tmp_path.rglob("*onnxruntime*"))
