"""What splitting layers costs and gains: fidelity beside multiply-accumulates, size and time, for a range of ratios.

    python benchmarks/low_rank.py [NETWORK ...] [--separate] [--time]

A row an option: the float network after the pass against the float network before it (SQNR of each output, equal
answers, top-1), on samples that were not calibrated with. `ratio` is of the layers that the pass looks at, MAC of the
whole network. The ways: plain (singular values of the weights), inputs (in the metric of what layers read), onward
(and by what the layers after make of errors), in turn (and each layer fitted once those before it are split: the
default). With --time, decisions are those for the target x86-64, on which it runs, and only the default is shown,
compiled to int8: size of the TFLite file, its SQNR, and its time in
LiteRT with one thread as a share of that of the int8 file of the whole network, in turns (`latency.py`).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from latency import in_turns, tflite_runner
from networks import NETWORKS, Array

import edgecc
from edgecc import ir
from edgecc.analysis.cost import total_macs
from edgecc.importer import load
from edgecc.options import make_options
from edgecc.passes.separate_conv import SeparateConv
from edgecc.passes.split_gemm import SplitGemm
from edgecc.pipeline import Pass, PassContext, Pipeline
from edgecc.presets import float_passes
from edgecc.runtime.ort import OrtRunner

WAYS: Mapping[str, dict[str, Any]] = {
    "plain": {"weighted": False},
    "inputs": {"onward": False, "sequential": False},
    "onward": {"sequential": False},
    "in turn": {},
}
# Network -> ratios, options; what is not named has the first line.
SPLIT: Mapping[str, tuple[tuple[float, ...], dict[str, Any]]] = {
    "": ((0.75, 0.5), {}),
    "dnn_l": ((0.8, 0.65, 0.5, 0.35, 0.2), {}),
    "lenet_caffe": ((0.7, 0.5, 0.3, 0.15), {"operators": "gemm"}),
    "efficientnet_lite0": ((0.85,), {"operators": "conv", "kernels": "channel"}),
}
SEPARATE: Mapping[str, tuple[tuple[float, ...], dict[str, Any]]] = {"": ((0.75, 0.5, 0.25), {})}


class Bench:
    """One network with its samples."""

    def __init__(self, name: str, target: str) -> None:
        network, self.target = NETWORKS[name], edgecc.target(target)
        self.name, self.shapes, self.path = name, network.input_shape or None, network.path
        if name == "dnn_l":  # its inputs are random, and its layers have one place each
            self.data, self.test, self.labels = _random(2000, 7), _random(1000, 1), None
        else:
            self.data, self.test, self.labels = network.split()
        step = -(-len(self.test) // 1000)
        self.test = self.test[::step]
        self.labels = None if self.labels is None else self.labels[::step]
        model = load(self.path, input_shape=self.shapes)
        steps = float_passes(self.target, make_options({}))
        self.floats, _ = Pipeline(steps).run(model, PassContext(check=False, target=self.target))
        self.reference = _answers(self.floats, self.test)

    def row(self, step: Pass) -> list[str]:
        """MAC, parameters, SQNR, agreement, top-1."""
        context = PassContext(data=self.data, target=self.target, check=False)
        made, log = Pipeline([step]).run(self.floats, context)
        got = _answers(made, self.test)
        share = total_macs(made) / total_macs(self.floats)
        cells = [str(log.records[0].rewritten), f"{share:.2f}"]
        cells.append(f"{ir.weight_bytes(made) / ir.weight_bytes(self.floats):.2f}")
        cells.append(" ".join(f"{_sqnr(a, b):.1f}" for a, b in zip(self.reference, got, strict=True)))
        if self.labels is None:
            same = float(np.mean(self.reference[0].argmax(-1) == got[0].argmax(-1)))
            return [*cells, f"{100 * same:.1f}" if self.name == "dnn_l" else "-", "-"]
        a, b = (found[0].reshape(len(self.test), -1).argmax(1) for found in (self.reference, got))
        top = f"{100 * np.mean(b == self.labels):.2f} ({100 * np.mean(a == self.labels):.2f})"
        return [*cells, f"{100 * np.mean(a == b):.1f}", top]

    def timed(self, step: Pass | None, folder: Path) -> tuple[int, float, Any]:
        """Size of the int8 file, its SQNR, and its runner."""
        result = edgecc.compile(
            self.path, precision="int8", format="tflite", data=self.data[:200], eval_data=self.test[:200],
            target=self.target.name, passes=() if step is None else (step,), input_shape=self.shapes,
            no_profile=True, output=folder,
        )  # fmt: skip
        artifact = result.artifacts["tflite"]
        assert artifact.path is not None
        assert result.fidelity is not None
        return artifact.size, result.fidelity.sqnr_db, tflite_runner(artifact.path)


def _random(count: int, seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal((count, 250)).astype(np.float32)


def _answers(model: ir.Model, test: Array) -> list[Array]:
    runner = OrtRunner.from_model(model)
    name = runner.inputs[0].name
    rows = [list(runner.run({name: sample[None]}).values()) for sample in test]
    return [np.concatenate(column) for column in zip(*rows, strict=True)]


def _sqnr(a: Array, b: Array) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(10 * np.log10((a**2).sum() / max(float(((a - b) ** 2).sum()), 1e-30)))


def run(name: str, kind: type[SplitGemm | SeparateConv], *, timed: bool) -> None:
    """The rows of one network."""
    bench = Bench(name, "x86-64" if timed else "arm")
    table = SPLIT if kind is SplitGemm else SEPARATE
    ratios, options = table.get(name, table[""])
    with tempfile.TemporaryDirectory() as scratch:
        whole = bench.timed(None, Path(scratch) / "whole") if timed else None
        for ratio in ratios:
            for way, chosen in WAYS.items():
                if timed and way != "in turn":
                    continue
                step = kind(ratio=ratio, **options, **chosen)
                cells = [f"{ratio:g}", way, *bench.row(step)]
                if whole is not None:
                    size, sqnr, runner = bench.timed(step, Path(scratch) / f"{ratio}")
                    _, _, share = in_turns(runner, whole[2])
                    cells += [f"{size / whole[0]:.2f}", f"{sqnr:.1f} ({whole[1]:.1f})", f"{share:.2f}"]
                print("| " + " | ".join(cells + ["-"] * (11 - len(cells))) + " |", flush=True)


def main() -> None:
    words = sys.argv[1:]
    kind: type[SplitGemm | SeparateConv] = SeparateConv if "--separate" in words else SplitGemm
    names = [word for word in words if not word.startswith("-")]
    for name in names or ["dnn_l", "lenet_caffe", "resnet20", "mtcnn_onet", "efficientnet_lite0"]:
        print(f"\n{name}, {kind.name}\n")
        print(
            "| ratio | way | split | MAC | weights | SQNR dB | agree % | top-1 | int8 size | int8 dB | time |"
        )
        print("|" + "---|" * 11)
        run(name, kind, timed="--time" in words)


if __name__ == "__main__":
    main()
