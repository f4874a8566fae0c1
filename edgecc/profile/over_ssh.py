"""Measures a file on a machine that `ssh` reaches: a program goes there, runs it, and tells what it took.

sshd gives a command to the user's login shell. So the command is one constant text that starts Python; the program,
the request and the files follow over standard input, and nothing of them is ever part of a command line there.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import IO, Any, NoReturn

from edgecc.datafiles import data_files
from edgecc.errors import EdgeccError, UsageError
from edgecc.profile import MEASURED_THERE, OperatorTime, Profile, spread
from edgecc.profile.litert_profile import operators_from_litert
from edgecc.profile.local import SECONDS
from edgecc.profile.ort_profile import operators_from_ort
from edgecc.profile.place import options, seconds

_RUNTIME = Path(__file__).resolve().parents[1] / "runtime"
# Quoted for every usual login shell: no quote, backslash, dollar, exclamation mark or newline in it.
_COMMAND = (
    "exec python3 -I -c 'import sys; source = sys.stdin.buffer;"
    ' exec(compile(source.read(int(source.readline())), "edgecc", "exec"))\''
)
# What is given here wins over the user's configuration: nothing may ask, and no unknown host is believed.
_OPTIONS = {
    "BatchMode": "yes", "StrictHostKeyChecking": "yes", "NoHostAuthenticationForLocalhost": "no",
    "PreferredAuthentications": "publickey", "PasswordAuthentication": "no", "KbdInteractiveAuthentication": "no",
    "ConnectTimeout": "15", "ServerAliveInterval": "15", "ServerAliveCountMax": "4", "ClearAllForwardings": "yes",
    "ControlPath": "none", "RemoteCommand": "none", "PermitLocalCommand": "no", "LogLevel": "INFO",
}  # fmt: skip
# What ssh says -> cause, remedy.
_REFUSALS = (
    ("host key verification failed|host identification has changed|no .* host key is known",
     "its host key is not the known one", "compare its key, then add it to known_hosts, for example by `ssh` itself"),
    ("permission denied", "it refuses the key", "add yours to authorized_keys there; only keys are tried"),
    ("could not resolve hostname", "no host of that name is known", "check it, or add it to your ssh configuration"),
    ("connection refused|timed out|no route to host|unreachable|connection reset|connection closed",
     "it cannot be reached", "check that it is on, and that sshd listens at that port"),
    ("python3.*not found|not found.*python3|no such file.*python3|unknown command.*python3",
     "there is no python3 on its PATH", "install Python 3.9 or later there; ?python= only names the one that measures"),
)  # fmt: skip
_PLACE = re.compile(
    r"(?:(?P<user>\w[\w.-]*)@)?(?P<host>\w[\w.-]*|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?/?(?:\?(?P<query>.*))?",
    re.ASCII,
)
_MOST_BYTES = 1 << 26  # that a device may answer


@dataclass(frozen=True)
class Place:
    """`[user@]host[:port]` with options behind `?`, and `&` between them.

    Attributes:
        host, user, port: None: as the ssh configuration has it.
        python: that measures there; None: one that has the runtime, else an environment is made.
        config: an ssh configuration instead of the user's own.
        timeout: seconds for everything.
    """

    host: str
    user: str | None = None
    port: int | None = None
    python: str | None = None
    config: Path | None = None
    timeout: float = 900.0


@dataclass
class _Answer:
    """What came back."""

    said: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    facts: list[dict[str, Any]] = field(default_factory=list)

    def hear(self, line: bytes) -> None:
        """One line; what a login script prints is none of it."""
        with suppress(ValueError, RecursionError):
            found = json.loads(line)
            if isinstance(found, dict):
                self.said.update(found)
                self.notes += [str(found["note"])] if "note" in found else []
                self.facts += [found["facts"]] if isinstance(found.get("facts"), dict) else []


def parse(place: str) -> Place:
    """Reads what stands behind `ssh://`.

    Raises:
        UsageError: it is no such place.
    """
    found = _PLACE.fullmatch(place)
    if found is None:
        raise UsageError(
            f"{place!r} is no place for ssh",
            node="--device",
            remedy="write ssh://[user@]host[:port][?python=/PATH]",
        )
    words = options(found["query"], ("python", "venv", "config", "timeout"))
    if "python" in words and "venv" in words:
        raise UsageError("python and venv are two names of one thing", node="--device", remedy="give one")
    python = words.get("python") or (f"{words['venv'].rstrip('/')}/bin/python" if "venv" in words else None)
    if python is not None and not (python.startswith(("/", "~/")) and python.isprintable()):
        raise UsageError(f"{python!r} is no path from the root or from home", node="--device")
    config = None if "config" not in words else Path(words["config"]).expanduser().absolute()
    if config is not None and not config.is_file():
        raise UsageError("there is no such ssh configuration", node=str(config))
    port = None if found["port"] is None else int(found["port"])
    if port is not None and not 0 < port < 1 << 16:
        raise UsageError(f"{port} is no port", node="--device")
    host = found["host"].strip("[]")
    return Place(host, found["user"], port, python, config, seconds(words.get("timeout"), Place.timeout))


def profile(
    path: Path,
    place: str,
    *,
    runs: int | None,
    threads: int,
    input_shape: Mapping[str, Sequence[int]],
) -> Profile:
    """Measures a .tflite or .onnx file on the machine that `place` names.

    Raises:
        UsageError: `place` is malformed, or the file is of another kind.
        EdgeccError: the machine cannot be reached, lacks something, cannot run the file, or takes too long.
    """
    where = parse(place)
    kind = {".tflite": "litert", ".onnx": "ort"}.get(path.suffix)
    if kind is None:
        raise UsageError("edgecc profiles .onnx and .tflite files", node=str(path))
    if threads < 1 or (runs is not None and runs < 1):
        raise UsageError("threads and runs are at least 1")
    beside = {f"model/{name}": file for name, file in data_files(path).items()} if kind == "ort" else {}
    programs = {name: _RUNTIME / name for name in ("stopwatch.py", "machine.py")}
    network = f"model/network{path.suffix}"
    while network in beside:
        network = f"{network.removesuffix(path.suffix)}_{path.suffix}"
    files = {**programs, **beside, network: path}
    request = {
        "runtime": kind,
        "version": metadata.version({"litert": "ai-edge-litert", "ort": "onnxruntime"}[kind]),
        "files": [[name, file.stat().st_size] for name, file in files.items()],
        "python": where.python,
        "timeout": where.timeout,
        "stopwatch": {
            "kind": kind, "threads": threads, "seconds": SECONDS, "runs": runs, "operators": True,
            "shapes": {name: list(shape) for name, shape in input_shape.items()},
        },
    }  # fmt: skip
    answer, code, errors = _visit(where, request, list(files.values()))
    if "done" not in answer.said:
        _refuse(where, answer, code, errors)
    try:
        return _profile(answer, kind, threads, path.stat().st_size)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:  # JSON of any form
        raise EdgeccError(f"it does not answer as it should: {error}", node=where.host) from error


def command(where: Place) -> list[str]:
    """The arguments of `ssh`."""
    ssh = shutil.which("ssh")
    if ssh is None:
        raise EdgeccError("there is no `ssh` on the PATH", remedy="install OpenSSH's client")
    return [
        ssh, *(() if where.config is None else ("-F", str(where.config))), "-T", "-a", "-x",
        *(f"-o{name}={value}" for name, value in _OPTIONS.items()),
        *(() if where.port is None else ("-p", str(where.port))), *(() if where.user is None else ("-l", where.user)),
        "--", where.host, _COMMAND,
    ]  # fmt: skip


def _visit(where: Place, request: dict[str, Any], files: list[Path]) -> tuple[_Answer, int, str]:
    """Sends everything, hears the answer; with ssh's exit code and what it said."""
    answer = _Answer()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command(where), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        )
        # The program there keeps to the limit, too; this is for one that is not heard of any more.
        watchdog = threading.Timer(where.timeout + 30, process.kill)
        watchdog.start()
        assert process.stdin is not None and process.stdout is not None
        try:
            with suppress(BrokenPipeError):  # the answer or ssh tells why it ended
                _send(process.stdin, request, files)
            heard, told = 0, process.stdout
            for line in iter(lambda: told.readline(_MOST_BYTES), b""):
                heard += len(line)
                if heard > _MOST_BYTES:
                    raise EdgeccError("it answers without end", node=where.host)
                answer.hear(line)
            with suppress(BrokenPipeError):
                process.stdin.close()
            code = process.wait()
        finally:
            watchdog.cancel()
            process.kill()
            for stream in (process.stdin, process.stdout):
                with suppress(BrokenPipeError):  # what was not taken any more
                    stream.close()
            process.wait()
        errors.seek(0)
        return answer, code, errors.read(1 << 16).decode(errors="replace")


