"""Transformers in the forms that exporters write: equal to ONNX Runtime, with a batch that stays free."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from tflite_cases import assert_close
from transformer_cases import TRANSFORMERS, feeds

import edgecc
from edgecc.runtime.litert import LiteRtRunner
from edgecc.runtime.ort import OrtRunner

Make = Callable[[], onnx.ModelProto]
CASES = [pytest.param(make, most, id=make.__name__) for make, most in TRANSFORMERS.items()]


@pytest.mark.parametrize(("make", "most"), CASES)
def test_float_tflite(make: Make, most: int, tmp_path: Path) -> None:
    model = make()
    result = edgecc.compile(
        model, format="tflite", precision="fp32", no_profile=True, output=tmp_path / "out"
    )
    artifact = result.artifacts["tflite"]
    assert all(port.shape[0] == -1 for port in (*artifact.inputs, *artifact.outputs))
    assert artifact.notes["operators"].get("TRANSPOSE", 0) <= most
    runner = LiteRtRunner(artifact.data, threads=1)
    reference = OrtRunner.from_bytes(model.SerializeToString(), optimize=False)
    for batch in (1, 2, 5):
        data = feeds(model, batch)
        assert_close(runner.run(data), reference.run(data), 2e-5)
