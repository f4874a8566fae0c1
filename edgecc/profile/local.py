"""Measures files on this machine, each in a process of its own."""

from __future__ import annotations

import json
import os
import platform
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from importlib import metadata, util
from pathlib import Path
from typing import IO, Any

from edgecc import ir
from edgecc.artifact import Artifact
from edgecc.errors import EdgeccError, UsageError
from edgecc.onnxfile import write_aside
from edgecc.profile import OperatorTime, Profile, spread
from edgecc.profile.litert_profile import operators_from_litert
from edgecc.profile.ort_profile import operators_from_ort

SECONDS = 0.2
"""Spent on timing a whole network; its operators take half as much again."""

_STOPWATCH = Path(__file__).resolve().parents[1] / "runtime" / "stopwatch.py"
_RUNTIMES = {"litert": "LiteRT", "ort": "ONNX Runtime"}
_OPERATORS = {"litert": operators_from_litert, "ort": operators_from_ort}


@dataclass(frozen=True)
class Job:
    """A file to measure.

    Attributes:
        source: the file.
        operators: whether to time its operators too.
        input_shape: sizes of inputs with symbolic dimensions; those not given count as 1. (ONNX only.)
    """

    source: Artifact | Path | str
    operators: bool = True
    input_shape: Mapping[str, Sequence[int]] = field(default_factory=dict)


@dataclass
class _Child:
    """A stopwatch process and what it said so far."""

    job: Job
    kind: str
    path: Path
    process: subprocess.Popen[bytes]
    errors: IO[str]
    said: dict[str, Any] = field(default_factory=dict)
    pending: bytes = b""

    def read(self, key: str, deadline: float) -> bool:
        """Reads until the child said `key` (True) or ended or ran past the deadline (False)."""
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while key not in self.said:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self.process.kill()
                    return False
                chunk = os.read(self.process.stdout.fileno(), 1 << 16)
                if not chunk:
                    return False
                *lines, self.pending = (self.pending + chunk).split(b"\n")
                for line in lines:
                    self.said.update(json.loads(line))
        return True

    def go(self) -> None:
        """Lets it measure."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it died while loading: `read` tells
            self.process.stdin.write(b"go\n")

    def cause(self) -> str:
        """Why it ended, as far as it told."""
        code = self.process.wait()
        self.errors.seek(0)
        lines = [line.strip() for line in self.errors.read().splitlines()]
        told = [line for line in lines if line and not line.startswith(("INFO:", "WARNING:"))]
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"{told[-1] if told else 'no message'} ({how})"


def profile_all(
    jobs: Mapping[str, Job],
    *,
    runs: int | None = None,
    threads: int = 1,
    seconds: float = SECONDS,
    timeout: float = 120.0,
    failed: dict[str, EdgeccError] | None = None,
) -> dict[str, Profile]:
    """Measures every file, one after the other; loading overlaps, so that two cost little more than one.

    Args:
        jobs: by any key.
        runs: how often each network is timed; None: as often as fits into `seconds`, three times at least.
        threads: of the runtime.
        seconds: spent on each network.
        timeout: seconds after which a network that does not answer is given up.
        failed: receives, by key, why a network cannot be measured, which then has no profile.

    Raises:
        EdgeccError: (without `failed`) the runtime cannot load or run a file, or took longer than `timeout`.
        UsageError: a file is missing, or is neither .onnx nor .tflite.
    """
    if threads < 1 or (runs is not None and runs < 1):
        raise UsageError("threads and runs are at least 1")
    with ExitStack() as stack:
        children = {key: _start(job, runs, threads, seconds, stack) for key, job in jobs.items()}
        deadline = time.monotonic() + timeout
        for child in children.values():
            child.read("ready", deadline)
        found: dict[str, Profile] = {}
        for key, child in children.items():
            try:
                found[key] = _measure(child, threads, timeout)
            except EdgeccError as error:
                if failed is None:
                    raise
                failed[key] = error
        return found


def machine_name() -> str:
    """The processor in its maker's words, else the architecture."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.lower().startswith(("model name", "hardware")):
                return " ".join(line.partition(":")[2].split())
    return platform.processor() or platform.machine()


