"""What methods of compression do to fidelity, non-zero weights, multiply-accumulates and packed size.

    python benchmarks/compression.py [resnet20 resnet56 lenet_caffe efficientnet_lite0] [--method "sparsify hessian"]
    python benchmarks/compression.py --draw

Each method is a list of settings: the words of `compile` for a range of its main option. Calibration samples never
test, of the others at most 1000 do, spread evenly. The file is int8 TFLite; packed is `edgecc pack` of it; zeros are
those of its weights; time is LiteRT's, one thread, as a share of that of the int8 file without the method, in turns.
Rows replace those of the same setting in docs/charts/compression.csv; `--draw` makes the charts of docs/compression.md
from it, and from low_rank.csv beside it.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from environments import python
from latency import in_turns, tflite_runner
from networks import NETWORKS

import edgecc
from edgecc import ir
from edgecc.calibration.dataset import input_specs, open_dataset
from edgecc.importer import load
from edgecc.pack.container import pack
from edgecc.pack.weights import weight_ranges
from edgecc.runtime.ort import OrtRunner
from edgecc.verify import class_outputs, compare_all, open_candidate

CHARTS = Path(__file__).resolve().parents[1] / "docs" / "charts"
RATIOS = (0.3, 0.5, 0.7, 0.8)
# Method -> the main option as text -> words of `compile`.
METHODS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "none": {"-": {}},
    **{
        f"sparsify {criterion}": {
            f"{ratio:.0%}": {"passes": (f"sparsify:criterion={criterion},ratio={ratio}",)} for ratio in RATIOS
        }
        for criterion in ("magnitude", "gradient", "entropy", "hessian")
    },
    "sparsify hessian N:M": {p: {"passes": (f"sparsify:pattern={p}",)} for p in ("2:4", "1:4")},
    **{
        f"prune_channels {criterion}": {
            f"{most}%": {"passes": (f"prune_channels:criterion={criterion},max_macs={most}%",)}
            for most in (90, 75, 60, 40)
        }
        for criterion in ("l1", "l2", "gamma", "activation", "entropy", "gradient", "reconstruction")
    },
    "share_weights": {f"{b} bits": {"passes": (f"share_weights:bits={b}",)} for b in (5, 4, 3)},
    "deep-compression": {
        f"{t:g}": {"preset": "deep-compression", "passes": (f"sparsify:threshold={t}",)}
        for t in (0.001, 0.002, 0.005, 0.01, 0.02)
    },
}
# lenet_caffe has matrices of 800 inputs, of which a sample shows one row.
CALIBRATION = {"lenet_caffe": 1000}
COLUMNS = (
    "network", "method", "option", "float top-1", "top-1", "agreement %", "SQNR dB", "non-zero %", "MACs",
    "packed bytes", "times smaller", "time",
)  # fmt: skip
# So many samples test at most.
TESTED = 1000


def split(name: str) -> tuple[ir.Array, ir.Array, ir.Array | None]:
    network = NETWORKS[name]
    x, y = network.load()
    most = CALIBRATION.get(name, network.most)
    chosen = np.arange(0, len(x), max(network.every, len(x) // most))[:most]
    rest = np.setdiff1d(np.arange(len(x)), chosen)
    rest = rest[np.unique(np.linspace(0, len(rest) - 1, TESTED).astype(int))]
    return x[chosen], x[rest], None if y is None else y[rest]


def rows(name: str, wanted: str | None) -> Iterator[dict[str, str]]:
    """One for each setting, by column."""
    network = NETWORKS[name]
    calibration, test, labels = split(name)
    model = load(network.path, input_shape=network.input_shape or None)
    reference = OrtRunner.from_model(model, threads=1)
    data = open_dataset(test, input_specs(model), labels=labels)
    size = network.path.stat().st_size
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain.tflite"
        for method, settings in METHODS.items():
            for option, words in settings.items() if wanted in (None, method) or method == "none" else ():
                result = edgecc.compile(
                    network.path, data=calibration, precision="int8", format="tflite", threads=1,
                    no_profile=True, input_shape=network.input_shape or None, output=Path(folder) / "o", **words,
                )  # fmt: skip
                artifact = result.artifacts["tflite"]
                file = artifact.content()
                path = plain if method == "none" else Path(folder) / "made.tflite"
                path.write_bytes(file)
                candidate = open_candidate(artifact, like=reference, threads=1)
                found = compare_all(
                    reference, {"tflite": candidate}, data, classes=class_outputs(model), labels=labels
                )["tflite"]
                packed = len(pack(file).data)
                held = np.concatenate(
                    [np.frombuffer(file[a:b], np.int8) for a, b, w in weight_ranges(file) if w == 1]
                )
                time = in_turns(tflite_runner(path), tflite_runner(plain))[2]
                effects = [p.effect.macs[1] for p in result.report.passes if p.effect is not None]
                macs = effects[-1] if effects else result.report.model.macs
                figures = (
                    name, method, option, percent(found.reference_accuracy), percent(found.accuracy),
                    percent(found.agreement), f"{found.sqnr_db:.2f}", f"{100 * np.mean(held != 0):.1f}",
                    f"{macs}", f"{packed}", f"{size / packed:.1f}", f"{time:.2f}",
                )  # fmt: skip
                yield dict(zip(COLUMNS, figures, strict=True))


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def held(path: Path) -> list[dict[str, str]]:
    """The rows of a file of measurements; none where it is not there."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def keep(row: Mapping[str, str]) -> None:
    """Writes a row in place of the one of the same setting."""
    path, key = CHARTS / "compression.csv", COLUMNS[:3]
    every = {tuple(r[k] for k in key): r for r in held(path)} | {tuple(row[k] for k in key): row}
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(every.values())


def draw() -> None:
    """The charts, by matplotlib in an environment of its own."""
    script = Path(__file__).resolve().parent / "compression_charts.py"
    subprocess.run([str(python("matplotlib")), str(script), str(CHARTS)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--method", choices=tuple(METHODS))
    parser.add_argument("--draw", action="store_true", help="draw what was measured, and measure nothing")
    words = parser.parse_args()
    if words.draw:
        draw()
        return
    print("| " + " | ".join(COLUMNS) + " |")
    print("|---" * len(COLUMNS) + "|")
    for name in words.networks or ("lenet_caffe", "resnet20", "resnet56", "efficientnet_lite0"):
        for row in rows(name, words.method):
            keep(row)
            print("| " + " | ".join(row.values()) + " |", flush=True)


if __name__ == "__main__":
    main()
