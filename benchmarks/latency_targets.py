"""Writes fitted rates into targets/*.toml, after the marker line, and the fit's errors with them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import latency_instructions
import latency_model as fits
import latency_rows
import numpy as np
from latency_joint import Fit
from latency_transfer import Transfer, transfers

from edgecc.analysis.latency_fit import Floats
from edgecc.analysis.workload import RATES

TARGETS = Path(__file__).resolve().parents[1] / "targets"
MARKER = "# Fitted by benchmarks/latency_model.py --write; not edited by hand."


@dataclass(frozen=True)
class Wanted:
    """A table of a target: figures of which device serve which runtime and precision."""

    runtime: str
    precision: str
    rows: str
    device: str
    board: str


def _ncnn(device: str, board: str, precision: str) -> list[Wanted]:
    return [
        Wanted("ncnn", precision, "ncnn", device, board),
        Wanted("ncnn", "int8", "ncnn", device.replace(", ", f"{latency_rows.IN_INT8}, "), board),
    ]


_PI4 = "XNNPACK README, XNNPACK arm64, RPi 4 (arm64), 4 threads"
_A76 = _ncnn("Raspberry Pi 5, Cortex-A76", "Raspberry Pi 5", "fp16")
WANTED: dict[str, list[Wanted]] = {
    "arm": _A76,
    "cortex-a76": _A76,
    "cortex-a53": [
        *_ncnn("Raspberry Pi 3B+, Cortex-A53", "Raspberry Pi 3B+", "fp32"),
    ],
    "cortex-a55": _ncnn("OrangePi CM4 RK3566, Cortex-A55", "Orange Pi CM4", "fp16"),
    "cortex-a72": [
        *_ncnn("Raspberry Pi 4B, Cortex-A72", "Raspberry Pi 4B", "fp32"),
        Wanted("LiteRT", "fp32", "tflite fp32", _PI4, "Raspberry Pi 4B"),
        Wanted("LiteRT", "int8", "tflite int8", _PI4, "Raspberry Pi 4B"),
    ],
    "android": [
        *_ncnn("Snapdragon 855+, Kryo 485 (Cortex-A76)", "Snapdragon 855+", "fp16"),
        Wanted("LiteRT", "fp32", "tflite fp32", "XNNPACK README, XNNPACK, Pixel 3a, 1 threads", "Pixel 3a"),
        Wanted("LiteRT", "int8", "tflite int8", "TFLite hosted models, TFLite CPU, Pixel 3, 4 threads", "Pixel 3"),
    ],
    **{f"cortex-{core}": [] for core in ("m4", "m7", "m33")},
}  # fmt: skip
# Target -> the level on which files are counted for it, where published figures say how fast such a core executes.
LEVELS = {"cortex-a53": "a53", "cortex-a72": "a72"}
# Whose figures serve which runtime, the first that has some on the core.
MICRO_ENGINES = {
    "TFLite Micro": ("CMSIS-NN kernels", "microTVM with CMSIS-NN"), "X-CUBE-AI": ("X-CUBE-AI",)
}  # fmt: skip


@dataclass
class Fitted:
    """A family's figures, fit and predictions of what was left out."""

    rows: list[latency_rows.Row]
    columns: fits.Columns
    found: Fit
    there: Floats
    anywhere: Floats


def fitted() -> dict[str, Fitted]:
    """Every family, by the name that `Wanted.rows` has."""
    cases = {
        "ncnn": (latency_rows.ncnn_rows(), fits.NCNN),
        "tflite fp32": (latency_rows.tflite_rows("fp32"), fits.XNNPACK),
        "tflite int8": (latency_rows.tflite_rows("int8"), fits.XNNPACK),
        "micro": (latency_rows.micro_rows(), fits.MICRO),
    }
    return {
        name: Fitted(
            rows, columns, fits.fit(rows, columns),
            fits.left_out(rows, columns, fits.folds_there(rows)),
            fits.left_out(rows, columns, fits.folds_anywhere(rows)),
        )
        for name, (rows, columns) in cases.items()
    }  # fmt: skip