def _send(stream: IO[bytes], request: dict[str, Any], files: list[Path]) -> None:
    program = (_RUNTIME / "visitor.py").read_bytes()
    stream.write(b"%d\n" % len(program) + program)
    stream.write(json.dumps(request).encode() + b"\n")
    for path in files:
        with path.open("rb") as file:
            shutil.copyfileobj(file, stream, 1 << 20)
    stream.flush()


def _refuse(where: Place, answer: _Answer, code: int, errors: str) -> NoReturn:
    if "failed" in answer.said:
        raise EdgeccError(
            str(answer.said["failed"]), node=where.host, remedy=str(answer.said.get("remedy") or "") or None
        )
    if code == -9:
        raise EdgeccError(
            "it did not answer within the time limit", node=where.host, remedy="?timeout=SECONDS"
        )
    for pattern, cause, remedy in _REFUSALS:
        if re.search(pattern, errors, re.IGNORECASE):
            raise EdgeccError(f"{cause} ({_last(errors)})", node=where.host, remedy=remedy)
    raise EdgeccError(f"the connection ended early: {_last(errors)} (exit code {code})", node=where.host)


def _last(errors: str) -> str:
    return ([line.strip() for line in errors.splitlines() if line.strip()] or ["no message"])[-1].rstrip(".")


