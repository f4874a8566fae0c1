"""prune_channels in float32, where channels are what time is made of: top-1, work and time in LiteRT on this machine.

    python benchmarks/pruning.py [NETWORK] [--pass TEXT ...]

128 samples calibrate; of the others every third tests. Time is LiteRT's, one thread, as a share of that of the whole
network, in turns. The target is x86-64, whose table says how many output channels a kernel computes at once.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from latency import in_turns, tflite_runner
from networks import NETWORKS

import edgecc
from edgecc.calibration.dataset import input_specs, open_dataset
from edgecc.importer import load
from edgecc.runtime.ort import OrtRunner
from edgecc.verify import class_outputs, compare_all, open_candidate

PASSES = (
    *(f"prune_channels:max_macs=70%,criterion={c}" for c in ("l2", "activation", "entropy", "gradient")),
    *(f"prune_channels:max_macs={share}%" for share in (85, 70, 60, 50)),
    *(f"prune_channels:max_latency={share}%,align=8" for share in (85, 75, 65)),
)
COLUMNS = ("network", "pass", "MACs %", "float top-1", "top-1", "agreement %", "SQNR dB", "time")
CALIBRATING = 128


def main() -> None:
    """Measures each pass on one network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", nargs="?", default="resnet56", choices=tuple(NETWORKS))
    parser.add_argument("--pass", dest="passes", action="append")
    words = parser.parse_args()
    network = NETWORKS[words.network]
    x, y = network.load()
    chosen = np.arange(0, len(x), max(1, len(x) // CALIBRATING))[:CALIBRATING]
    rest = np.setdiff1d(np.arange(len(x)), chosen)[::3]
    model = load(network.path, input_shape=network.input_shape or None)
    labels = None if y is None else y[rest]
    data = open_dataset(x[rest], input_specs(model), labels=labels)
    reference = OrtRunner.from_model(model, threads=1)
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "whole.tflite"
        for text in ("", *(words.passes or PASSES)):
            result = edgecc.compile(
                network.path, target="x86-64", data=x[chosen], precision="fp32", format="tflite", threads=1,
                no_profile=True, input_shape=network.input_shape or None, output=Path(folder) / "o",
                passes=(text,) if text else (),
            )  # fmt: skip
            artifact = result.artifacts["tflite"]
            path = Path(folder) / "made.tflite" if text else plain
            path.write_bytes(artifact.content())
            candidate = open_candidate(artifact, like=reference, threads=1)
            found = compare_all(
                reference, {"": candidate}, data, classes=class_outputs(model), labels=labels
            )[""]
            effect = next((p.effect for p in result.report.passes if p.effect is not None), None)
            macs = 100.0 if effect is None else 100 * effect.macs[1] / effect.macs[0]
            time = in_turns(tflite_runner(path), tflite_runner(plain))[2]
            shares = (found.reference_accuracy, found.accuracy, found.agreement)
            cells = ["-" if share is None else f"{100 * share:.2f}" for share in shares]
            row = (
                words.network,
                text or "none",
                f"{macs:.1f}",
                *cells,
                f"{found.sqnr_db:.2f}",
                f"{time:.2f}",
            )
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
