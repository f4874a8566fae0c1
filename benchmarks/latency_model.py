"""Fits latency models to published figures, and tells how they do on what they were not fitted to.

    python benchmarks/latency_model.py [--write]

Reads ../shared/latency_truth.csv and benchmarks/latency_networks.csv (what public networks compute, see
ncnn_layers.py); --write puts the fitted rates into targets/*.toml. Errors are of networks left out, a runtime
family at a time: "there" means that the network is unknown on that device but may be known on others, "anywhere"
that no device has it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

import numpy as np
from latency_joint import Fit, joint_fit
from latency_rows import IN_INT8, ODD_BEFORE, Row, micro_rows, ncnn_rows, tflite_rows
from scipy.stats import spearmanr

from edgecc.analysis.latency_fit import Floats, posterior

# Columns of the fit, each of several rates: what the figures cannot tell apart. First guess: cycles each.
NCNN = {
    ("conv1x1", "fc"): 0.3, ("conv3x3",): 0.15, ("conv", "conv3x3_odd"): 0.4, ("depthwise",): 0.7, ("grouped",): 0.7,
    ("moved",): 0.8, ("conv3x3_moved",): 3.0, ("depthwise_moved",): 0.8, ("exp_moved",): 12.0, ("power_moved",): 40.0,
    ("weights",): 1.5, ("layers",): 3e4, (ODD_BEFORE,): 0.4,
}  # fmt: skip
XNNPACK = {
    ("conv1x1", "conv3x3", "conv3x3_odd", "conv", "grouped"): 0.3, ("depthwise",): 0.7,
    ("moved", "conv3x3_moved", "depthwise_moved", "exp_moved", "power_moved"): 0.8,
    ("weights", "fc"): 0.8, ("layers",): 2e4,
}  # fmt: skip
MICRO = {  # those of computing times what was counted in the kernels: latency_counts.py
    ("conv1x1", "conv3x3", "conv3x3_odd", "conv", "grouped"): 1.0, ("depthwise",): 1.0, ("fc",): 1.0,
    ("written",): 1.0, ("moved", "conv3x3_moved", "depthwise_moved", "exp_moved", "power_moved"): 1.5,
    ("layers",): 1e3,
}  # fmt: skip
Columns = dict[tuple[str, ...], float]
# Bars that predictions state on another device: edgecc/profile/predict.py (its clock alone) and recalibrate.py.
CLOCK_BARS = {"ncnn, int8": 0.42, "TFLite/XNNPACK, fp32": 0.74, "TFLite/XNNPACK, int8": 0.39}
ONE_NETWORK_BAR = 0.13
# What is fitted as one and told apart.
PARTS = {"ncnn": (", fp32 or fp16", ", int8")}


def matrix(rows: Iterable[Row], columns: Columns) -> Floats:
    """(rows, columns) milliseconds a cycle of each rate; what a row does not tell, as kernels of before, is 0."""
    return np.array([
        [sum(r.amounts.get(k, 0.0) * r.cycles.get(k, 1.0) for k in group) / (r.ghz * 1e6) for group in columns]
        for r in rows
    ])  # fmt: skip


def fit(rows: list[Row], columns: Columns) -> Fit:
    """Rates of every device, towards the mean of its family, towards the mean of all."""
    guess = np.log(np.array(list(columns.values())))
    ms = np.array([r.ms for r in rows])
    family_of = {r.device: r.family for r in rows}
    return joint_fit(matrix(rows, columns), ms, [r.device for r in rows], family_of, guess)


def predict(found: Fit, rows: list[Row], columns: Columns) -> Floats:
    return np.array(
        [a @ np.exp(found.devices[r.device]) for a, r in zip(matrix(rows, columns), rows, strict=True)]
    )


def left_out(rows: list[Row], columns: Columns, folds: list[set[int]]) -> Floats:
    """Predictions of each fold by a fit to the others; nan where the device has no other row."""
    found = np.full(len(rows), np.nan)
    for fold in folds:
        kept = [r for i, r in enumerate(rows) if i not in fold]
        known = {r.device for r in kept}
        asked = [i for i in sorted(fold) if rows[i].device in known]
        if asked:
            found[asked] = predict(fit(kept, columns), [rows[i] for i in asked], columns)
    return found


def folds_there(rows: list[Row]) -> list[set[int]]:
    """Twenty random folds of (device, network) pairs."""
    pairs = sorted({(r.board, r.network) for r in rows})
    drawn = dict(zip(pairs, np.random.default_rng(0).permutation(len(pairs)) % 20, strict=True))
    return [{i for i, r in enumerate(rows) if drawn[r.board, r.network] == f} for f in range(20)]


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
    reached = f"{sum(r >= 0.95 for r in rank)} of {len(rank)}"
    told = f"{np.median(rank):.3f} ({min(rank):.3f}), {reached}" if rank else "-"
    shares = (
        f"{100 * error.mean():.1f} % | {100 * np.median(error):.1f} % | {100 * (error < 0.2).mean():.0f} %"
    )
    return f"{known.sum()} | {shares} | {told}"


def within_bar(rows: list[Row], predicted: list[Floats], found: Floats) -> str:
    """How many are within the bar that a target states: the larger of the device's mean errors, there and anywhere."""
    ms = np.array([r.ms for r in rows])
    errors, inside = [abs(p / ms - 1) for p in predicted], []
    for device in sorted({r.device for r in rows}):
        i = [k for k, r in enumerate(rows) if r.device == device and np.isfinite(found[k])]
        bar = max((e[i][np.isfinite(e[i])].mean() for e in errors if np.isfinite(e[i]).any()), default=0.0)
        inside += list(abs(found[i] / ms[i] - 1) <= bar)
    return f"{100 * np.mean(inside):.0f} %"


