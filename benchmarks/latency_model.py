"""Fits latency models to published figures, and tells how they do on what they were not fitted to.

    python benchmarks/latency_model.py [--write]

Reads ../shared/latency_truth.csv and benchmarks/latency_networks.csv (what public networks compute, see
ncnn_layers.py); --write puts the fitted rates into targets/*.toml. Errors are of networks left out, a runtime
family at a time: "there" means that the network is unknown on that device but may be known on others, "anywhere"
that no device has it.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import mobilenets
import numpy as np
from scipy.stats import spearmanr

from edgecc.analysis.latency_fit import STRENGTH, Floats, posterior
from edgecc.analysis.workload import RATES, layers_of, total_amounts

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[1] / "shared"
FAMILY_STRENGTH = 3.0
ROUNDS = 60

# Columns of the fit, each of several rates: what the figures cannot tell apart. First guess: cycles each.
NCNN = {
    ("conv1x1", "fc"): 0.3, ("conv3x3",): 0.15, ("conv", "conv3x3_odd"): 0.4, ("depthwise",): 0.7, ("grouped",): 0.7,
    ("moved",): 0.8, ("conv3x3_moved",): 3.0, ("depthwise_moved",): 0.8, ("exp_moved",): 12.0, ("power_moved",): 40.0,
    ("weights",): 1.5, ("layers",): 3e4,
}  # fmt: skip
# In int8 odd channels take the same kernels.
NCNN_INT8 = {
    ("conv3x3", "conv3x3_odd") if "conv3x3" in k else ("conv",) if "conv" in k else k: v
    for k, v in NCNN.items()
}
XNNPACK = {
    ("conv1x1", "conv3x3", "conv3x3_odd", "conv", "grouped"): 0.3, ("depthwise",): 0.7,
    ("moved", "conv3x3_moved", "depthwise_moved", "exp_moved", "power_moved"): 0.8, ("weights", "fc"): 0.8, ("layers",): 2e4,
}  # fmt: skip
MICRO = {
    ("conv1x1", "conv3x3", "conv3x3_odd", "conv", "grouped"): 1.0, ("depthwise",): 3.0, ("fc",): 2.0,
    ("written",): 10.0, ("moved", "conv3x3_moved", "depthwise_moved", "exp_moved", "power_moved"): 1.5,
    ("layers",): 1e3,
}  # fmt: skip
Columns = dict[tuple[str, ...], float]


@dataclass(frozen=True)
class Row:
    """A published figure."""

    device: str
    family: str
    network: str
    ms: float
    ghz: float
    amounts: dict[str, float]


@dataclass
class Fit:
    """Logarithms of rates: a row a device, a family, and of all."""

    devices: dict[str, Floats]
    families: dict[str, Floats]
    all: Floats


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


def ncnn_rows(precision: str, threads: str = "1") -> list[Row]:
    return [
        Row(f"{r['device']}, {r['cpu_core']}", core_class(r["cpu_core"]), r["model"], float(r["latency_ms"]),
            float(r["freq_ghz"]), networks()[r["model"]])
        for r in truth()
        if (r["runtime"], r["precision"], r["threads"]) == ("ncnn", precision, threads) and r["model"] in networks()
    ]  # fmt: skip


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


# Whose kernels, by the first pattern that is found. Nuvoton's entry names TFLM; its system file and its code are ONNC's.
MICRO_RUNTIMES = {
    "ONNC|Nuvoton": "Skymizer ONNC", "tvm.*cmsis": "microTVM with CMSIS-NN", "tvm": "microTVM", "TFLM": "CMSIS-NN kernels",
    "X-CUBE|Cube.AI": "X-CUBE-AI", "plumerai": "Plumerai", "bosch": "Bosch",
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
            found.append(_row(r, device, f"{engine}, {r['cpu_core']}", r["model"], dict(amounts)))
    return found


def matrix(rows: Iterable[Row], columns: Columns) -> Floats:
    """(rows, columns) milliseconds a cycle of each rate."""
    return np.array([[sum(r.amounts[k] for k in group) / (r.ghz * 1e6) for group in columns] for r in rows])


def fit(rows: list[Row], columns: Columns, start: Fit | None = None, strength: float = STRENGTH) -> Fit:
    """Rates of every device, towards the mean of its family, towards the mean of all."""
    guess = np.log(np.array(list(columns.values())))
    amounts, ms = matrix(rows, columns), np.array([r.ms for r in rows])
    family_of = {r.device: r.family for r in rows}
    at = {d: np.array([i for i, r in enumerate(rows) if r.device == d]) for d in family_of}
    families = {f: guess.copy() for f in family_of.values()} if start is None else dict(start.families)
    devices = {d: families[f].copy() if start is None else start.devices[d] for d, f in family_of.items()}
    everything = guess.copy() if start is None else start.all
    for _ in range(ROUNDS):
        for d, i in at.items():
            devices[d] = posterior(
                amounts[i], ms[i], families[family_of[d]], strength=strength, start=devices[d], rounds=2
            )
        for f in families:
            members = [devices[d] for d in at if family_of[d] == f]
            shapes = sum((a - (a - families[f]).mean() for a in members), np.zeros(len(guess)))
            families[f] = (strength * shapes + FAMILY_STRENGTH * everything) / (
                strength * len(members) + FAMILY_STRENGTH
            )
        everything = (FAMILY_STRENGTH * sum(families.values()) + 0.03 * guess) / (
            FAMILY_STRENGTH * len(families) + 0.03
        )
    return Fit(devices, families, everything)


def predict(found: Fit, rows: list[Row], columns: Columns) -> Floats:
    return np.array(
        [a @ np.exp(found.devices[r.device]) for a, r in zip(matrix(rows, columns), rows, strict=True)]
    )


def left_out(rows: list[Row], columns: Columns, folds: list[set[int]]) -> Floats:
    """Predictions of each fold by a fit to the others; nan where the device has no other row."""
    full = fit(rows, columns)
    found = np.full(len(rows), np.nan)
    for fold in folds:
        kept = [r for i, r in enumerate(rows) if i not in fold]
        known = {r.device for r in kept}
        asked = [i for i in sorted(fold) if rows[i].device in known]
        if asked:
            found[asked] = predict(fit(kept, columns, full), [rows[i] for i in asked], columns)
    return found


def folds_there(rows: list[Row]) -> list[set[int]]:
    """Twenty random folds of (device, network) pairs."""
    pairs = sorted({(r.device, r.network) for r in rows})
    drawn = dict(zip(pairs, np.random.default_rng(0).permutation(len(pairs)) % 20, strict=True))
    return [{i for i, r in enumerate(rows) if drawn[r.device, r.network] == f} for f in range(20)]


def folds_anywhere(rows: list[Row]) -> list[set[int]]:
    return [{i for i, r in enumerate(rows) if r.network == n} for n in sorted({r.network for r in rows})]


def ranks(rows: list[Row], predicted: Floats) -> list[float]:
    """Spearman's correlation of each device with four figures or more."""
    found = []
    for device in sorted({r.device for r in rows}):
        i = [k for k, r in enumerate(rows) if r.device == device and np.isfinite(predicted[k])]
        if len(i) >= 4:
            found.append(float(spearmanr(predicted[i], [rows[k].ms for k in i])[0]))
    return found


