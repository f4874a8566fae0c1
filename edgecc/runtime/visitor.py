"""Measures a network on a machine that has Python but no edgecc: the program that `ssh` brings and starts there.

A program of the standard library alone, for Python 3.9 and later. Over standard input it gets a line of JSON (the
request) and then the bytes of each file in it. It answers with a JSON object a line: those of the stopwatch, and
`machine`, `note`, `failed` with `remedy`, and at last `done`. Standard input stays open meanwhile: its end means that
the other side is gone, upon which everything is ended and removed.
"""

from __future__ import annotations

import json
import os
import platform
import runpy
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PIECE = 1 << 20
# Runtime: its package at the registry, the module, and what it is called.
_PACKAGES = {
    "litert": ("ai-edge-litert", "ai_edge_litert", "LiteRT"),
    "ort": ("onnxruntime", "onnxruntime", "ONNX Runtime"),
}
# Run by the Python that is to measure: where it finds packages, and which version of the runtime it has.
_PROBE = """
import importlib.metadata, importlib.util, json, sys
package, module = sys.argv[1:]
found = importlib.util.find_spec(module)
folder = None if found is None or not found.submodule_search_locations else found.submodule_search_locations[0]
version = None if folder is None else importlib.metadata.version(package)
print(json.dumps({"sys_path": [p for p in sys.path if p], "folder": folder, "version": version}))
"""


class Failure(Exception):
    """Why it cannot be measured here, and what would help."""

    def __init__(self, cause: str, remedy: str = "") -> None:
        super().__init__(cause)
        self.cause, self.remedy = cause, remedy


