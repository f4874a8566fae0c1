"""Instructions a cycle: published latencies of LiteRT's kernels on 64-bit Arm, and counts of the same networks.

    python benchmarks/latency_instructions.py [--count]

Reads ../shared/latency_truth.csv and latency_instructions.csv; --count makes the latter anew (a minute or two a row):
each network with random weights (mobilenet_files.py), compiled to TFLite, run in the emulated LiteRT. Prints the rate
of each figure, what it is worth on a device and on a network left out, and what ncnn's rates say of the same figures.
"""

from __future__ import annotations

import csv
import re
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import latency_model as fits
import latency_rows
import numpy as np
from latency_joint import Fit

COUNTS = Path(__file__).with_name("latency_instructions.csv")
# Cores -> the level that has their instructions.
LEVELS = {"A53": "a53", "A72": "a72", "A73": "a72", "A75": "a72", "Kryo (big)": "a72"}
# XNNPACK's own figures are of its 64-bit build but for those of Raspberry Pis, which say which.
_NCNN_BOARDS = {"RPi 3+": "Raspberry Pi 3B+", "RPi 4": "Raspberry Pi 4B"}


@dataclass(frozen=True)
class Figure:
    """A published latency, as one thread would take it.

    Attributes:
        device, core: as published; level: of the emulated machine.
        network: its name. millions: of cycles. instructions: counted, millions.
        own: of a 64-bit build, whose instructions these are.
    """

    device: str
    core: str
    level: str
    network: str
    millions: float
    instructions: float
    own: bool

    @property
    def per_cycle(self) -> float:
        """Instructions."""
        return self.instructions / self.millions


@cache
def counted() -> dict[tuple[str, str, str], float]:
    """Millions of instructions by network, precision and level."""
    with COUNTS.open(encoding="utf-8") as file:
        return {
            (r["model"], r["precision"], r["level"]): int(r["instructions"]) / 1e6
            for r in csv.DictReader(file)
        }


@cache
def speedup(board: str, precision: str, threads: str) -> float:
    """How much faster several threads are than one, in ncnn's table of the same board: median over its networks."""
    one, many = (
        {
            (r.device, r.network): r.ms
            for r in latency_rows.ncnn_rows(n)
            if r.family.endswith(latency_rows.IN_INT8) == (precision == "int8")
        }
        for n in ("1", threads)
    )
    return float(np.median([one[k] / many[k] for k in many if k in one and k[0].startswith(board)]))


def figures(precision: str) -> list[Figure]:
    """XNNPACK's published figures of one thread, and of four on Raspberry Pis, which have no other."""
    found = []
    for r in latency_rows.truth():
        if r["source"] != "XNNPACK README" or r["precision"] != precision:
            continue
        level = next((LEVELS[c] for c in LEVELS if re.search(re.escape(c), r["cpu_core"])), None)
        count = counted().get((r["model"], precision, level or ""))
        device = r["device"].partition(" (")[0]
        if count is None or level is None or (device not in _NCNN_BOARDS and r["threads"] != "1"):
            continue
        ms = float(r["latency_ms"])
        if r["threads"] != "1":
            ms *= speedup(_NCNN_BOARDS[device], precision, r["threads"])
        own = r["runtime"] in ("XNNPACK", "XNNPACK arm64")
        found.append(Figure(device, r["cpu_core"], level, r["model"], ms * float(r["freq_ghz"]), count, own))
    return found


def rate(of: Iterable[Figure]) -> float:
    """Instructions a cycle: geometric mean over devices of that over figures."""
    by_device: dict[str, list[float]] = {}
    for f in of:
        by_device.setdefault(f.device, []).append(float(np.log(f.per_cycle)))
    return float(np.exp(np.mean([np.mean(logs) for logs in by_device.values()])))


def left_out(of: Sequence[Figure], by: str) -> dict[str, list[float]]:
    """Relative errors of predicted latencies on what the rate was not made of: each device, or each network."""
    found: dict[str, list[float]] = {}
    for key in sorted({getattr(f, by) for f in of}):
        others = rate(f for f in of if getattr(f, by) != key)
        found[key] = [f.per_cycle / others - 1 for f in of if getattr(f, by) == key]
    return found


def mean_error(errors: dict[str, list[float]]) -> float:
    """Mean over devices, or networks, of the mean over figures."""
    return float(np.mean([np.mean(np.abs(e)) for e in errors.values()]))


def chosen(precision: str, level: str) -> list[Figure]:
    """The figures that a target's rate is made of: of 64-bit builds at its level if two devices have some, else all."""
    every = figures(precision)
    own = [f for f in every if f.own and f.level == level]
    return own if len({f.device for f in own}) > 1 else every


