"""Float TFLite of transformers: equal to ONNX Runtime at several batches, few Transposes; onnx2tf beside it.

    python benchmarks/transformers.py [NETWORK ...]

The networks are those that the tests make (tests/transformer_cases.py: small, random weights, in the forms of many
exporters) and models/digits_vit.onnx. onnx2tf gets a batch of 1, as its files fix it; files with operators of
TensorFlow count as none. Ends with exit code 1 if an
answer differs by more than 1e-4 of its range or if onnx2tf's file has fewer Transposes.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from float_networks import onnx2tf_operators, operators

import edgecc
from edgecc.runtime.litert import LiteRtRunner
from edgecc.runtime.ort import OrtRunner

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from transformer_cases import TRANSFORMERS, feeds  # noqa: E402

LIMIT = 1e-4
BATCHES = (1, 2, 5)


def networks() -> dict[str, onnx.ModelProto]:
    """Every network by name."""
    made = {make.__name__: make() for make in TRANSFORMERS}
    return {"digits_vit": onnx.load(ROOT / "models" / "digits_vit.onnx"), **made}


def error(model: onnx.ModelProto, data: bytes) -> float:
    """Largest difference from ONNX Runtime as a fraction of the output's largest magnitude, over all batches."""
    reference, runner = OrtRunner.from_bytes(model.SerializeToString()), LiteRtRunner(data)
    worst = 0.0
    for batch in BATCHES:
        inputs = feeds(model, batch)
        got: dict[str, Any] = runner.run(inputs)
        for name, array in reference.run(inputs).items():
            worst = max(worst, float(np.abs(got[name] - array).max() / np.abs(array).max()))
    return worst


def measure(name: str, model: onnx.ModelProto) -> bool:
    """Prints the row of one network."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        path = folder / f"{name}.onnx"
        onnx.save(onnx.shape_inference.infer_shapes(model), path)
        result = edgecc.compile(
            path, format="tflite", precision="fp32", no_verify=True, no_profile=True, output=folder / "out"
        )
        artifact = result.artifacts["tflite"]
        assert artifact.path is not None
        mine, theirs = operators(artifact.path), onnx2tf_operators(path, {}, folder / "peer", batch=1)
        found = error(model, artifact.data)
    if theirs is not None and theirs["CUSTOM"]:
        theirs = None  # an operator of TensorFlow, which no TFLite runtime has
    good = found <= LIMIT and (theirs is None or mine["TRANSPOSE"] <= theirs["TRANSPOSE"])
    given = sum(node.op_type == "Transpose" for node in model.graph.node)
    cells = [
        name, f"{found:.1e}", str(given), str(mine.total()), str(mine["TRANSPOSE"]),
        "-" if theirs is None else str(theirs.total()), "-" if theirs is None else str(theirs["TRANSPOSE"]),
        "yes" if good else "NO",
    ]  # fmt: skip
    print("| " + " | ".join(cells) + " |", flush=True)
    return good


def main() -> None:
    """Measures the networks named on the command line, or all."""
    print(
        "| network | error of range | Transposes in ONNX | operators | Transposes"
        " | onnx2tf: operators | Transposes | as wanted |"
    )
    print("|---|---|---|---|---|---|---|---|")
    found = networks()
    good = [measure(name, found[name]) for name in sys.argv[1:] or found]
    if not all(good):
        sys.exit(1)


if __name__ == "__main__":
    main()
