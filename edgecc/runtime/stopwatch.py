"""Times one network in a process of its own: `python -I -S stopwatch.py REQUEST`.

A program of the standard library alone (edgecc cannot be imported in it): it starts fast, its memory is the
network's and not the compiler's, and a crash of a runtime's unofficial interface ends nothing but itself. The
protocol, a JSON object a line: `{"ready": ...}` once loaded; it waits for a line; `{"latency": ...}`; then
`{"events": ...}` with the runtime's own timings of operators, or `{"note": ...}` where there are none.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MAX_RUNS = 2000
# onnxruntime_session_options_config_keys.h: where a model given as bytes has its external data.
FOLDER_KEY = "session.model_external_initializers_file_folder_path"
# Every release that is served reads this version of the file format and refuses those later than it knows.
IR_VERSION = 10
_IR_VERSION_TAG = 0x08  # field 1 of ModelProto, a varint; protobuf writes it first
Handle = ctypes.c_void_p


def main(request: dict[str, Any]) -> None:
    """Serves one request: kind, path, threads, seconds, runs, library, sys_path, shapes."""
    sys.path[:] = request["sys_path"]
    kinds: dict[str, type[LiteRt | Ort | Interpreter]] = {
        "litert": LiteRt,
        "ort": Ort,
        "interpreter": Interpreter,
    }
    network = kinds[request["kind"]](request)
    before = resident()["VmRSS"]
    run = network.load(profile=False)
    say(ready=network.version)
    sys.stdin.readline()
    samples = measure(run, request["seconds"], request["runs"])
    del run
    peak = resident()["VmHWM"]
    say(latency=samples, memory=max(0, peak - before) if before and peak else None)
    if not request["operators"]:
        return
    typical = sorted(samples)[len(samples) // 2] / 1e3
    try:
        say(events=network.events(max(3, min(60, int(request["seconds"] / 2 / max(typical, 1e-6))))))
    except (OSError, AttributeError, RuntimeError, ValueError) as error:
        say(note=f"{type(error).__name__}: {error}")


def say(**message: object) -> None:
    """One line of the protocol."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def measure(run: Callable[[], None], seconds: float, runs: int | None) -> list[float]:
    """Milliseconds of each run; `runs` of them, or as many as fit into `seconds` and three at least."""
    estimate = 0.0
    for _ in range(3):  # warm-up: first touches of memory, packing of weights, clocks
        started = time.perf_counter()
        run()
        estimate = time.perf_counter() - started
        if estimate > seconds:
            break
    count = runs or max(3, min(MAX_RUNS, int(seconds / max(estimate, 1e-6))))
    samples = []
    for _ in range(count):
        started = time.perf_counter_ns()
        run()
        samples.append((time.perf_counter_ns() - started) / 1e6)
    return samples


def resident() -> dict[str, int]:
    """Current (VmRSS) and peak (VmHWM) resident bytes of this process; 0 where the system does not tell.

    Not `ru_maxrss`: Linux carries the parent's peak over into it.
    """
    found = {"VmRSS": 0, "VmHWM": 0}
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in found:
                found[name] = int(rest.split()[0]) * 1024
    return found


class RankedTensorType(ctypes.Structure):
    """LiteRtRankedTensorType."""

    _fields_ = (
        ("element_type", ctypes.c_int32),
        ("bits", ctypes.c_uint32),  # rank: 7 bits, has_strides: 1
        ("dimensions", ctypes.c_int32 * 8),
        ("strides", ctypes.c_uint32 * 8),
    )


class ProfilerEvent(ctypes.Structure):
    """LiteRt's ProfiledEventData. Times in microseconds."""

    _fields_ = (
        ("tag", ctypes.c_char_p),
        ("type", ctypes.c_int),
        ("start", ctypes.c_uint64),
        ("elapsed", ctypes.c_uint64),
        ("memory", ctypes.c_size_t * 6),
        ("metadata1", ctypes.c_uint64),
        ("metadata2", ctypes.c_uint64),
        ("source", ctypes.c_int),
    )


