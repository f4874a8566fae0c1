"""Measures a .tflite file on an Android device: `adb` carries it there, the user's `benchmark_model` runs it.

adb joins the arguments of `shell` into one text for the device's shell. So every name there is one of ours, in a folder
made for the run; the user's file names are arguments of `adb push` alone, which no shell reads.
"""

from __future__ import annotations

import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from edgecc.errors import EdgeccError, UsageError
from edgecc.profile import MEASURED_THERE, Profile
from edgecc.profile.benchmark_model import Timing, read_operators, read_timing
from edgecc.profile.place import options, seconds

# One that adb knows: of USB, `host:port`, or of mDNS (`adb-XXXX._adb-tls-connect._tcp`).
_SERIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*")
# On the device; read by its shell, so nothing that a shell would see more in.
_INSTALLED = re.compile(r"/[A-Za-z0-9._/-]+")
_FOLDERS = "/data/local/tmp/edgecc-"
# What adb says -> cause, remedy.
_REFUSALS = (
    (
        "unauthorized|authorizing",
        "the device does not trust this machine",
        "allow USB debugging in its dialogue",
    ),
    ("offline", "the device is offline", "plug it in again, or `adb reconnect`"),
    ("not found|no devices", "adb knows no device of that serial", "see `adb devices`"),
    ("no space left", "there is no room left under /data/local/tmp", "make some"),
)
_OPERATOR_RUNS = 50
_SECONDS = 1.0  # of timed runs, benchmark_model's own default


@dataclass(frozen=True)
class Place:
    """`SERIAL?benchmark=FILE` or `SERIAL?installed=/PATH`, with `&timeout=SECONDS`.

    Attributes:
        benchmark: a benchmark_model for the device's processor, here.
        installed: one that is on the device already.
        timeout: seconds for each command.
    """

    serial: str
    benchmark: Path | None
    installed: str | None
    timeout: float = 600.0


def parse(place: str) -> Place:
    """Reads what stands behind `adb://`.

    Raises:
        UsageError: it is no such place, or names no benchmark_model.
    """
    serial, _, query = place.partition("?")
    if not _SERIAL.fullmatch(serial):
        raise UsageError(f"{serial!r} is no serial of a device", node="--device", remedy="see `adb devices`")
    words = options(query, ("benchmark", "installed", "timeout"))
    if ("benchmark" in words) == ("installed" in words):
        raise UsageError(
            "give one of ?benchmark=FILE (here) and ?installed=/PATH (on the device)", node="--device",
            remedy="benchmark_model is LiteRT's own tool; take one built for Android and the device's processor",
        )  # fmt: skip
    benchmark = None if "benchmark" not in words else Path(words["benchmark"]).expanduser().absolute()
    if benchmark is not None and not benchmark.is_file():
        raise UsageError("there is no such benchmark_model", node=str(benchmark))
    installed = words.get("installed")
    if installed is not None and not _INSTALLED.fullmatch(installed):
        raise UsageError(f"{installed!r} is no path from the root in plain letters", node="--device")
    return Place(serial, benchmark, installed, seconds(words.get("timeout"), Place.timeout))


def profile(
    path: Path,
    place: str,
    *,
    runs: int | None,
    threads: int,
    input_shape: Mapping[str, Sequence[int]],
) -> Profile:
    """Measures a .tflite file on the device that `place` names: once for the whole, once for its operators.

    Raises:
        UsageError: `place` is malformed, or the file or an option is not for benchmark_model.
        EdgeccError: the device cannot be reached, or benchmark_model fails.
    """
    where = parse(place)
    if path.suffix != ".tflite":
        raise UsageError("benchmark_model runs .tflite files", node=str(path))
    if input_shape:
        raise UsageError("the shapes of a .tflite file are in it", node="--input-shape")
    if threads < 1 or (runs is not None and runs < 1):
        raise UsageError("threads and runs are at least 1")
    adb = _Adb(where)
    adb.call("get-state")
    with _folder(adb) as folder:
        tool = where.installed or f"{folder}/benchmark_model"
        adb.call("push", str(path.absolute()), f"{folder}/network.tflite")
        if where.benchmark is not None:
            adb.call("push", str(where.benchmark), tool)
            adb.call("shell", "chmod", "755", tool)
        words = [tool, f"--graph={folder}/network.tflite", f"--num_threads={threads}", "--use_xnnpack=true"]
        least = ("--min_secs=0", f"--num_runs={runs}") if runs else (f"--min_secs={_SECONDS}", "--num_runs=3")
        timing = read_timing(adb.call("shell", *words, *least, tool=True))
        table = (
            "--enable_op_profiling=true",
            "--max_profiling_buffer_entries=16384",
            "--min_secs=0",
            f"--num_runs={min(runs or _OPERATOR_RUNS, _OPERATOR_RUNS)}",
        )
        operators = read_operators(adb.call("shell", *words, *table, tool=True))
        machine, notes = _machine(adb), _notes(adb, timing, found=bool(operators))
    return Profile(
        runtime="LiteRT",
        runtime_version="of benchmark_model, which does not tell its version",
        machine=machine,
        threads=threads,
        runs=timing.runs,
        median_ms=timing.median_ms,
        p10_ms=timing.every_ms,
        p90_ms=timing.every_ms,
        min_ms=timing.min_ms,
        operators=operators,
        memory_bytes=timing.memory_bytes,
        size_bytes=path.stat().st_size,
        tier=MEASURED_THERE,
        notes=notes,
        mean_ms=timing.mean_ms,
    )


