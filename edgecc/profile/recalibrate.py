"""Refits a target's latency rates to networks that a user measured (one is enough) as a target of its own."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from edgecc.analysis.latency_fit import posterior
from edgecc.analysis.workload import layers_of, total_amounts
from edgecc.errors import ModelError, UsageError
from edgecc.profile.rates import choose
from edgecc.target import LatencySpec, Target

_COLUMNS = ("model", "latency_ms")
_ONE_NETWORK = 0.13  # mean error on devices left out, of ncnn, from one network (benchmarks/README.md)


@dataclass(frozen=True)
class Measured:
    """A network and what it took.

    Attributes:
        model: the ONNX file that was compiled.
        ms: measured, one inference with batch 1.
        notes: how it was measured, and what to know of it.
    """

    model: Path
    ms: float
    notes: tuple[str, ...] = ()


def read_measured(path: Path) -> list[Measured]:
    """Rows of a CSV with the columns `model` (an .onnx file, relative to the CSV) and `latency_ms`.

    Raises:
        UsageError: there is no such file.
        ModelError: a column or a number is missing; the message names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError("there is no such file", node=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"not a readable CSV: {error}", node=str(path)) from error
    reader = csv.DictReader(text.splitlines())
    lacking = [c for c in _COLUMNS if c not in (reader.fieldnames or ())]
    if lacking:
        raise ModelError(
            f"the column {lacking[0]} is missing", node=str(path), remedy="begin with `model,latency_ms`"
        )
    found = []
    for row in reader:
        where = f"{path}, line {reader.line_num}"
        try:
            ms = float(row["latency_ms"] or "")
        except ValueError:
            raise ModelError("latency_ms is no number", node=where) from None
        if not 0 < ms < float("inf"):
            raise ModelError("latency_ms must be above 0", node=where)
        found.append(Measured(path.parent / (row["model"] or ""), ms))
    if not found:
        raise ModelError("there is no measured network in it", node=str(path))
    return found


def refit(
    measured: list[Measured],
    device: Target,
    *,
    runtime: str | None,
    precision: str,
    ghz: float | None,
    board: str,
) -> tuple[LatencySpec, float]:
    """Rates for a board, and the mean relative error of the target's own rates before.

    The error bar of one network is what one network was worth on published boards; of more, the mean over each
    predicted by a fit to the others.

    Raises:
        UnsupportedError: the target has no rates to begin with.
    """
    from edgecc.importer import load

    runtime = runtime or device.runtimes.get(device.formats[0], "LiteRT")
    base, *_ = choose(device, runtime, precision)
    clock = ghz or device.clock or base.ghz
    names = [k for k, v in base.rates.items() if v > 0]
    sums = [total_amounts(layers_of(load(m.model))) for m in measured]
    amounts = np.array([[s[k] / (clock * 1e6) for k in names] for s in sums])
    ms = np.array([m.ms for m in measured])
    known = np.log([base.rates[k] for k in names])
    before = float(np.mean(abs(amounts @ np.exp(known) / ms - 1)))
    fitted = posterior(amounts, ms, known)
    error = _ONE_NETWORK if base.networks else base.error
    if len(ms) > 1:
        kept = [[i for i in range(len(ms)) if i != left] for left in range(len(ms))]
        left = [
            abs(float(amounts[i] @ np.exp(posterior(amounts[k], ms[k], known))) / ms[i] - 1)
            for i, k in enumerate(kept)
        ]
        error = float(np.mean(left))
    spec = LatencySpec(
        runtime=runtime, precision=precision, board=board, ghz=clock, threads=base.threads,
        rates={k: float(f"{v:.4g}") for k, v in zip(names, np.exp(fitted), strict=True)}, error=round(error, 3),
        networks=len(ms), measured=len(ms), source=f"edgecc calibrate, from the rates of {base.board} ({base.runtime})",
    )  # fmt: skip
    return spec, before


def target_text(spec: LatencySpec, device: Target, name: str, extends: str) -> str:
    """A target's TOML that extends another and has these rates before those of the other."""
    text = [
        f"extends = {_quoted(extends)}",
        f"name = {_quoted(name)}",
        f"description = {_quoted(f'{device.name}, calibrated with {spec.measured} measured networks')}",
        "",
    ]
    if device.ghz is not None:  # what it extends would say another
        text.insert(3, f"ghz = {spec.ghz}")
    text[3:3] = [f"{k} = {v}" for k in ("ram_kb", "flash_kb") if (v := getattr(device, k)) is not None]
    others = [s for s in device.latency if (s.runtime, s.precision) != (spec.runtime, spec.precision)]
    return "\n".join([*text, *(_table(s) for s in (spec, *others))])


def _table(spec: LatencySpec) -> str:
    lines = ["[[latency]]"]
    for key in spec.__struct_fields__:
        value = getattr(spec, key)
        if value is None:
            continue
        if value or not isinstance(value, dict):
            lines.append(f"{key} = {_value(msgspec.to_builtins(value))}")
    return "\n".join(lines) + "\n"


_BARE = re.compile(r"[A-Za-z0-9_-]+")  # a key of TOML that needs no quotes


def _value(value: object) -> str:
    """As TOML writes it in a line."""
    if isinstance(value, dict):
        return (
            "{ "
            + ", ".join(f"{k if _BARE.fullmatch(k) else _quoted(k)} = {_value(v)}" for k, v in value.items())
            + " }"
        )
    return _quoted(value) if isinstance(value, str) else repr(value)


def _quoted(text: str) -> str:
    import json

    return json.dumps(text)  # a TOML basic string is escaped as a JSON string is
