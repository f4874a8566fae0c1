"""Published latencies as rows of a fit: which device, whose kernels, which network, and what that computes."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import latency_counts
import mobilenets

from edgecc.analysis.workload import RATES, layers_of, total_amounts

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[1] / "shared"


@dataclass(frozen=True)
class Row:
    """A published figure.

    Attributes:
        amounts: that rates are multiplied by.
        cycles: that one of an amount is known to need: its rate is fitted as a multiple of them.
    """

    device: str
    family: str
    network: str
    ms: float
    ghz: float
    amounts: dict[str, float]
    cycles: Mapping[str, float] = field(default_factory=dict)

    @property
    def board(self) -> str:
        """The device whatever the precision."""
        return self.device.replace(IN_INT8, "")


IN_INT8 = " in int8"
"""What ncnn's devices and families are called beside, so that they are others in int8."""


def truth() -> list[dict[str, str]]:
    with (SHARED / "latency_truth.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@cache
def networks() -> dict[str, dict[str, float]]:
    """What each network computes, by the names of ncnn's benchmark."""
    with (HERE / "latency_networks.csv").open(encoding="utf-8") as file:
        return {r["model"]: {k: float(r[k]) for k in RATES} for r in csv.DictReader(file)}


@cache
def named(model: str, size: str, live: bool = False) -> tuple[tuple[str, float], ...] | None:
    """What a network of the other tables computes; None where its graph is not at hand; `live`: without channels whose
    filters are zero."""
    tiny = {"ic_resnet8": "ic_resnet8", "kws_dscnn": "kws_dscnn", "ad_autoencoder": "ad_ae_from_tflite"}
    for name, file in {
        **{f"mlperf_tiny_{k}": v for k, v in tiny.items()},
        "efficientnet-lite0": "efficientnet_lite0",
    }.items():
        if model == name:
            from edgecc.importer import load

            return tuple(total_amounts(layers_of(load(SHARED / "models" / f"{file}.onnx"))).items())
    if model == "mlperf_tiny_vww_mbv1_0.25":
        outs = mobilenets.VWW_LIVE if live else None
        return tuple(total_amounts(mobilenets.v1(0.25, 96, 2, outs=outs)).items())
    match = re.fullmatch(r"mobilenet_v([12])_([\d.]+)(_gray|_flowers)?", model)
    if match:
        width, pixels = float(match[2]), int(size.split("x", maxsplit=1)[0])
        if match[1] == "1":
            made = mobilenets.v1(width, pixels, 5 if match[3] else 1000, 1 if match[3] == "_gray" else 3)
        else:
            made = mobilenets.v2(width, pixels, 5 if match[3] else 1000)
        return tuple(total_amounts(made).items())
    known = {"mobilenet_v3_large_1.0": "mobilenet_v3"}.get(model)
    return tuple(networks()[known].items()) if known and size == "224x224" else None


def core_class(core: str) -> str:
    """Cores whose kernels are alike: in order, in order with fp16, out of order with and without fp16."""
    if re.search(r"A55", core):
        return "in order, fp16"
    if re.search(r"A(53|7|17)\b", core):
        return "in order"
    return "out of order" if re.search(r"A(57|72|73)\b", core) else "out of order, fp16"


def _row(r: dict[str, str], device: str, family: str, network: str, amounts: dict[str, float]) -> Row:
    return Row(device, family, network, float(r["latency_ms"]), float(r["freq_ghz"]), amounts)


ODD_BEFORE = "conv3x3_odd_before"
"""Of `conv3x3_odd`, what ran in int8 kernels of before December 2023 on a core with dot products."""

# Entered into ncnn's table before December 2023 (the history of its benchmark/README.md). Until then int8 convolutions
# whose channels fill no pack of 4 or 8 had no kernels with dot products (ncnn's pull requests 5016, 5087 and 5147).
_BEFORE_DECEMBER_2023 = frozenset({
    "MacBook Pro M1", "Station P2 RK3568", "Jetson AGX Orin", "RK3588", "Station-M2 RK3566", "Snapdragon 8 Gen 2",
})  # fmt: skip


def ncnn_rows(threads: str = "1") -> list[Row]:
    """ncnn's table: a device is two, one of float figures, and one of int8."""
    found = []
    for r in truth():
        if (r["runtime"], r["threads"]) == ("ncnn", threads) and r["model"] in networks():
            suffix = IN_INT8 if r["precision"] == "int8" else ""
            device, family = f"{r['device']}{suffix}, {r['cpu_core']}", core_class(r["cpu_core"]) + suffix
            found.append(_row(r, device, family, r["model"], _ncnn_amounts(r)))
    return found


def _ncnn_amounts(r: dict[str, str]) -> dict[str, float]:
    found = networks()[r["model"]] | {ODD_BEFORE: 0.0}
    if r["precision"] == "int8" and r["device"] in _BEFORE_DECEMBER_2023:
        found |= {ODD_BEFORE: found["conv3x3_odd"], "conv3x3_odd": 0.0}
    return found


def tflite_rows(precision: str) -> list[Row]:
    """TFLite and XNNPACK: every source and number of threads is a group of its own."""
    return [row for r, row in tflite_figures(precision) if not r["runtime"].startswith("TFLite 2")]


def tflite_figures(precision: str) -> list[tuple[dict[str, str], Row]]:
    """All of TFLite and XNNPACK whose networks are known, as published and as rows."""
    found = []
    for r in truth():
        same = {"uint8": "int8"}.get(r["precision"], r["precision"]) == precision
        amounts = named(r["model"], r["input"]) if same and re.match("TFLite|XNNPACK", r["runtime"]) else None
        if amounts:
            group = f"{r['source']}, {r['runtime']}, {r['device']}, {r['threads']} threads"
            found.append((r, _row(r, group, "tflite", f"{r['model']} {r['input']}", dict(amounts))))
    return found


# Whose kernels, by the first pattern that is found. Nuvoton's entry names TFLM; its system file and code are ONNC's.
MICRO_RUNTIMES = {
    "ONNC|Nuvoton": "Skymizer ONNC", "tvm.*cmsis": "microTVM with CMSIS-NN", "tvm": "microTVM",
    "TFLM": "CMSIS-NN kernels", "X-CUBE|Cube.AI": "X-CUBE-AI", "plumerai": "Plumerai", "bosch": "Bosch",
}  # fmt: skip
# Engines that do not compute channels whose filters are zero, and since which round of MLPerf Tiny (README.md: why).
SKIP_ZERO_CHANNELS = {
    "Skymizer ONNC": "MLPerf Tiny v1.1", "X-CUBE-AI": "MLPerf Tiny v1.1", "Plumerai": "MLPerf Tiny v1.1",
}  # fmt: skip
_OLDER = re.compile(r"X-CUBE-AI-(7|8\.0)")  # an entry of v1.1 that names an older release of X-CUBE-AI


def _engine(r: dict[str, str]) -> str | None:
    """Vector extensions (MVE) make other kernels of the same name."""
    found = next((name for key, name in MICRO_RUNTIMES.items() if re.search(key, r["runtime"], re.I)), None)
    return f"{found} with MVE" if found and "MVE" in r["cpu_core"] else found


def micro_rows() -> list[Row]:
    """MLPerf Tiny and the STM32 zoo; accelerators beside the core are left out."""
    found = []
    for r in truth():
        tiny = r["source"].startswith("MLPerf Tiny") or r["source"] == "STM32 model zoo"
        micro = "accel" not in r["cpu_core"] and r["cpu_core"].partition("-")[2].startswith("M")
        engine = _engine(r)
        if not tiny or not micro or r["precision"] != "int8" or engine is None:
            continue
        live = r["source"] >= SKIP_ZERO_CHANNELS.get(engine, "~") and not _OLDER.search(r["runtime"])
        amounts = named(r["model"], r["input"], live)
        if amounts:
            device = f"{engine}, {r['device']}, {r['runtime']}, {r['source']}"
            row = _row(r, device, f"{engine}, {r['cpu_core']}", r["model"], dict(amounts))
            found.append(replace(row, cycles=latency_counts.cycles(engine)))
    return found
