"""Runs one network in an emulated Arm process: `python3 arm_guest.py REQUEST.json`.

A program of the standard library, numpy and one runtime (edgecc cannot be imported in it). It loads the network, runs
every sample and writes the outputs. Asked to, it then runs one sample again between calls of a marker, a function of
the C library that nothing else calls: where a log of what the processor executes shows the marker, one inference ends
and the next begins. It ends with one line of JSON on standard output.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# POSIX's base-64 conversion of a long; glibc exports it, and neither Python nor a runtime uses it.
MARKER = "l64a"
_READ, _WRITE, _EXECUTE = 1, 2, 4


def main(request: dict[str, Any]) -> None:
    """Serves one request: kind, path, inputs, outputs, optimized, counted, forget."""
    import numpy

    feeds = numpy.load(request["inputs"], allow_pickle=False)
    run = _RUNTIMES[request["kind"]](request["path"], request.get("optimized"))
    names = list(feeds)
    count = len(feeds[names[0]]) if names else 1
    answers = [run({name: feeds[name][i] for name in names}) for i in range(count)]
    stacked: dict[str, Any] = {k: numpy.stack([a[k] for a in answers]) for k in answers[0]}
    numpy.savez(request["outputs"], **stacked)
    marker = getattr(ctypes.CDLL(None), MARKER)
    code = code_maps()
    if request["counted"]:
        one = {name: feeds[name][0] for name in names}
        if request["forget"]:
            forget(code, request["forget"])
        for _ in range(request["counted"]):
            marker(0)
            run(one)
        marker(0)
    address = ctypes.cast(marker, ctypes.c_void_p).value
    sys.stdout.write(json.dumps({"marker": address, "code": code}) + "\n")
    sys.stdout.flush()
    os._exit(0)  # a runtime's own clean-up takes seconds under emulation and tells nothing


def code_maps() -> list[tuple[int, int, int, str]]:
    """Start, end, offset in the file and path of every executable piece of a file that is mapped."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and "x" in fields[1] and fields[5].startswith("/"):
            start, end = (int(part, 16) for part in fields[0].split("-"))
            found.append((start, end, int(fields[2], 16), fields[5]))
    return found


def forget(code: list[tuple[int, int, int, str]], files: list[str]) -> None:
    """Has the emulator drop what it translated of these files, so that it logs what it translates from here on.

    Pages that become writable may change, so their translations are dropped.
    """
    protect = ctypes.CDLL(None).mprotect
    protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for start, end, _, path in code:
        if os.path.basename(path) in files:
            for access in (_READ | _WRITE | _EXECUTE, _READ | _EXECUTE):
                if protect(start, end - start, access):
                    raise OSError("mprotect failed")


def litert(path: str, _: str | None) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A TFLite file in LiteRT with XNNPACK, one thread: feeds and answers by position."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path, num_threads=1)
    inputs = {str(i): d["index"] for i, d in enumerate(interpreter.get_input_details())}
    outputs = {str(i): d["index"] for i, d in enumerate(interpreter.get_output_details())}
    shapes = {d["index"]: tuple(d["shape"]) for d in interpreter.get_input_details()}
    ready: list[bool] = []

    def run(feeds: dict[str, Any]) -> dict[str, Any]:
        if not ready:
            for name, index in inputs.items():
                if feeds[name].shape != shapes[index]:
                    interpreter.resize_tensor_input(index, feeds[name].shape)
            interpreter.allocate_tensors()
            ready.append(True)
        for name, index in inputs.items():
            interpreter.set_tensor(index, feeds[name])
        interpreter.invoke()
        return {name: interpreter.get_tensor(index) for name, index in outputs.items()}

    return run


def ort(path: str, optimized: str | None) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """An ONNX file in ONNX Runtime's CPU provider, one thread: feeds and answers by position."""
    import onnxruntime
    from stopwatch import readable  # type: ignore[import-not-found]  # beside this file

    def opened(saved: str | None) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        if saved:
            options.optimized_model_filepath = saved
        source = readable(path, options)
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])

    if optimized:
        opened(optimized)  # one of its own: a session that saves its graph executes it a little differently
    session = opened(None)
    names = {str(i): port.name for i, port in enumerate(session.get_inputs())}

    def run(feeds: dict[str, Any]) -> dict[str, Any]:
        answers = session.run(None, {names[key]: array for key, array in feeds.items()})
        return {str(i): answer for i, answer in enumerate(answers)}

    return run


_RUNTIMES = {"litert": litert, "ort": ort}

if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