def by_engine(rows: list[Row]) -> None:
    """Prints the errors of each engine of microcontrollers, and of each network, with its bias."""
    where = [left_out(rows, MICRO, folds) for folds in (folds_anywhere(rows), folds_there(rows))]
    errors = [found / np.array([r.ms for r in rows]) - 1 for found in where]
    keys = [[r.family.partition(",")[0] for r in rows], [r.network for r in rows]]
    print("\n| engine, or network | figures | anywhere: mean error, bias | there |\n|---|---|---|---|")
    for of in keys:
        for key in sorted(set(of)):
            own = [e[np.array([k == key for k in of]) & np.isfinite(e)] for e in errors]
            if len(own[0]):
                means = [f"{100 * abs(e).mean():.1f} %, {100 * e.mean():+.0f} %" for e in own]
                print(f"| {key} | {len(own[0])} | {' | '.join(means)} |")


def in_part(row: Row, part: str) -> bool:
    """Whether it is of a part of `PARTS`, or of all ("")."""
    return not part or row.family.endswith(IN_INT8) == (part == ", int8")


def new_device(rows: list[Row], columns: Columns, part: str = "") -> tuple[Floats, Floats]:
    """Relative errors on a device that was not fitted: from the clock alone, and with one measured network.

    Args:
        rows: fitted, but for the device's. columns: of the fit.
        part: of `PARTS`, whose devices are asked for.
    """
    clock, one = [], []
    for device in sorted({r.device for r in rows if in_part(r, part)}):
        own = [r for r in rows if r.device == device]
        others = [r for r in rows if r.board != own[0].board]
        if own[0].family not in {r.family for r in others} or len(own) < 3:
            continue
        found = fit(others, columns)
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
    print(
        "| family | network unknown | figures | mean error | median | within 20 % | rank: median (least) | in bar |"
    )
    print("|---|---|---|---|---|---|---|---|")
    cases = {
        "ncnn": (ncnn_rows(), NCNN),
        "TFLite/XNNPACK, fp32": (tflite_rows("fp32"), XNNPACK),
        "TFLite/XNNPACK, int8": (tflite_rows("int8"), XNNPACK),
        "microcontrollers, int8": (micro_rows(), MICRO),
    }
    for name, (rows, columns) in cases.items():
        where = {"there": folds_there(rows), "anywhere": folds_anywhere(rows)}
        predicted = {w: left_out(rows, columns, folds) for w, folds in where.items()}
        for part in PARTS.get(name, ("",)):
            of = [i for i, r in enumerate(rows) if in_part(r, part)]
            for w, found in predicted.items():
                own = [rows[i] for i in of]
                bar = within_bar(own, [p[of] for p in predicted.values()], found[of])
                print(f"| {name}{part} | {w} | {summary(own, found[of])} | {bar} |", flush=True)
    by_engine(cases["microcontrollers, int8"][0])
    print(
        "\n| family, device unknown | clock alone: mean, median, in bar | one measured network |\n|---|---|---|"
    )
    for name, (rows, columns) in cases.items():
        for part in PARTS.get(name, ("",)):
            errors = [abs(e) for e in new_device(rows, columns, part)]
            told = " | ".join(
                f"{100 * e.mean():.0f} %, {100 * np.median(e):.0f} %, {100 * (e <= bar).mean():.0f} %"
                for e, bar in zip(errors, (CLOCK_BARS.get(name + part, 0.25), ONE_NETWORK_BAR), strict=True)
            )
            print(f"| {name}{part} | {told} |", flush=True)
    if "--write" in sys.argv:
        from latency_targets import write

        write()


if __name__ == "__main__":
    main()