class LiteRt:
    """A TFLite file through the C interface of libLiteRt, which is no stable API: any export may be missing.

    Written against ai-edge-litert 2.3; `RuntimeError` or `AttributeError` where another version differs.
    """

    def __init__(self, request: dict[str, Any]) -> None:
        self._threads = int(request["threads"])
        self._library = ctypes.CDLL(request["library"])
        self.version = request["version"]
        self._release = ctypes.CFUNCTYPE(None, Handle)(lambda _: None)  # the strings live as long as we do
        self._strings: list[ctypes.Array[ctypes.c_char]] = []
        self._environment, self._model, self._graph = Handle(), Handle(), Handle()
        self._compiled = Handle()
        self._call("LiteRtCreateEnvironment", 0, None, ctypes.byref(self._environment))
        self._path = request["path"]

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            raise RuntimeError(f"{name} returned {status}")

    def load(self, *, profile: bool) -> Callable[[], None]:
        """Compiles the network for XNNPACK and returns what runs it once."""
        env, byref = self._environment, ctypes.byref
        if not self._model:
            self._call("LiteRtCreateModelFromFile", env, self._path.encode(), byref(self._model))
            self._call("LiteRtGetModelSubgraph", self._model, ctypes.c_size_t(0), byref(self._graph))
        options = Handle()
        self._call("LiteRtCreateOptions", byref(options))
        self._call("LiteRtSetOptionsHardwareAccelerators", options, 1)  # CPU
        self._add(options, b"xnnpack", b"num_threads = %d\n" % self._threads)
        if profile:
            self._add(options, b"runtime_options_string", b"enable_profiling = true\n")
        compiled = self._compiled = Handle()
        self._call("LiteRtCreateCompiledModel", env, self._model, options, byref(compiled))
        taken, given = self._buffers("Input"), self._buffers("Output")
        sizes = ctypes.c_size_t(len(taken)), ctypes.c_size_t(len(given))
        execute, zero = self._library.LiteRtRunCompiledModel, ctypes.c_size_t(0)

        def run() -> None:
            if status := execute(compiled, zero, sizes[0], taken, sizes[1], given):
                raise RuntimeError(f"LiteRtRunCompiledModel returned {status}")

        return run

    def _add(self, options: Handle, identifier: bytes, text: bytes) -> None:
        self._strings.append(ctypes.create_string_buffer(text))
        opaque = Handle()
        payload = ctypes.cast(self._strings[-1], Handle)
        self._call("LiteRtCreateOpaqueOptions", identifier, payload, self._release, ctypes.byref(opaque))
        self._call("LiteRtAddOpaqueOptions", options, opaque)

    def _buffers(self, side: str) -> ctypes.Array[Handle]:
        byref, count = ctypes.byref, ctypes.c_size_t()
        self._call(f"LiteRtGetNumSubgraph{side}s", self._graph, byref(count))
        buffers = (Handle * count.value)()
        for i in range(count.value):
            tensor, kind, needs, buffer = Handle(), RankedTensorType(), Handle(), Handle()
            index, graph = ctypes.c_size_t(i), ctypes.c_size_t(0)
            self._call(f"LiteRtGetSubgraph{side}", self._graph, index, byref(tensor))
            self._call("LiteRtGetRankedTensorType", tensor, byref(kind))
            for axis in range(8):
                kind.dimensions[axis] = max(1, kind.dimensions[axis])  # a symbolic batch counts as 1
            name = f"LiteRtGetCompiledModel{side}BufferRequirements"
            self._call(name, self._compiled, graph, index, byref(needs))
            name = "LiteRtCreateManagedTensorBufferFromRequirements"
            self._call(name, self._environment, byref(kind), needs, byref(buffer))
            if side == "Input":
                self._fill(buffer, kind.element_type)
            buffers[i] = buffer
        return buffers

    def _fill(self, buffer: Handle, element_type: int) -> None:
        size, memory = ctypes.c_size_t(), Handle()
        self._call("LiteRtGetTensorBufferSize", buffer, ctypes.byref(size))
        self._call("LiteRtLockTensorBuffer", buffer, ctypes.byref(memory), 1)  # for writing
        pattern = random_bytes(element_type)
        data = (pattern * (size.value // len(pattern) + 1))[: size.value]
        ctypes.memmove(memory, data, size.value)
        self._call("LiteRtUnlockTensorBuffer", buffer)

    def events(self, runs: int) -> list[tuple[str, int, int, int]]:
        """(tag, type, microseconds, index) of every event of `runs` runs, in order."""
        self._library.LiteRtDestroyCompiledModel(self._compiled)  # two hold the packed weights twice
        run, profiler, count = self.load(profile=True), Handle(), ctypes.c_int()
        run()
        self._call("LiteRtCompiledModelGetProfiler", self._compiled, ctypes.byref(profiler))
        self._call("LiteRtStartProfiler", profiler)
        for _ in range(runs):
            run()
        self._call("LiteRtStopProfiler", profiler)
        self._call("LiteRtGetNumProfilerEvents", profiler, ctypes.byref(count))
        events = (ProfilerEvent * count.value)()
        self._call("LiteRtGetProfilerEvents", profiler, count, events)
        return [(e.tag.decode(errors="replace"), e.type, e.elapsed, e.metadata1) for e in events]


def random_bytes(element_type: int) -> bytes:
    """A pattern for inputs: seeded noise for floats and 8-bit integers, 0 (a valid index) for others."""
    source = random.Random(0)
    if element_type == 1:  # float32
        return bytes((ctypes.c_float * 1021)(*(source.uniform(-1, 1) for _ in range(1021))))
    return source.randbytes(1021) if element_type in (3, 9) else bytes(8)  # uint8, int8


def readable(model: str | bytes, options: Any) -> str | bytes:
    """The model under a version of the file format that ONNX Runtime reads; it minds nothing else of a later one.

    The operators have a version of their own, so what a later format adds shows there or in element types.

    Args:
        model: path or serialised ModelProto.
        options: of the session; told the folder of the external data where a file becomes bytes.
    """
    if isinstance(model, bytes):
        head = model[:2]
    else:
        with Path(model).open("rb") as file:
            head = file.read(2)
    if len(head) < 2 or head[0] != _IR_VERSION_TAG or not IR_VERSION < head[1] < 0x80:
        return model
    if isinstance(model, str):
        options.add_session_config_entry(FOLDER_KEY, str(Path(model).resolve().parent))
        model = Path(model).read_bytes()
    return bytes((_IR_VERSION_TAG, IR_VERSION)) + model[2:]


class Ort:
    """An ONNX file in ONNX Runtime's CPU provider, with every graph optimisation."""

    def __init__(self, request: dict[str, Any]) -> None:
        import numpy

        # As edgecc does for itself; on a device nothing else says it.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime

        self._numpy, self._ort, self._request = numpy, onnxruntime, request
        self._session: Any = None
        self.version = str(onnxruntime.__version__)

    def load(self, *, profile: bool, prefix: str = "") -> Callable[[], None]:
        """Opens a session and returns what runs it once."""
        self._session = None  # two hold the weights twice
        options = self._ort.SessionOptions()
        options.log_severity_level = 4
        options.inter_op_num_threads = 1
        options.intra_op_num_threads = int(self._request["threads"])
        if profile:
            options.enable_profiling, options.profile_file_prefix = True, prefix
        session = self._ort.InferenceSession(
            readable(self._request["path"], options), options, providers=["CPUExecutionProvider"]
        )
        self._session = session
        feeds = {i.name: self._noise(i) for i in session.get_inputs()}
        return lambda: session.run(None, feeds) and None

    def _noise(self, argument: Any) -> Any:
        shape = self._request["shapes"].get(argument.name)
        shape = shape or [d if isinstance(d, int) and d > 0 else 1 for d in argument.shape]
        kind = argument.type.removeprefix("tensor(").removesuffix(")")
        name = {"float": "float32", "double": "float64"}.get(kind, kind)
        noise = self._numpy.random.default_rng(0).standard_normal(shape)
        return (noise if name.startswith("float") else self._numpy.zeros(shape)).astype(name)

    def events(self, runs: int) -> list[tuple[str, str, int, str]]:
        """(node, operator, microseconds, "ort") of every node of `runs` runs, in order."""
        with tempfile.TemporaryDirectory() as folder:
            run = self.load(profile=True, prefix=str(Path(folder) / "p"))
            for _ in range(runs + 1):
                run()
            found = json.loads(Path(self._session.end_profiling()).read_text(encoding="utf-8"))
        kernels = [e for e in found if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
        kernels = kernels[len(kernels) // (runs + 1) :]  # without the first run
        return [
            (e["name"].removesuffix("_kernel_time"), e["args"]["op_name"], e["dur"], "ort") for e in kernels
        ]


class Interpreter:
    """A TFLite file through LiteRT's documented interface, which knows no times of operators."""

    def __init__(self, request: dict[str, Any]) -> None:
        import numpy
        from ai_edge_litert.interpreter import Interpreter as Python

        self._numpy = numpy
        self._graph = Python(request["path"], num_threads=int(request["threads"]))
        self.version = str(request["version"])

    def load(self, *, profile: bool) -> Callable[[], None]:
        """Allocates the tensors and returns what runs it once."""
        self._graph.allocate_tensors()
        for each in self._graph.get_input_details():
            noise = self._numpy.random.default_rng(0).standard_normal(each["shape"])
            zeros = self._numpy.zeros(each["shape"], each["dtype"])
            floats = self._numpy.issubdtype(each["dtype"], self._numpy.floating)
            self._graph.set_tensor(each["index"], noise.astype(each["dtype"]) if floats else zeros)
        return lambda: self._graph.invoke() and None

    def events(self, runs: int) -> list[tuple[str, int, int, int]]:
        """There are none."""
        raise RuntimeError("the interpreter tells no times of operators")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
