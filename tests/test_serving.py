"""`inspect`: what runs in which precision, and what a target would refuse, without compiling."""

from pathlib import Path

import onnx
import pytest

import edgecc
from edgecc.importer import load
from edgecc.inspect import inspect_model, inspection_tables
from edgecc.pipeline import PassContext, Pipeline
from edgecc.presets import make_pass
from edgecc.serving import Serving, servings
from edgecc.target import target

MODELS = Path(__file__).resolve().parents[1] / "models"
BOARD = """
extends = "arm"
name = "board"
description = "a microcontroller"
formats = ["tflite"]
precisions = ["fp32", "int8"]
[runtimes]
tflite = "TFLite Micro"
"""
WEIGHTS = ",".join(str((7 * i) % 5 / 8 - 0.25) for i in range(16))
NETWORK = f"""<ir_version: 10, opset_import: ["" : 21]>
g (float[1,4,6,6] x) => (float[1,4,6,6] y, float[1,4,6,6] z) <float[4,4,1,1] w = {{{WEIGHTS}}}> {{
    c = Conv(x, w)
    e = Exp(c)
    d = Conv(e, w)
    y = Cos(d)
    z = Sign(d)
}}"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], Serving]:
    """By target, format and precision."""
    path = tmp_path_factory.mktemp("targets") / "board.toml"
    path.write_text(BOARD)
    clean = Pipeline([make_pass("clean_up")])
    floats, _ = clean.run(load(onnx.parser.parse_model(NETWORK)), PassContext(check=False))
    rows = [s for name in ("arm", str(path)) for s in servings(floats, target(name))]
    return {(s.target, s.format, s.precision): s for s in rows}


def test_every_format_and_precision_is_there(found: dict[tuple[str, str, str], Serving]) -> None:
    assert {("board", "tflite", "fp32"), ("board", "tflite", "int8")} == {k for k in found if k[0] == "board"}
    assert {"fp32", "fp16", "dynamic", "int8", "int16x8"} <= {
        k[2] for k in found if k[:2] == ("arm", "tflite")
    }
    assert ("arm", "onnx", "int16x8") not in found  # there are no kernels


def test_what_leaves_the_integers_says_why(found: dict[tuple[str, str, str], Serving]) -> None:
    nodes = {n.op_type: n for n in found["arm", "tflite", "int8"].nodes}
    weighted = "quantized int8 with quantized int8 weights (a scale a channel)"
    assert (nodes["Conv"].operators[-1], nodes["Conv"].stored) == ("CONV_2D", (weighted,))
    assert nodes["Conv"].reason == nodes["Exp"].reason == ""
    assert nodes["Cos"].stored == ("float32",)
    assert nodes["Cos"].reason == "TFLite has no integer kernel for it"
    nodes = {n.op_type: n for n in found["arm", "onnx", "int8"].nodes}
    assert nodes["Sign"].reason == "ONNX Runtime has no integer kernel for it"


def test_micro_moves_one_node_to_float_and_refuses_another(
    found: dict[tuple[str, str, str], Serving],
) -> None:
    board = found["board", "tflite", "int8"]
    assert [(f.op_type, f.reason) for f in board.findings] == [
        ("Sign", "SIGN has no kernel for float32 in TFLite Micro")
    ]
    assert {n.op_type: n.reason for n in board.nodes}["Exp"] == (
        "EXP has no kernel for quantized int8 in TFLite Micro"
    )
    assert not found["arm", "tflite", "int8"].findings


def test_it_agrees_with_compiling(tmp_path: Path) -> None:
    shown = inspect_model(MODELS / "digits_cnn.onnx", targets=("arm",))
    result = edgecc.compile(
        MODELS / "digits_cnn.onnx", precision="int8", random_data=True, format="tflite", no_profile=True,
        output=tmp_path / "out",
    )  # fmt: skip
    seen = next(s for s in shown.targets if (s.format, s.precision) == ("tflite", "int8"))
    made = dict(result.artifacts["tflite"].notes["operators"])
    ends = ("QUANTIZE", "DEQUANTIZE")
    assert {k: n for k, n in seen.operators.items() if k not in ends} == {
        k: n for k, n in made.items() if k not in ends
    }
    text = [item for item in inspection_tables(shown) if isinstance(item, str)]
    assert any(line.startswith("arm, tflite int8 runs all of it: ") for line in text)