def wanted(target: str, micro: list[latency_rows.Row]) -> Iterator[Wanted]:
    """The tables of a target; of a microcontroller, for each engine the board with most networks."""
    yield from WANTED[target]
    if not target.startswith("cortex-m"):
        return
    core = target.replace("cortex-m", "Cortex-M")
    for runtime, engines in MICRO_ENGINES.items():
        have = {row.family for row in micro}
        family = next((f for e in engines if (f := f"{e}, {core}") in have), None)
        devices: dict[str, set[str]] = {}
        for row in micro:
            if row.family == family:
                devices.setdefault(row.device, set()).add(row.network)
        if devices:
            device = max(devices, key=lambda d: (len(devices[d]), d))
            yield Wanted(runtime, "int8", "micro", device, device.split(", ")[1])


def table(want: Wanted, fit: Fitted, transfer: Mapping[str, Transfer]) -> str:
    """The TOML of one."""
    at = [i for i, r in enumerate(fit.rows) if r.device == want.device]
    rows = [fit.rows[i] for i in at]
    errors = [_error(fit, predicted, at) for predicted in (fit.there, fit.anywhere)]
    logs = fit.found.devices[want.device]
    each = zip(fit.columns, logs, strict=True)
    known = rows[0].cycles
    rates = {k: float(np.exp(a)) * known.get(k, 1.0) for group, a in each for k in group if k in RATES}
    threads = re.search(r"(\d) threads", want.device)
    shown = ", ".join(f"{k} = {v:.3g}" for k, v in rates.items())
    lines = [
        "[[latency]]",
        f'runtime = "{want.runtime}"',
        f'precision = "{want.precision}"',
        f'board = "{want.board}"',
        f"ghz = {rows[0].ghz}",
        f"threads = {threads[1] if threads else 1}",
        f"networks = {len({r.network for r in rows})}",
        f"error = {errors[0]:.3f}",
        f"error_new = {errors[1]:.3f}",
    ]
    if len({r.network for r in rows}) == 1:  # nothing to leave out there: what one network is worth elsewhere
        errors = [float(np.mean(abs(fits.new_device(fit.rows, fit.columns)[1])))] * 2
        lines[-2:] = [f"error = {errors[0]:.3f}", f"error_new = {errors[1]:.3f}"]
    other = transfer.get(want.precision)
    if want.runtime == "ncnn" and other is not None:
        lines.append(f"error_other = {other.error:.3f}")
        if other.gains:
            shown_as = (
                f"factor = {other.factor:.3g}, error = {other.error_with:.3f}, devices = {other.devices}"
            )
            lines.append(f"factors = {{ LiteRT = {{ {shown_as} }} }}")
    source = "published figures of " + ("ncnn's benchmark table" if want.runtime == "ncnn" else want.device)
    return "\n".join([*lines, f"rates = {{ {shown} }}", f'source = "{source}"'])


def _error(fit: Fitted, predicted: Floats, at: list[int]) -> float:
    """Mean relative error of a device; of its family where it has no figure to leave out."""
    ms = np.array([r.ms for r in fit.rows])
    errors = abs(predicted / ms - 1)
    own = errors[at][np.isfinite(errors[at])]
    return float(own.mean() if len(own) else np.nanmean(errors))


def blocks() -> dict[str, str]:
    """What belongs after the marker of each target."""
    found = fitted()
    transfer = transfers()
    made = {}
    for target in WANTED:
        tables = [table(w, found[w.rows], transfer) for w in wanted(target, found["micro"].rows)]
        if target in LEVELS:
            tables += [latency_instructions.table(p, LEVELS[target]) for p in ("fp32", "int8")]
        made[target] = "\n\n".join(tables)
    return made


def write() -> None:
    """Replaces what follows the marker in each target's file."""
    for target, block in blocks().items():
        path = TARGETS / f"{target}.toml"
        head = path.read_text(encoding="utf-8").split(MARKER)[0].rstrip()
        path.write_text(f"{head}\n\n{MARKER}\n{block}\n", encoding="utf-8")
