"""Every target: does its own runtime or tool take what edgecc compiles for it as a whole, and how faithfully?

    python benchmarks/devices.py [NETWORK ...] [--targets arm,cortex-a53] [--folder DIR]

Each network is compiled to int8 for each target. A row is a network and a target, in all its formats. Targets whose
files are equal but for the target's name in the metadata share what was checked: a check runs once for each distinct
file (and processor). With --folder, files and results are kept there: the table can be made in parts, and is printed
again at once. Ends with exit code 1 if a file is not taken as a whole.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from device_checks import Verdict, check, digest, float_products
from networks import NETWORKS, Network

import edgecc
from edgecc.errors import BudgetError
from edgecc.verify import verify

CHOSEN = ("kws_dscnn", "ic_resnet8", "mobilenet_v2_1.0")
BOARD = "nucleo-l4r5zi"  # 640 KiB of RAM: refuses what is too large


Checks = dict[str, tuple[str, ...]]


def _cortex_a(level: str) -> Checks:
    return {"tflite": ("litert", "tflite-runtime", f"emulated@{level}"), "onnx": (f"emulated@{level}",)}


def _ethos(name: str) -> Checks:
    return {"tflite": ("micro", f"vela@{name}")}


_MICRO: Checks = {"tflite": ("micro",)}
TARGETS: dict[str, Checks] = {
    "arm": _cortex_a("a76"),
    "android": _cortex_a("a76"),
    "cortex-a53": _cortex_a("a53"),
    "cortex-a55": _cortex_a("a76"),  # the instructions of an A76: dot products
    "cortex-a72": _cortex_a("a72"),
    "cortex-a76": _cortex_a("a76"),
    "x86-64": {"tflite": ("litert", "tflite-runtime"), "onnx": ("onnxruntime",)},
    "cortex-m4": _MICRO,
    "cortex-m7": _MICRO,
    "cortex-m33": _MICRO,
    "cortex-m55": _MICRO,
    "ethos-u55-128": _ethos("ethos-u55-128"),
    "ethos-u65-512": _ethos("ethos-u65-512"),
    "ethos-u85-256": _ethos("ethos-u85-256"),
}
"""Target -> format -> the checks of `device_checks.py`."""

# Test samples: for the fidelity in LiteRT and ONNX Runtime; for that in TFLite Micro, whose reference kernels are slow
# on this machine, and for tflite-runtime; for emulated processors.
SAMPLES = {"kws_dscnn": (900, 100, 4), "ic_resnet8": (1000, 50, 4), "mobilenet_v2_1.0": (200, 20, 1)}


class Bench:
    """What was compiled and found so far.

    Args:
        folder: of files and results.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._store = folder / "results.json"
        self._known: dict[str, Any] = json.loads(self._store.read_text()) if self._store.exists() else {}

    def files(self, network: Network, device: str) -> dict[str, Path]:
        """By format, compiled for the target."""
        formats = TARGETS[device]
        folder = self._folder / network.name / device
        found = {form: folder / f"{network.name}.int8.{form}" for form in formats}
        if not all(path.exists() for path in found.values()):
            edgecc.compile(
                network.path, target=device, precision="int8", format="all" if len(formats) > 1 else None,
                data=self._samples(network)[0], input_shape=network.input_shape or None, no_profile=True,
                no_verify=True, output=folder,
            )  # fmt: skip
        return found

    def fidelity(self, network: Network, form: str, micro: bool, path: Path, sha: str) -> str:
        """SQNR and agreement with the float original on test samples."""

        def measure() -> str:
            test = np.load(self._samples(network)[1], mmap_mode="r")
            count = SAMPLES[network.name][1 if micro else 0]
            chosen = np.ascontiguousarray(test[:: max(1, len(test) // count)][:count])
            found = verify(network.path, path, data=chosen, input_shape=network.input_shape or None)
            agreement = "-" if found.agreement is None else f"{100 * found.agreement:.1f} %"
            return f"{found.sqnr_db:.1f} dB, {agreement} of {found.samples}"

        return str(self._once(f"fidelity {form} {micro} {sha}", measure))

    def verdict(self, name: str, network: Network, path: Path, sha: str) -> Verdict:
        """What a check says."""

        def ask() -> dict[str, Any]:
            test = np.load(self._samples(network)[1], mmap_mode="r")
            count = SAMPLES[network.name][2 if "@" in name or name == "micro" else 1]
            feeds = {_input(network): np.ascontiguousarray(test[:count, None])}
            return asdict(check(name, path, feeds))

        return Verdict(**self._once(f"{name} {sha}", ask))

    def refusal(self, network: Network) -> str:
        """How the board answers to a network that is too large for it."""

        def ask() -> str:
            try:
                edgecc.compile(
                    network.path, target=BOARD, precision="int8", data=self._samples(network)[0],
                    no_profile=True, no_verify=True, output=self._folder / network.name / BOARD,
                )  # fmt: skip
            except BudgetError as refused:
                return f"exit {refused.exit_code}: {refused.message}"
            return "taken"

        return str(self._once(f"{BOARD} {network.name}", ask))

    def _samples(self, network: Network) -> tuple[Path, Path]:
        """Files of those that calibrate and of those that test."""
        paths = self._folder / f"{network.name}.calibration.npy", self._folder / f"{network.name}.test.npy"
        if not all(path.exists() for path in paths):
            for path, samples in zip(paths, network.split()[:2], strict=True):
                np.save(path, samples.astype(np.float32))
        return paths

    def _once(self, key: str, work: Callable[[], Any]) -> Any:
        if key not in self._known:
            self._known[key] = work()
            self._store.write_text(json.dumps(self._known, indent=1))
        return self._known[key]


def _input(network: Network) -> str:
    return next(iter(edgecc.load(network.path).graph.inputs)).name or ""


def row(bench: Bench, network: Network, device: str) -> tuple[list[str], bool]:
    """One line of the table, and whether every file was taken as a whole."""
    cells, whole = [network.name, device], True
    files = bench.files(network, device)
    for form in ("tflite", "onnx"):
        if form not in files:
            cells += ["-", "-", "-"]
            continue
        path = files[form]
        sha = digest(path)
        checks = TARGETS[device][form]
        verdicts = [bench.verdict(name, network, path, sha) for name in checks]
        whole = whole and all(v.whole for v in verdicts)
        if form == "tflite" and (left := float_products(path)):
            whole = False
            verdicts.append(Verdict(f"in float: {', '.join(left)}", whole=False))
        fidelity = bench.fidelity(network, form, "micro" in checks, path, sha)
        cells += [f"`{sha[:6]}`", fidelity, "; ".join(v.text for v in verdicts)]
    return [*cells, "yes" if whole else "**no**"], whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("networks", nargs="*", default=CHOSEN)
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--folder", type=Path)
    words = parser.parse_args()
    heads = ["network", "target"]
    for form in ("TFLite", "ONNX"):
        heads += [form, f"{form} against float", f"{form} taken by"]
    print(f"| {' | '.join([*heads, 'whole'])} |\n|{'---|' * (len(heads) + 1)}", flush=True)
    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = words.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(folder)
        for name in words.networks:
            for device in words.targets.split(","):
                cells, whole = row(bench, NETWORKS[name], device)
                failed += not whole
                print(f"| {' | '.join(cells)} |", flush=True)
        for name in words.networks:
            print(f"\n{BOARD}, {name}: {bench.refusal(NETWORKS[name])}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
