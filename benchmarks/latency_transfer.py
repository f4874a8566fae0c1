"""What ncnn's rates are worth for TFLite, and the factor from one to the other."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import latency_model as fits
import latency_rows
import numpy as np

_CORE = re.compile(r"A\d+")
_NARROW = re.compile(r"armv[67]$")  # XNNPACK's 32-bit figures; of 64-bit cores ncnn's are of 64 bits


FEWEST = 5
"""Devices that a factor is taken from: the error of one left out of fewer says little."""


@dataclass(frozen=True)
class Transfer:
    """From ncnn's rates to TFLite's figures in a precision.

    Attributes:
        devices: that have figures of TFLite on a core of ncnn's.
        error: mean relative error of the rates as they are, a mean over devices.
        factor: that TFLite's figures are of the rates' predictions, the geometric mean over devices.
        error_with: likewise with the factor of all other devices; nan of one device, which has no others.
    """

    devices: int
    error: float
    factor: float
    error_with: float

    @property
    def gains(self) -> bool:
        """Whether the factor helps devices that it was not taken from, and enough of them say so."""
        return self.devices >= FEWEST and self.error_with < self.error


def ratios() -> dict[str, dict[str, list[float]]]:
    """What ncnn's rates predict, divided by TFLite's figure: of each precision and device.

    A figure is predicted by the rates of each ncnn device with that core, at its own clock (geometric mean), with as
    many threads and of the same instruction set. Nothing of TFLite is fitted, so that every device is one left out. Of
    cores with fp16 arithmetic ncnn's float figures are fp16, TFLite's float32: that is the transfer of fp16.
    """
    made: dict[str, dict[str, list[float]]] = {"fp32": {}, "fp16": {}, "int8": {}}
    found = {n: fits.fit(latency_rows.ncnn_rows(n), fits.NCNN) for n in ("1", "2", "4")}
    for precision in ("fp32", "int8"):
        for r, row in latency_rows.tflite_figures(precision):
            core = _CORE.search(r["cpu_core"])
            if core is None or r["threads"] not in found:
                continue
            if _NARROW.search(r["runtime"]) and core[0] != "A7":
                continue
            rates = [
                log for name, log in found[r["threads"]].devices.items()
                if core[0] in _CORE.findall(name.rpartition(", ")[2])
                and (latency_rows.IN_INT8 in name) == (precision == "int8")
            ]  # fmt: skip
            if rates:
                amounts = fits.matrix([row], fits.NCNN)[0]
                ms = np.exp(np.mean([np.log(amounts @ np.exp(log)) for log in rates]))
                half = "fp16" in latency_rows.core_class(r["cpu_core"]) and precision == "fp32"
                device = r["device"].partition(" (")[0]
                made["fp16" if half else precision].setdefault(device, []).append(float(ms / row.ms))
    return made


def transfer(of: Mapping[str, list[float]]) -> Transfer:
    """Of one precision's `ratios`."""
    logs = {device: float(np.mean(np.log(each))) for device, each in of.items()}
    plain = [np.mean(abs(np.array(each) - 1)) for each in of.values()]
    with_factor = [
        np.mean(abs(np.array(each) * np.exp(-np.mean([x for d, x in logs.items() if d != device])) - 1))
        for device, each in of.items()
    ] if len(of) > 1 else [np.nan]  # fmt: skip
    return Transfer(
        len(of), float(np.mean(plain)), float(np.exp(-np.mean(list(logs.values())))), float(np.mean(with_factor))
    )  # fmt: skip


def transfers() -> dict[str, Transfer]:
    """Of each precision; prints them."""
    found = {}
    for precision, of in ratios().items():
        found[precision] = t = transfer(of)
        every = ", ".join(
            f"{d} {len(e)}: {np.mean(abs(np.array(e) - 1)):.3f}, {np.exp(np.mean(np.log(e))):.2f}"
            for d, e in of.items()
        )
        print(
            f"transfer from ncnn, {precision}: {t.error:.3f}; times {t.factor:.3f} {t.error_with:.3f} ({every})"
        )
    return found
