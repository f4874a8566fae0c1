"""Draws docs/charts/*.csv as SVG: fidelity against size, work and time. Run by `compression.py --draw`.

    python compression_charts.py FOLDER

It runs in an environment of its own, with matplotlib and without edgecc.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib  # type: ignore[import-not-found]

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "edgecc"  # the same numbers make the same file
from matplotlib import pyplot as plt  # noqa: E402

Row = Mapping[str, str]
AXES: Mapping[str, Callable[[Row], float]] = {
    "packed bytes": lambda r: float(r["packed bytes"]),
    "multiply-accumulates": lambda r: float(r["MACs"]),
    "time (1: int8 without the method)": lambda r: float(r["time"]),
}
LOW_RANK: Mapping[str, Callable[[Row], float]] = {
    "size (1: int8 whole)": lambda r: float(r["size"] or "nan"),
    "multiply-accumulates (1: whole)": lambda r: float(r["MAC"]),
    "time (1: int8 whole)": lambda r: float(r["time"]),
}


def chart(
    path: Path, title: str, lines: Mapping[str, Sequence[Row]], axes: Mapping[str, Callable[[Row], float]]
) -> None:
    """One panel an axis, one line of points a method; SQNR is what is left of the float network's answers."""
    figure, panels = plt.subplots(1, len(axes), figsize=(12, 3.6), sharey=True, layout="constrained")
    for panel, (label, value) in zip(panels, axes.items(), strict=True):
        for name, rows in lines.items():
            ordered = sorted(rows, key=value)
            x, y = [value(r) for r in ordered], [float(r["SQNR dB"]) for r in ordered]
            panel.plot(x, y, marker="*" if name == "none" else "o", markersize=4, linewidth=1, label=name)
        panel.set_xlabel(label)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("SQNR of the answers, dB")
    panels[0].legend(fontsize=7)
    figure.suptitle(title)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def read(path: Path) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def grouped(rows: Sequence[Row], key: str) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row[key], []).append(row)
    return found


def main() -> None:
    folder = Path(sys.argv[1])
    for network, rows in grouped(read(folder / "compression.csv"), "network").items():
        methods = grouped(rows, "method")
        families = {m.split()[0] for m in methods} - {"none"}
        for family in sorted(families):
            lines = {m: r for m, r in methods.items() if m == "none" or m.split()[0] == family}
            chart(folder / f"{family}_{network}.svg", f"{family} on {network}, int8 TFLite", lines, AXES)
    for method, rows in grouped(read(folder / "low_rank.csv"), "method").items():
        chart(folder / f"{method}.svg", f"{method}, int8 TFLite", grouped(rows, "network"), LOW_RANK)


if __name__ == "__main__":
    main()
