"""What the kernels of every TFLite runtime take, found by running one-operator files: `edgecc/tflite/kernels.json`.

    python benchmarks/kernels.py [OPERATOR ...] [--runtime NAME ...]

Every operator is tried with every type, rank and use of `kernel_table.py`, in each runtime in a process of its own
(some abort it), against numpy. What is listed loads and answers rightly in all of them. Without names everything is
tried (some minutes) and the file written anew; with names only their rows.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import pickle
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from environments import python
from kernel_files import Case, make
from kernel_reference import Array
from kernel_table import OPERATORS, SPECIAL

TABLE = Path(__file__).resolve().parents[1] / "edgecc" / "tflite" / "kernels.json"
WORKER = Path(__file__).resolve().parent / "kernel_worker.py"
# Runtime -> its package, and the peer environment where that is not this one.
RUNTIMES = {
    "litert": ("ai-edge-litert", None),
    "litert-builtin": ("ai-edge-litert", None),
    "tflite-runtime-2.14": ("tflite-runtime", "tflite-runtime"),
    "tflite-micro": ("tflite-micro", None),
}
VERSIONS = 16  # more than any operator has
SECONDS = 300  # for the cases of one operator; where a runtime takes longer, it crashed on the one begun


def cases(code: str, *, seed: int = 0) -> Iterator[Case]:
    """Every file of an operator, ranks in rising order."""
    for kinds, ranks, variants in (OPERATORS[code], *SPECIAL.get(code, ())):
        for kind in kinds:
            for rank in ranks:
                for number, variant in enumerate(variants(rank)):
                    yield make(code, kind, rank, variant, seed + 100 * rank + number)


def run(runtime: str, tried: Sequence[Case], versions: Sequence[int | None] | None = None) -> list[str]:
    """The verdict on each case: "ok", "wrong: ..", "refused: ..", "crashed" or "skipped"."""
    peer = RUNTIMES[runtime][1]
    program = sys.executable if peer is None else str(python(peer))
    packed = [
        (
            (c.code, c.kind, c.broadcast, version), c.rank, c.data(version), [_plain(a) for a in c.inputs],
            [_plain(a) for a in c.answers], list(c.tolerances),
        )
        for c, version in zip(tried, versions or [None] * len(tried), strict=True)
    ]  # fmt: skip
    verdicts: list[str] = [""] * len(tried)
    with tempfile.TemporaryDirectory() as folder:
        path, done_with = Path(folder) / "cases.pickle", Path(folder) / "skipped.json"
        path.write_bytes(pickle.dumps(packed))
        while "" in verdicts:
            done_with.write_text(json.dumps([i for i, v in enumerate(verdicts) if v]))
            crashed = _run_once([program, str(WORKER), runtime, str(path), str(done_with)], verdicts)
            if crashed is not None:
                verdicts[crashed] = "crashed"
                for i in _doomed(tried, verdicts, crashed):
                    verdicts[i] = "skipped"
    return verdicts


def _run_once(command: Sequence[str], verdicts: list[str]) -> int | None:
    """Fills in verdicts until the process ends; the number of the case at which it aborted, if it did."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
        said, errors = done.stdout.splitlines(), done.stderr
    except subprocess.TimeoutExpired as late:
        said, errors = (late.stdout or b"").decode().splitlines(), "it took too long"
    begun = None
    for line in said:
        word, number, *rest = line.split(" ", 2)
        begun = int(number) if word == "start" else None
        if word == "verdict":
            verdicts[int(number)] = rest[0]
    if not said:
        raise RuntimeError(f"{command[2]} does not run: {errors[-500:]}")
    return begun


def _doomed(tried: Sequence[Case], verdicts: Sequence[str], crashed: int) -> Iterator[int]:
    """Cases that need not be run after a crash: the same rank, and from the third axis or crash on all ranks."""
    case = tried[crashed]
    same = [
        i
        for i, c in enumerate(tried)
        if (c.code, c.kind, c.broadcast) == (case.code, case.kind, case.broadcast)
    ]
    ranks = {tried[i].rank for i in same if verdicts[i] == "crashed"}
    for i in same:
        if not verdicts[i] and (tried[i].rank == case.rank or case.rank > 2 or len(ranks) > 2):
            yield i


def _plain(array: Array) -> tuple[bytes, str, tuple[int, ...]]:
    return np.ascontiguousarray(array).tobytes(), str(array.dtype), array.shape


