"""Runs a network in the emulated Arm machine, and counts what it executes there."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Timer
from typing import Any, BinaryIO

import numpy as np

from edgecc.errors import EdgeccError
from edgecc.ir import Array
from edgecc.profile.elf import functions
from edgecc.profile.emulation import Machine
from edgecc.profile.instructions import CLASSES, BlockLog, ranges

INFERENCES = {"litert": 3, "ort": 5}
"""Counted ones: two must agree besides the first, which may still warm up; ONNX Runtime disturbs two at times."""

_PROGRAM = Path(__file__).resolve().parents[1] / "runtime" / "arm_guest.py"
_LIBRARIES = {"litert": "libpywrap_litert_common.so", "ort": "onnxruntime_pybind11_state"}
_OPTIMIZED = "optimized.onnx"
# ONNX Runtime executes 70 million blocks before its first inference, which a log of its whole library would list.
_RANGES = {"ort": 6}


@dataclass(frozen=True)
class FunctionCount:
    """What one function of the runtime's library executes in one inference.

    Attributes:
        name: its symbol; `?` for all code without one.
        instructions: executed.
        share: of all, 0 to 1.
        products: instructions of each class in `instructions.CLASSES`.
    """

    name: str
    instructions: int
    share: float
    products: Mapping[str, int]


@dataclass(frozen=True)
class Count:
    """The instructions of one inference in the runtime's library.

    Attributes:
        instructions: of an inference that is not the first.
        repeatable: whether another one had as many, to the instruction.
        products: instructions of each class of vector products.
        functions: those that executed most come first.
    """

    instructions: int
    repeatable: bool
    products: Mapping[str, int]
    functions: tuple[FunctionCount, ...]


@dataclass
class Guest:
    """One network at one level of the emulated machine.

    Attributes:
        machine, level: where it runs.
        kind: "litert" or "ort".
        path: the file.
        timeout: seconds after which a run is given up.
        said: the guest's last word: the marker's address and the code that it has mapped.
        operators: how many nodes of each type ONNX Runtime executes.
        spans: addresses (first, last) around the blocks of an inference; empty: not looked for yet.
    """

    machine: Machine
    level: str
    kind: str
    path: Path
    timeout: float = 1200.0
    said: dict[str, Any] = field(default_factory=dict)
    operators: dict[str, int] = field(default_factory=dict)
    spans: list[tuple[int, int]] = field(default_factory=list)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Runs every sample.

        Args:
            feeds: by the input's position, (samples, ...) as the runtime takes them.

        Returns:
            By the output's position, (samples, ...) as the runtime gives them.

        Raises:
            EdgeccError: the runtime cannot run the file.
        """
        with self._folder(feeds) as work:
            self.said = self._execute(work, {"optimized": _OPTIMIZED})
            with np.load(work / "outputs.npz", allow_pickle=False) as held:
                found = {name: held[name] for name in held.files}
            if self.kind == "ort":
                self.operators = _operators(work / _OPTIMIZED)
        return found

    def count(self, feeds: Mapping[str, Array]) -> Count:
        """Counts the instructions of the first sample; `run` has to come first.

        Raises:
            EdgeccError: it cannot be counted.
        """
        one = {name: array[:1] for name, array in feeds.items()}
        start, end, _, path = _library(self.said, self.kind)
        if not self.spans:
            self.spans = [(start, end - 1)]
            if self.kind in _RANGES:
                seen = self._logged(one, ["in_asm"], self.spans, [os.path.basename(path)])
                self.spans = ranges(seen.blocks, seen.translated, _RANGES[self.kind])
        log = self._logged(one, ["in_asm", "exec", "nochain"], self.spans, [])
        totals = log.totals()
        if len(totals) != INFERENCES[self.kind] or not totals[-1]:
            raise EdgeccError("the emulator's log shows no inference", node=str(self.path))
        return self._summary(log)

    def _logged(
        self,
        feeds: Mapping[str, Array],
        items: Sequence[str],
        chosen: Sequence[tuple[int, int]],
        forget: list[str],
    ) -> BlockLog:
        marker = self.said["marker"]
        spans = ",".join(f"{a:#x}..{b:#x}" for a, b in (*chosen, (marker, marker)))
        log = BlockLog(marker)
        with self._folder(feeds) as work:
            said = self._execute(
                work,
                {"counted": INFERENCES[self.kind], "forget": forget},
                log,
                ["-d", ",".join(items), "-dfilter", spans],
            )
        before = _library(self.said, self.kind)
        if said["marker"] != marker or _library(said, self.kind) != before:
            raise EdgeccError("the emulated process has its libraries elsewhere than before", node=self.level)
        return log

    def _execute(
        self,
        work: Path,
        more: Mapping[str, Any],
        log: BlockLog | None = None,
        words: Sequence[str] = (),
    ) -> dict[str, Any]:
        request = {
            "kind": self.kind,
            "path": f"model/{self.path.name}",
            "inputs": "inputs.npz",
            "outputs": "outputs.npz",
            "optimized": None,
            "counted": 0,
            "forget": [],
            **more,
        }
        (work / "request.json").write_text(json.dumps(request), encoding="utf-8")
        with (work / "errors").open("w+b") as errors:
            reading, writing = os.pipe()
            _widen(writing)
            with os.fdopen(reading, "rb", buffering=0) as stream:
                try:
                    extra = [*words, "-D", f"/dev/fd/{writing}"] if log else []
                    process = self.machine.start(
                        self.level,
                        ["arm_guest.py", "request.json"],
                        work,
                        errors,
                        extra,
                        writing if log else -1,
                    )
                finally:
                    os.close(writing)
                with process:
                    timer = Timer(self.timeout, process.kill)
                    timer.start()
                    try:
                        while log is not None and (data := stream.read(1 << 20)):
                            log.feed(data)
                        told = process.stdout.read() if process.stdout else b""
                    finally:
                        timer.cancel()
                        process.kill()
            return self._answer(told, process.returncode, errors)

    def _answer(self, told: bytes, code: int, errors: BinaryIO) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(told.splitlines()[-1])
        except (IndexError, ValueError) as error:
            errors.seek(0)
            lines = [x.strip() for x in errors.read().decode(errors="replace").splitlines() if x.strip()]
            cause = lines[-1] if lines else f"ended with {code}"
            if code == -9:  # signal 9
                cause = (
                    f"it was stopped: it takes more than {self.timeout:.0f} s, or more memory than there is"
                )
            name = {"litert": "LiteRT", "ort": "ONNX Runtime"}[self.kind]
            raise EdgeccError(
                f"{name} cannot run it on {self.level}: {cause}", node=str(self.path)
            ) from error
        return found

    @contextmanager
    def _folder(self, feeds: Mapping[str, Array]) -> Iterator[Path]:
        """What the guest reads, under names that are always as long: they lie in its memory too."""
        with tempfile.TemporaryDirectory() as name:
            work = Path(name)
            for program in (_PROGRAM, _PROGRAM.with_name("stopwatch.py")):
                shutil.copy(program, work)
            (work / "model").symlink_to(self.path.resolve().parent)
            held: dict[str, Any] = dict(feeds)
            np.savez(work / "inputs.npz", **held)
            yield work

    def _summary(self, log: BlockLog) -> Count:
        start, _, offset, path = _library(self.said, self.kind)
        known = functions(Path(path))
        sums: dict[str, list[int]] = {}
        place, agreeing = log.usual()
        total = log.totals()[place]
        for address, count, kinds in log.executed(place):
            row = sums.setdefault(known.name(address - start + offset) or "?", [0] * (1 + len(CLASSES)))
            for i, value in enumerate((count, *(kinds[name] for name in CLASSES))):
                row[i] += value
        rows = sorted(sums.items(), key=lambda item: (-item[1][0], item[0]))
        found = tuple(
            FunctionCount(name, r[0], r[0] / total, dict(zip(CLASSES, r[1:], strict=True)))
            for name, r in rows
        )
        products = {name: sum(f.products[name] for f in found) for name in CLASSES}
        return Count(total, agreeing > 1, products, found)


def _widen(pipe: int) -> None:
    """A log comes in fewer, larger pieces: a fifth of the time; where the system allows it."""
    import fcntl  # not on every system that imports this module

    with suppress(OSError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 1 << 20)


def _library(said: Mapping[str, Any], kind: str) -> tuple[int, int, int, str]:
    """Start, end, offset in the file and path of the runtime's code."""
    for start, end, offset, path in said["code"]:
        if os.path.basename(path).startswith(_LIBRARIES[kind]):
            return start, end, offset, path
    raise EdgeccError(f"{_LIBRARIES[kind]} is not among the libraries of this release")


def _operators(path: Path) -> dict[str, int]:
    import onnx

    counts: dict[str, int] = {}
    for node in onnx.load(path, load_external_data=False).graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