@dataclass(frozen=True)
class _Adb:
    """adb, for one device."""

    where: Place

    def call(self, *words: str, tool: bool = False) -> str:
        """What a command of adb says.

        Args:
            *words: for adb; those of `shell` are ours alone, as a shell reads them.
            tool: it is benchmark_model that runs: what went wrong is its own doing.
        """
        adb = shutil.which("adb")
        if adb is None:
            raise EdgeccError("there is no `adb` on the PATH", remedy="install Android's platform tools")
        try:
            done = subprocess.run(
                [adb, "-s", self.where.serial, *words],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                timeout=self.where.timeout,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise EdgeccError(
                "it did not answer within the time limit", node=self.where.serial, remedy="?timeout=SECONDS"
            ) from None
        said = done.stdout.decode(errors="replace")
        if done.returncode and tool:
            raise EdgeccError(
                f"benchmark_model fails: {_last(said)}", node=self.where.serial, remedy=_remedy(said)
            )
        if done.returncode:
            self.refuse(said)
        return said

    def refuse(self, said: str) -> None:
        """Says what adb's refusal means."""
        for pattern, cause, remedy in _REFUSALS:
            if re.search(pattern, said, re.IGNORECASE):
                raise EdgeccError(f"{cause} ({_last(said)})", node=self.where.serial, remedy=remedy)
        raise EdgeccError(f"adb fails: {_last(said)}", node=self.where.serial)


@contextmanager
def _folder(adb: _Adb) -> Iterator[str]:
    """A folder of our own on the device, removed at the end whatever happens."""
    path = _FOLDERS + secrets.token_hex(8)
    adb.call("shell", "mkdir", "-m", "700", path)
    try:
        yield path
    finally:
        with suppress(EdgeccError):
            adb.call("shell", "rm", "-rf", path)


def _machine(adb: _Adb) -> str:
    """What the device calls itself."""
    names = ("ro.product.manufacturer", "ro.product.model", "ro.board.platform", "ro.product.cpu.abi")
    told = [adb.call("shell", "getprop", name).strip() for name in names]
    release = adb.call("shell", "getprop", "ro.build.version.release").strip()
    board = " ".join(part for part in told[:2] if part)
    return ", ".join(part for part in (board, *told[2:], f"Android {release}" if release else "") if part)


def _notes(adb: _Adb, timing: Timing, *, found: bool) -> tuple[str, ...]:
    notes = [timing.note] if timing.note else []
    if not found:
        notes.append("no times of operators: benchmark_model printed no table of them")
    with suppress(EdgeccError):
        path = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
        governor = adb.call("shell", "cat", path).strip()
        if re.fullmatch("[a-z_]+", governor) and governor != "performance":
            notes.append(f"clock governor {governor}: the clock may have been low")
    return tuple(notes)


def _last(said: str) -> str:
    return ([line.strip() for line in said.splitlines() if line.strip()] or ["no message"])[-1]


def _remedy(said: str) -> str | None:
    if re.search(
        "not executable|exec format|cannot execute|bad elf|not a 64-bit|32-bit instead of",
        said,
        re.IGNORECASE,
    ):
        return (
            "take one built for Android and the device's processor (`adb shell getprop ro.product.cpu.abi`)"
        )
    return None