def _profile(answer: _Answer, kind: str, threads: int, size: int) -> Profile:
    said, notes = answer.said, list(answer.notes)
    samples = [float(sample) for sample in said["latency"]]
    rows: tuple[OperatorTime, ...] = ()
    if "events" in said:
        rows = (operators_from_litert if kind == "litert" else operators_from_ort)(said["events"])
    memory = said["memory"]
    return Profile(
        runtime={"litert": "LiteRT", "ort": "ONNX Runtime"}[kind],
        runtime_version=str(said["ready"]),
        machine=str(said["machine"]),
        threads=threads,
        **spread(samples),
        operators=rows,
        memory_bytes=None if memory is None else int(memory),
        size_bytes=size,
        tier=MEASURED_THERE,
        notes=(*notes, *_circumstances(*answer.facts[:1], *answer.facts[-1:])),
    )


def _circumstances(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What may have slowed it down."""
    notes = []
    governor, most = before.get("governor"), before.get("most_mhz")
    if governor not in (None, "performance"):
        limit = f" below {float(most):.0f} MHz" if most else ""
        notes.append(
            f"clock governor {governor}: the clock may have been{limit or ' low'}; `performance` repeats better"
        )
    if "celsius" in before and "celsius" in after:
        notes.append(
            f"temperature {float(before['celsius']):.0f} °C before, {float(after['celsius']):.0f} °C after"
        )
    # Bits 0 to 3: under-voltage, clock capped, throttled, soft temperature limit (Raspberry Pi, `get_throttled`).
    if int(str(after.get("throttled", "0")), 16) & 0xF:
        notes.append(
            "it throttles now, for want of power or for heat: the figures are not those of a cool board"
        )
    if float(before.get("load", 0)) > 0.5:
        notes.append(f"it was busy with other work before: load {float(before['load']):.2f}")
    return notes