def summary(tried: Sequence[Case], verdicts: Iterable[str]) -> dict[str, str]:
    """Kind -> "lowest-highest" rank that is served without a gap, and "bN": the highest with operands of two shapes."""
    good: dict[tuple[str, bool], dict[int, bool]] = defaultdict(dict)
    for case, verdict in zip(tried, verdicts, strict=True):
        ranks = good[case.kind, case.broadcast]
        ranks[case.rank] = ranks.get(case.rank, True) and verdict == "ok"
    rows = {}
    for (kind, broadcast), ranks in good.items():
        low, high = _span(ranks)
        if not broadcast and low is not None and high is not None and high >= min(1, max(ranks)):
            rows[kind] = f"{low}-{high}" if low != high else str(low)
        elif kind in rows:
            rows[kind] += f" b{high or 0}"
    return rows


def _span(ranks: dict[int, bool]) -> tuple[int | None, int | None]:
    served = [rank for rank in sorted(ranks) if ranks[rank]]
    if not served:
        return None, None
    high = served[0]
    while ranks.get(high + 1):
        high += 1
    return served[0], high


def loaded_versions(runtime: str, tried: Sequence[Case], verdicts: Sequence[str]) -> int:
    """The highest operator version that the runtime takes, all lower ones too, for a kind that it serves."""
    if runtime == "tflite-micro":  # which looks at none
        return VERSIONS
    kinds: dict[str, Case] = {}
    for case, verdict in zip(tried, verdicts, strict=True):
        if verdict == "ok" and len(kinds) < 3:
            kinds.setdefault(case.kind, case)
    pairs = [(c, n) for c in kinds.values() for n in range(c.graph.operators[0].version, VERSIONS + 1)]
    answers = run(runtime, [c for c, _ in pairs], [n for _, n in pairs])
    found = 0
    for case in kinds.values():
        mine = [(n, a) for (c, n), a in zip(pairs, answers, strict=True) if c is case]
        refused = next((n for n, a in mine if a != "ok"), VERSIONS + 1)
        found = max(found, refused - 1)
    return found


def probe(code: str, runtimes: Iterable[str]) -> dict[str, dict[str, object]]:
    """The rows of an operator: runtime -> {"versions": highest, kind: ranks}."""
    tried = list(cases(code))
    rows: dict[str, dict[str, object]] = {}
    for runtime in runtimes:
        verdicts = run(runtime, tried)
        kinds = summary(tried, verdicts)
        if kinds:
            rows[runtime] = {"versions": loaded_versions(runtime, tried, verdicts), **kinds}
    return rows


def render(packages: dict[str, str], kernels: dict[str, dict[str, dict[str, object]]]) -> str:
    """The text of the table: a line a runtime, so that differences can be read."""
    lines = [
        "{",
        ' "made_by": "python benchmarks/kernels.py",',
        f' "packages": {json.dumps(packages)},',
        ' "kernels": {',
    ]
    for code in sorted(kernels):
        rows = [f"   {json.dumps(name)}: {json.dumps(row)}" for name, row in kernels[code].items()]
        inner = ",\n".join(rows)
        lines.append(f'  "{code}": {{\n{inner}\n  }}{"" if code == max(kernels) else ","}')
    return "\n".join([*lines, " }", "}"]) + "\n"


def package_version(runtime: str) -> str:
    """Name and version of what was run."""
    name, peer = RUNTIMES[runtime]
    if peer is None:
        return f"{name} {importlib.metadata.version(name)}"
    query = f"import importlib.metadata as m; print(m.version({name!r}))"
    done = subprocess.run([python(peer), "-c", query], capture_output=True, text=True, check=True)
    return f"{name} {done.stdout.strip()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("operators", nargs="*")
    parser.add_argument("--runtime", action="append", choices=RUNTIMES)
    parser.add_argument(
        "--why", action="store_true", help="print what was not answered rightly; write nothing"
    )
    given = parser.parse_args()
    runtimes = given.runtime or list(RUNTIMES)
    codes = given.operators or list(OPERATORS)
    if given.why:
        for code in codes:
            tried = list(cases(code))
            for runtime in runtimes:
                for case, verdict in zip(tried, run(runtime, tried), strict=True):
                    if verdict not in ("ok", "skipped"):
                        shapes = [t.shape for t in case.graph.tensors]
                        print(
                            runtime,
                            code,
                            case.kind,
                            case.rank,
                            "b" if case.broadcast else "",
                            shapes,
                            verdict,
                        )
        return
    whole = given.operators == [] and given.runtime is None
    held = {"packages": {}, "kernels": {}} if whole or not TABLE.exists() else json.loads(TABLE.read_text())
    held["packages"] |= {r: package_version(r) for r in runtimes}
    with ThreadPoolExecutor(2) as pool:
        for code, rows in zip(codes, pool.map(lambda c: probe(c, runtimes), codes), strict=True):
            kept = {r: row for r, row in held["kernels"].get(code, {}).items() if r not in runtimes}
            held["kernels"][code] = {r: {**kept, **rows}[r] for r in RUNTIMES if r in kept or r in rows}
            TABLE.write_text(render(held["packages"], held["kernels"]))
            print(code, flush=True)


if __name__ == "__main__":
    main()
