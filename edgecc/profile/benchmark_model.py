"""Reads what TensorFlow Lite's (LiteRT's) `benchmark_model` prints.

Formats: tensorflow/lite/tools/benchmark/benchmark_model.cc, lite/profiling/profile_summarizer.cc and
core/util/stats_calculator.{h,cc}, as they were from 2019 to today.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgecc.errors import EdgeccError
from edgecc.profile import OperatorTime

_PREFIX = r"(?:(?:INFO|VERBOSE): )?"
_COUNT = re.compile(rf"^{_PREFIX}count=(\d+) (.*)$", re.MULTILINE)
_PART = re.compile(r"(\w+)=([0-9]+(?:\.[0-9]*)?(?:e[+-]?[0-9]+)?)")
_WHOLE = re.compile(
    rf"^{_PREFIX}Inference timings in us: .*?Inference \(avg\): ([0-9]+(?:\.[0-9]*)?(?:e[+-]?[0-9]+)?)",
    re.MULTILINE,
)
_MEMORY = re.compile(
    r"Memory footprint delta from the start of the tool \(MB\): .*?overall=(-?[0-9]+(?:\.[0-9]*)?(?:e[+-]?[0-9]+)?)"
)
_WORDS = {"avg": "mean", "p5": "5 %", "p95": "95 %", "max": "slowest", "std": "standard deviation"}
_TABLE = "Operator-wise Profiling Info for Regular Benchmark Runs"
_NUMBER = r"(?:-?nan|-?inf|-?[0-9]+(?:\.[0-9]*)?(?:e[+-]?[0-9]+)?)"


@dataclass(frozen=True)
class Timing:
    """Of the timed runs, in milliseconds.

    Attributes:
        median_ms: newer versions tell it; None otherwise.
        every_ms: what each run took, where all took the same.
        memory_bytes: peak, above that of the tool before it loaded the file; None where it is not told.
        note: what the figures are.
    """

    runs: int
    mean_ms: float
    min_ms: float
    median_ms: float | None
    every_ms: float | None
    memory_bytes: int | None
    note: str


def read_timing(text: str) -> Timing:
    """Reads the statistics of the timed runs, which are the last before the line that sums all up.

    Raises:
        EdgeccError: there are none.
    """
    end = _WHOLE.search(text)
    counts = _COUNT.findall(text[: end.start()]) if end else []
    if end is None or not counts:
        last = ([line for line in text.splitlines() if line.strip()] or ["nothing"])[-1]
        raise EdgeccError(
            f"benchmark_model tells no time: {last.strip()}", remedy="see what it prints by hand"
        )
    runs, rest = counts[-1]
    us = {name: float(number) for name, number in _PART.findall(rest)}
    alike = "min" not in us and "curr" in us  # `count=5 curr=70(all same)`, or one run
    if alike:
        us.update(dict.fromkeys(("min", "max", "avg", "median"), us["curr"]), std=0.0)
    if "min" not in us or int(runs) < 1:
        raise EdgeccError(
            f"benchmark_model tells no time of its runs: count={runs} {rest}",
            remedy="see what it prints by hand",
        )
    memory = _MEMORY.search(text)
    median = us.get("median")
    told = [f"{word} {us[key] / 1e3:.4g} ms" for key, word in _WORDS.items() if key in us]
    note = "" if alike else f"benchmark_model tells of its {runs} runs: {', '.join(told)}"
    if median is None:
        note += "; it tells no median: the figure is the mean"
    return Timing(
        runs=int(runs),
        mean_ms=us.get("avg", float(end[1])) / 1e3,
        min_ms=us["min"] / 1e3,
        median_ms=None if median is None else median / 1e3,
        every_ms=us["curr"] / 1e3 if alike else None,
        memory_bytes=None if memory is None else int(float(memory[1]) * 2**20) or None,
        note=note,
    )


def read_operators(text: str) -> tuple[OperatorTime, ...]:
    """Reads the tables "Run Order" of a run with --enable_op_profiling; none where it printed none.

    A delegate that tells of its own operators has them in the same table or in one of its own, named `Delegate/`; the
    row of the whole of XNNPACK would then count them twice, and is left out.
    """
    rows: list[tuple[str, str, float]] = []
    for table in text.partition(_TABLE)[2].split("Run Order =")[1:]:
        lines = table.splitlines()[1:]
        numbers = 3 if lines and "[start]" in lines[0] else 2
        row = re.compile(
            rf"\s*(?P<type>\S.*?)\s+(?P<times>(?:{_NUMBER}\s+){{{numbers}}}){_NUMBER}%\s+{_NUMBER}%\s+"
            rf"{_NUMBER}\s+(?P<called>\d+)\s+(?P<name>.*)"
        )
        for line in lines[1:]:
            found = row.fullmatch(line.removeprefix("INFO: "))
            if found is None:
                break
            # Mean of one call; some kernels are called several times in an inference.
            us = 1e3 * float(found["times"].split()[-1]) * int(found["called"])
            rows.append((found["type"], found["name"].strip(), us))
    inner = any(name.startswith("Delegate/") for _, name, _ in rows)
    kept = [row for row in rows if not (inner and row[0].startswith("TfLiteXNNPackDelegate"))]
    total = sum(us for *_, us in kept) or 1.0
    return tuple(
        OperatorTime(
            i, name.removeprefix("Delegate/"), _kernel(kind, name), us, us / total,
            "xnnpack" if name.startswith("Delegate/") or "XNNPack" in kind else "builtin",
        )
        for i, (kind, name, us) in enumerate(kept)
    )  # fmt: skip


def _kernel(kind: str, name: str) -> str:
    """The kernel; versions of 2020 to 2021 call every one of a delegate `DelegateOpInvoke`."""
    return name.removeprefix("Delegate/").rpartition(":")[0] if kind == "DelegateOpInvoke" else kind