def _start(job: Job, runs: int | None, threads: int, seconds: float, stack: ExitStack) -> _Child:
    path, kind = _file(job.source, stack)
    request: dict[str, Any] = {
        "kind": kind,
        "path": str(path),
        "threads": threads,
        "seconds": seconds,
        "runs": runs,
        "operators": job.operators,
        "sys_path": sys.path,
        "shapes": {name: list(shape) for name, shape in job.input_shape.items()},
    }
    if kind == "litert":
        package = util.find_spec("ai_edge_litert")
        if package is None or package.origin is None:
            raise EdgeccError("LiteRT is not installed", remedy="pip install ai-edge-litert")
        request["library"] = str(Path(package.origin).with_name(_library_name()))
        request["version"] = metadata.version("ai-edge-litert")
    errors = stack.enter_context(tempfile.TemporaryFile("w+"))  # noqa: SIM115 - the stack closes it
    process = stack.enter_context(
        subprocess.Popen(
            [sys.executable, "-I", "-S", str(_STOPWATCH), json.dumps(request)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            bufsize=0,
        )
    )
    stack.callback(process.kill)
    return _Child(job, kind, path, process, errors)


def _file(source: Artifact | Path | str, stack: ExitStack) -> tuple[Path, str]:
    large = isinstance(source, Artifact) and source.format == "onnx" and source.size >= ir.LARGE_BYTES
    if not isinstance(source, Artifact):
        path = Path(source)
    elif source.path is not None and not (large and source.waits_in):
        path = source.path
    else:
        path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / f"network.{source.format}"
        if large:
            write_aside(source.content(), path)
        else:
            path.write_bytes(source.data)
    kind = {".tflite": "litert", ".onnx": "ort"}.get(path.suffix)
    if not path.is_file():
        raise UsageError("there is no such file", node=str(path))
    if kind is None:
        raise UsageError("edgecc profiles .onnx and .tflite files", node=str(path))
    return path, kind


def _library_name() -> str:
    return {"Darwin": "libLiteRt.dylib", "Windows": "libLiteRt.dll"}.get(platform.system(), "libLiteRt.so")


def _measure(child: _Child, threads: int, timeout: float) -> Profile:
    deadline = time.monotonic() + timeout
    notes: list[str] = []
    rows: tuple[OperatorTime, ...] = ()
    child.go()
    if child.read("latency", deadline):
        samples, memory, version = child.said["latency"], child.said["memory"], child.said["ready"]
        if child.job.operators and child.read("events", deadline):
            rows = _OPERATORS[child.kind](child.said["events"])
        elif child.job.operators:
            notes.append(f"no times of operators: {child.said.get('note') or child.cause()}")
    elif child.kind == "litert":
        notes.append(f"measured through the interpreter, without times of operators: {child.cause()}")
        samples, memory = _interpreter_times(child.path, threads), None
        version = metadata.version("ai-edge-litert")
    else:
        raise EdgeccError(
            f"{_RUNTIMES[child.kind]} cannot run it: {child.cause()}",
            node=str(child.path),
            remedy="bind symbolic dimensions with --input-shape, or leave the profile out with --no-profile",
        )
    return Profile(
        runtime=_RUNTIMES[child.kind],
        runtime_version=version,
        machine=machine_name(),
        threads=threads,
        **spread(samples),
        operators=rows,
        memory_bytes=memory,
        size_bytes=child.path.stat().st_size,
        notes=tuple(notes),
    )


def _interpreter_times(path: Path, threads: int) -> list[float]:
    """Milliseconds of runs in this process through LiteRT's documented interface."""
    import numpy as np

    from edgecc.runtime.litert import LiteRtRunner

    runner = LiteRtRunner(path.read_bytes(), threads=threads)
    feeds = {
        spec.name: np.zeros([d or 1 for d in spec.shape], np.dtype(spec.dtype)) for spec in runner.inputs
    }
    runner.run(feeds)
    samples: list[float] = []
    until = time.perf_counter() + SECONDS
    while len(samples) < 3 or time.perf_counter() < until:
        started = time.perf_counter_ns()
        runner.run(feeds)
        samples.append((time.perf_counter_ns() - started) / 1e6)
    return samples