def error(of: Sequence[Figure], level: str) -> float:
    """The bar: the largest of the mean errors on a device left out, on one of that level, and on a network left out."""
    devices = left_out(of, "device")
    there = {name: e for name, e in devices.items() if level in {f.level for f in of if f.device == name}}
    return max(mean_error(devices), mean_error(there), mean_error(left_out(of, "network")))


def table(precision: str, level: str) -> str:
    """The TOML that a target holds."""
    of = chosen(precision, level)
    devices = sorted({f"{f.device} ({f.core})" for f in of})
    return "\n".join(
        [
            "[[instructions]]", 'runtime = "LiteRT"', f'precision = "{precision}"', f'level = "{level}"',
            f"per_cycle = {rate(of):.3f}", f"error = {error(of, level):.3f}", f"figures = {len(of)}",
            f"devices = {len(devices)}",
            f'source = "published figures of XNNPACK on MobileNets: {", ".join(devices)}"',
        ]
    )  # fmt: skip


@cache
def _ncnn() -> Fit:
    return fits.fit(latency_rows.ncnn_rows(), fits.NCNN)


def by_ncnn(f: Figure, precision: str) -> float | None:
    """Relative error of the rates of ncnn's devices with the same core, one thread; None where there is none."""
    core = re.search(r"A\d+", f.core)
    amounts = latency_rows.named(f.network, "224x224")
    logs = [
        v for k, v in _ncnn().devices.items()
        if core and core[0] in re.findall(r"A\d+", k.rpartition(", ")[2])
        and (latency_rows.IN_INT8 in k) == (precision == "int8")
    ]  # fmt: skip
    if not logs or amounts is None:
        return None
    row = latency_rows.Row("", "", f.network, 1.0, 1.0, dict(amounts))
    millions = np.exp(np.mean([np.log(fits.matrix([row], fits.NCNN)[0] @ np.exp(v)) for v in logs]))
    return float(millions / f.millions - 1)


def count() -> None:
    """Writes latency_instructions.csv."""
    import onnx
    from mobilenet_files import NETWORKS

    import edgecc
    from edgecc.profile.emulated import seeded
    from edgecc.profile.emulation import machine
    from edgecc.profile.guest import Guest
    from edgecc.profile.tensors import ModelFile

    lines = ["model,precision,level,instructions"]
    with tempfile.TemporaryDirectory() as folder:
        for name, precision, level in sorted(counted()):
            source = Path(folder) / f"{name}.onnx"
            onnx.save(NETWORKS[name](), source)
            made = edgecc.compile(
                source, precision=cast(Any, precision), random_data=True, format="tflite", no_verify=True,
                no_profile=True, output=folder,
            ).artifacts["tflite"].path  # fmt: skip
            assert made is not None
            file = ModelFile.read(made)
            feeds = file.stored(seeded(file.runner.inputs, 1, {}))
            guest = Guest(machine(), level, file.kind, made)
            guest.run(feeds)
            lines.append(f"{name},{precision},{level},{guest.count(feeds).instructions}")
            print(lines[-1], flush=True)
    COUNTS.write_text("\n".join([*lines, ""]), encoding="utf-8")


def main() -> None:
    """Prints the tables of benchmarks/README.md; with --count, counts first."""
    if "--count" in sys.argv:
        count()
        counted.cache_clear()
    print(
        "| precision | device | network | build | instructions, M | cycles, M | a cycle | device left out | by ncnn |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for precision in ("fp32", "int8"):
        of = figures(precision)
        for f in of:
            others = rate(x for x in of if x.device != f.device)
            theirs = by_ncnn(f, precision)
            cells = [
                precision, f"{f.device}, {f.core}", f.network, "64 bits" if f.own else "32 bits",
                f"{f.instructions:.1f}", f"{f.millions:.1f}", f"{f.per_cycle:.2f}",
                f"{100 * (f.per_cycle / others - 1):+.0f} %", "-" if theirs is None else f"{100 * theirs:+.0f} %",
            ]  # fmt: skip
            print(f"| {' | '.join(cells)} |")
        for level in ("a72", "a53"):
            own = chosen(precision, level)
            told = ", ".join(
                f"{by}: {100 * mean_error(left_out(own, by)):.1f} %" for by in ("device", "network")
            )
            print(
                f"\n{precision} on {level}: {rate(own):.3f} a cycle of {len(own)} figures; left out, {told}\n"
            )


if __name__ == "__main__":
    main()