def summary(rows: list[Row], predicted: Floats) -> str:
    ms = np.array([r.ms for r in rows])
    known = np.isfinite(predicted)
    error = abs(predicted[known] / ms[known] - 1)
    rank = ranks(rows, predicted)
    told = f"{np.median(rank):.3f} ({min(rank):.3f})" if rank else "-"
    shares = (
        f"{100 * error.mean():.1f} % | {100 * np.median(error):.1f} % | {100 * (error < 0.2).mean():.0f} %"
    )
    return f"{known.sum()} | {shares} | {told}"


def new_device(rows: list[Row], columns: Columns) -> tuple[Floats, Floats]:
    """Relative errors on a device that was not fitted: from the clock alone, and with one measured network."""
    full, clock, one = fit(rows, columns), [], []
    for device in sorted({r.device for r in rows}):
        own = [r for r in rows if r.device == device]
        others = [r for r in rows if r.device != device]
        if own[0].family not in {r.family for r in others} or len(own) < 3:
            continue
        found = fit(others, columns, full)
        speeds = [
            a.mean()
            for d, a in found.devices.items()
            if {r.family for r in others if r.device == d} == {own[0].family}
        ]
        shape = found.families[own[0].family]
        known = shape - shape.mean() + float(np.median(speeds))
        amounts, ms = matrix(own, columns), np.array([r.ms for r in own])
        clock += list(amounts @ np.exp(known) / ms - 1)
        for i in range(len(own)):
            rates = posterior(amounts[i : i + 1], ms[i : i + 1], known)
            one += [e for k, e in enumerate(amounts @ np.exp(rates) / ms - 1) if k != i]
    return np.array(clock), np.array(one)


def main() -> None:
    """Prints the tables of benchmarks/README.md; with --write, writes the targets."""
    print("| family | network unknown | figures | mean error | median | within 20 % | rank: median (least) |")
    print("|---|---|---|---|---|---|---|")
    cases = {
        "ncnn, fp32 or fp16": (ncnn_rows("fp32/fp16"), NCNN),
        "ncnn, int8": (ncnn_rows("int8"), NCNN_INT8),
        "TFLite/XNNPACK, fp32": (tflite_rows("fp32"), XNNPACK),
        "TFLite/XNNPACK, int8": (tflite_rows("int8"), XNNPACK),
        "microcontrollers, int8": (micro_rows(), MICRO),
    }
    for name, (rows, columns) in cases.items():
        for where, folds in (("there", folds_there(rows)), ("anywhere", folds_anywhere(rows))):
            print(f"| {name} | {where} | {summary(rows, left_out(rows, columns, folds))} |", flush=True)
    print(
        "\n| family, device unknown | clock alone: mean, median | one measured network: mean, median |\n|---|---|---|"
    )
    for name, (rows, columns) in cases.items():
        errors = [abs(e) for e in new_device(rows, columns)]
        told = " | ".join(f"{100 * e.mean():.0f} %, {100 * np.median(e):.0f} %" for e in errors if len(e))
        print(f"| {name} | {told} |", flush=True)
    if "--write" in sys.argv:
        from latency_targets import write

        write()


if __name__ == "__main__":
    main()