def main() -> None:
    """Serves one request: runtime, version, files, python, stopwatch (its request), timeout."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    request = json.loads(sys.stdin.buffer.readline())
    ending: dict[str, Any] = {"done": True}
    try:
        with tempfile.TemporaryDirectory(prefix="edgecc-") as folder:  # mkdtemp: nobody else may enter
            serve(request, Path(folder))
    except Failure as failure:
        ending = {"failed": failure.cause, "remedy": failure.remedy}
    except OSError as error:
        ending = {"failed": f"{type(error).__name__}: {error}"}
    say(**ending)  # once nothing is left here


def serve(request: dict[str, Any], folder: Path) -> None:
    """Receives the files, finds or makes the environment, measures."""
    until = time.monotonic() + float(request["timeout"])
    os.environ["TMPDIR"] = str(folder)  # what runtimes leave behind goes with the rest
    for name, size in request["files"]:
        receive(folder, name, size)
    board = runpy.run_path(str(folder / "machine.py"))
    say(machine=board["machine"](), facts=board["facts"]())
    python, found = environment(request, until)
    words = dict(request["stopwatch"], sys_path=found["sys_path"], path=str(folder / request["files"][-1][0]))
    words["version"] = found["version"]
    if words["kind"] == "litert":
        library = "libLiteRt.dylib" if platform.system() == "Darwin" else "libLiteRt.so"
        words["library"] = str(Path(found["folder"]) / library)
    program, said = str(folder / "stopwatch.py"), set()

    def hear(line: bytes) -> None:
        if not line.startswith(b"{"):  # a runtime's own chatter
            return
        said.update(json.loads(line))
        sys.stdout.buffer.write(line + b"\n")
        sys.stdout.flush()

    code, errors = watched([python, "-I", "-S", program, json.dumps(words)], until, hear, b"go\n")
    if code and "latency" not in said and words["kind"] == "litert":
        say(note=f"measured through the interpreter, without times of operators: {ended(code, errors)}")
        words.update(kind="interpreter", operators=False)
        code, errors = watched([python, "-I", "-S", program, json.dumps(words)], until, hear, b"go\n")
    if code and "latency" not in said:
        raise Failure(f"{_PACKAGES[request['runtime']][2]} cannot run it: {ended(code, errors)}")
    if code:
        say(note=f"no times of operators: {ended(code, errors)}")
    say(facts=board["facts"]())


def receive(folder: Path, name: str, size: int) -> None:
    """Writes the next `size` bytes into a file below `folder`; names come from a model, which nobody vouches for."""
    path = folder / name
    if os.path.isabs(name) or ".." in Path(name).parts:
        raise Failure(f"{name!r} leads out of the folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        while size:
            piece = sys.stdin.buffer.read(min(size, _PIECE))
            if not piece:
                raise SystemExit(1)
            file.write(piece)
            size -= len(piece)


def environment(request: dict[str, Any], until: float) -> tuple[str, dict[str, Any]]:
    """The Python that measures and what it has: the one asked for, this one, or an environment made for it."""
    package, _, title = _PACKAGES[request["runtime"]]
    wanted, asked = request["version"], request["python"]
    if asked:
        python = os.path.expanduser(asked)
        found = probe(python, request["runtime"], until)
        if found is None:
            raise Failure(f"{asked} there has no {title}", f"{asked} -m pip install {package}=={wanted}")
        if found["version"] != wanted:
            say(note=f"{title} {found['version']} there, {wanted} here")
        return python, found
    folder = Path.home() / ".cache" / "edgecc" / f"{package}-{wanted}-python{platform.python_version()}"
    folder = folder.with_name(f"{folder.name}-{platform.machine()}")  # a home may be shared
    own = str(folder / "bin" / "python")
    for python in (sys.executable, own):
        found = probe(python, request["runtime"], until) if os.path.exists(python) else None
        if found is not None and found["version"] == wanted:
            return python, found
    make(folder, f"{package}=={wanted}", until)
    found = probe(own, request["runtime"], until)
    if found is None:
        raise Failure(f"{title} does not import from {folder}", f"remove {folder} there")
    say(note=f"made an environment with {title} {wanted} in {folder} there, for this and later measurements")
    return own, found


def probe(python: str, runtime: str, until: float) -> dict[str, Any] | None:
    """What a Python has; None without the runtime."""
    lines: list[bytes] = []
    try:
        # From the root: a folder with files of the model must not be one where modules are sought.
        code, errors = watched([python, "-c", _PROBE, *_PACKAGES[runtime][:2]], until, lines.append)
    except OSError as error:
        raise Failure(
            f"{python} does not start there: {error.strerror}", "name another with ?python="
        ) from None
    if code:
        raise Failure(f"{python} there fails: {ended(code, errors)}", "name another with ?python=")
    found: dict[str, Any] = json.loads(lines[-1])
    return found if found["version"] else None


def make(folder: Path, requirement: str, until: float) -> None:
    """Makes an environment with one package in it; one that lacks the package only is gone on with."""
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    pip, own = [str(folder / "bin" / "python"), "-m", "pip"], "name an environment that has one with ?python="
    if not os.path.exists(pip[0]) or watched([*pip, "--version"], until)[0]:
        code, errors = watched([sys.executable, "-m", "venv", "--clear", str(folder)], until)
        if code:
            cause = f"no environment can be made there: {ended(code, errors)}"
            raise Failure(cause, f"install python3-venv there, or {own}")
    words = [
        "install",
        "--quiet",
        "--no-input",
        "--only-binary=:all:",
        "--disable-pip-version-check",
        requirement,
    ]
    code, errors = watched([*pip, *words], until)
    if code:
        system = f"Python {platform.python_version()} on {platform.machine()}"
        raise Failure(
            f"{requirement} cannot be installed there ({system}): {ended(code, errors)}",
            f"let it reach a package index, or {own} (another version will do)",
        )


def watched(
    command: list[str],
    until: float,
    hear: Callable[[bytes], object] = len,
    given: bytes = b"",
) -> tuple[int, str]:
    """Runs a command; ends all that it started when time is over or the other side is gone. Its code and errors.

    Args:
        command: without a shell.
        until: monotonic seconds.
        hear: is called with each line that it says.
        given: to its standard input.
    """
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd="/",
            start_new_session=True,
        )
        assert process.stdin is not None and process.stdout is not None
        try:
            try:
                with process.stdin as stream:
                    stream.write(given)
            except BrokenPipeError:  # it ended before it read
                pass
            _listen(process.stdout.fileno(), until, hear)
            code = process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise Failure("it ran past the time limit", "allow more with ?timeout=SECONDS") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.stdout.close()
            process.wait()
        errors.seek(0)
        return code, errors.read().decode(errors="replace")


def _listen(child: int, until: float, hear: Callable[[bytes], object]) -> None:
    """Reads lines until the child closes its output."""
    pending = b""
    with selectors.DefaultSelector() as selector:
        selector.register(child, selectors.EVENT_READ)
        selector.register(0, selectors.EVENT_READ)
        while True:
            ready = [key.fd for key, _ in selector.select(max(0.0, until - time.monotonic()))]
            if not ready or time.monotonic() > until:  # one that talks without end is never waited for
                raise subprocess.TimeoutExpired("", 0)
            if 0 in ready and not os.read(0, 1):
                raise SystemExit(1)  # nobody listens any more
            if child not in ready:
                continue
            chunk = os.read(child, 1 << 16)
            if not chunk:
                return
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                hear(line)


def ended(code: int, errors: str) -> str:
    """How a program ended, with the last thing that it said."""
    lines = [line.strip() for line in errors.splitlines()]
    told = [line for line in lines if line and not line.startswith(("INFO:", "WARNING:", "[notice]"))]
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return f"{told[-1][:500] if told else 'no message'} ({how})"


def say(**message: object) -> None:
    """One line of the protocol."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _leave(number: int, frame: object) -> None:
    raise SystemExit(1)


if __name__ == "__main__":
    main()
