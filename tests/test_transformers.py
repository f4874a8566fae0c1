"""Transformers in the forms that exporters write: equal to ONNX Runtime, with a batch that stays free."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

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


MODELS = Path(__file__).resolve().parents[1] / "models"


@pytest.mark.parametrize("form", ["tflite", "onnx"])
@pytest.mark.parametrize(("precision", "least"), [("fp16", 40), ("dynamic", 25), ("int8", 25)])
def test_trained_vit(form: Any, precision: Any, least: float, tmp_path: Path) -> None:
    """In every precision: right as often as the original, norms in real numbers."""
    result = edgecc.compile(
        MODELS / "digits_vit.onnx", format=form, precision=precision, data=MODELS / "digits_vit_calib.npz",
        eval_data=MODELS / "digits_vit_test.npz", no_profile=True, output=tmp_path / "out",
    )  # fmt: skip
    assert result.fidelity is not None
    logits = result.fidelity.outputs[0]
    assert logits.agreement is not None
    assert logits.accuracy is not None
    assert logits.agreement >= 0.99
    assert logits.accuracy >= 0.977
    assert logits.sqnr_db >= least
    notes = result.artifacts[form].notes
    if precision == "int8":
        kinds = [island["op_type"] for island in notes["float_islands"]]
        assert kinds.count("LayerNormalization") == 7
        assert not {"ReduceMean", "Sqrt", "Div", "Erf"} & set(kinds)
    if form == "tflite":
        assert notes["operators"]["TRANSPOSE"] <= 6
        assert notes["operators"]["GELU"] == 3
        data = feeds(onnx.load(MODELS / "digits_vit.onnx"), 5)
        answers = LiteRtRunner(result.artifacts["tflite"].data, threads=1).run(data)
        assert answers["logits"].shape == (5, 10)
