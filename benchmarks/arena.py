"""The arena of TFLite Micro: predicted when a network is compiled, and as the runtime reads it back.

    python benchmarks/arena.py [NETWORK ...]

Every network of models/ and ../shared/models in int8, float32 and int16x8, calibrated on random data: the ranges do not
matter here. Ends with exit code 1 if a prediction is off by more than 5 %.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from networks import NETWORKS, SHARED

import edgecc
from edgecc.analysis.memory import predict
from edgecc.analysis.micro_kernels import HOST, Machine
from edgecc.errors import EdgeccError
from edgecc.runtime.tflm import MicroRunner
from edgecc.tflite.flat import read_network

MODELS = Path(__file__).resolve().parents[1] / "models"
PRECISIONS = ("int8", "fp32", "int16x8")
LIMIT = 0.05
# Of networks whose inputs leave more open than the batch, where networks.py does not say.
_SHAPES = {"silero_vad": {"input": (1, 512), "state": (2, 1, 128)}}
_TITLES = (
    "network",
    "precision",
    "read back",
    "predicted",
    "error",
    "head",
    "Cortex-M4",
    "Cortex-M55",
    "order",
)


def row(path: Path, precision: Any) -> tuple[list[str], float] | str:
    """A line of the table and the relative error; why there is none."""
    known = NETWORKS.get(path.stem)
    shape: Any = known.input_shape if known else _SHAPES.get(path.stem, {})
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = edgecc.compile(
                path, target="cortex-m4", precision=precision, random_data=precision != "fp32", no_verify=True,
                no_profile=True, output=f"{folder}/out", input_shape=shape,
            )  # fmt: skip
            artifact = result.artifacts["tflite"]
            data = artifact.data
            found = MicroRunner(data).arena_bytes
        except EdgeccError as refused:
            return str(refused).splitlines()[-1].strip()
    assert found is not None
    network = read_network(data)
    here = predict(network, HOST)
    error = (here.used - found) / found
    dsp, mve = (predict(network, Machine(4, kind)).arena for kind in ("dsp", "mve"))
    before = artifact.notes.get("reordered")
    order = "kept" if before is None else f"{100 * (before[1] / before[0] - 1):.0f} %"
    sizes = [f"{n:,}" for n in (found, here.used)]
    return [
        path.stem,
        precision,
        *sizes,
        f"{100 * error:.2f} %",
        f"{here.head:,}",
        f"{dsp:,}",
        f"{mve:,}",
        order,
    ], error


def main(names: Sequence[str]) -> int:
    """Prints the table."""
    paths = [*sorted(MODELS.glob("*.onnx")), *sorted((SHARED / "models").glob("*.onnx"))]
    worst, refused = 0.0, []
    print(f"| {' | '.join(_TITLES)} |\n|{'---|' * len(_TITLES)}")
    for path in paths:
        if names and path.stem not in names:
            continue
        for precision in PRECISIONS:
            made = row(path, precision)
            if isinstance(made, str):
                refused.append(f"{path.stem} {precision}: {made}")
                continue
            print(f"| {' | '.join(made[0])} |", flush=True)
            worst = max(worst, abs(made[1]))
    print(f"\nlargest error: {100 * worst:.2f} %")
    print(*(f"not run: {text}" for text in refused), sep="\n")
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
