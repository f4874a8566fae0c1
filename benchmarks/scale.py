"""How time grows with the nodes of a graph, and memory with its weights: each figure from a process of its own.

    python benchmarks/scale.py time [NODES ...]      seconds a thousand nodes of each stage, by size of the graph
    python benchmarks/scale.py memory [GIGABYTES [MODE]]  peak memory of each mode, as multiples of the weights

The graphs are made on the fly. `deep` is one chain, `wide` has 100 layers of parallel branches; both mix convolutions,
normalisations, elementwise operators, reshapes, transposes and the shape-computing chains that exporters leave.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

SIZES = (1000, 10_000, 30_000)
BRANCH = 20  # nodes that `_Maker.branch` makes
CHANNELS, SIDE = 8, 4


class _Maker:
    """Collects nodes and constants."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray[Any, Any]] = {}
        self.random = np.random.default_rng(0)

    def op(self, op_type: str, *inputs: str, count: int = 1, **attributes: Any) -> Any:
        from onnx import helper

        names = [f"v{len(self.nodes)}_{i}" for i in range(count)]
        self.nodes.append(helper.make_node(op_type, inputs, names, name=f"n{len(self.nodes)}", **attributes))
        return names[0] if count == 1 else names

    def constant(self, array: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(array, dtype)
        return name

    def ints(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def conv(self, x: str, inputs: int = CHANNELS, side: int = 1) -> str:
        scale = (inputs * side * side) ** -0.5
        weight = self.constant(self.random.normal(size=(CHANNELS, inputs, side, side)) * scale)
        return str(self.op("Conv", x, weight, pads=[side // 2] * 4))

    def normalised(self, x: str) -> str:
        gain, shift = self.random.uniform(0.8, 1.2, CHANNELS), self.random.normal(size=CHANNELS) / 10
        vectors = [gain, shift, np.zeros(CHANNELS), np.ones(CHANNELS)]
        return str(self.op("BatchNormalization", x, *map(self.constant, vectors)))

    def branch(self, x: str) -> str:
        """20 nodes from (1, 8, 4, 4) to the same; a contraction, so that no depth makes it explode."""
        y = self.op("Relu", self.normalised(self.conv(x, side=3)))
        y = self.op("Add", self.normalised(self.conv(y)), x)
        y = self.op("Mul", y, self.op("Sigmoid", y))
        batch = self.op("Gather", self.op("Shape", y), self.constant(0, np.int64))
        batch = self.op("Unsqueeze", batch, self.ints(0))
        shape = self.op("Concat", batch, self.ints(CHANNELS), self.ints(SIDE * SIDE), axis=0)
        y = self.op("Transpose", self.op("Reshape", y, shape), perm=[0, 2, 1])
        y = self.op("Mul", y, self.constant(self.random.uniform(0.1, 0.3, CHANNELS)))
        y = self.op("Reshape", self.op("Transpose", y, perm=[0, 2, 1]), self.ints(1, CHANNELS, SIDE, SIDE))
        first, second = self.op("Split", y, count=2, axis=1, num_outputs=2)
        return str(self.op("Tanh", self.op("Concat", second, first, axis=1)))

    def model(self, output: str) -> Any:
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        ports = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, CHANNELS, SIDE, SIDE])
            for name in ("x", output)
        ]
        held = [numpy_helper.from_array(array, name) for name, array in self.constants.items()]
        graph = helper.make_graph(self.nodes, "scale", ports[:1], ports[1:], held)
        return onnx.helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def synthetic(nodes: int, shape: str) -> Any:
    """A network of about `nodes` nodes: "deep" or "wide"."""
    maker = _Maker()
    width = 1 if shape == "deep" else max(1, nodes // (100 * BRANCH))
    x = "x"
    while len(maker.nodes) < nodes:
        if width == 1:
            x = maker.branch(x)
        else:
            x = maker.op("Concat", *(maker.branch(x) for _ in range(width)), axis=1)
            x = maker.normalised(maker.conv(x, width * CHANNELS))
    return maker.model(x)


# ---- time ------------------------------------------------------------------------------------------------------------


@contextmanager
def _stage(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.process_time()  # not spoilt by other processes; the runtimes have one thread here
    yield
    seconds[name] = seconds.get(name, 0.0) + time.process_time() - started


def stages(path: str) -> dict[str, float]:
    """Seconds of every stage of compiling one file, float and int8."""
    from edgecc.compile import compile as compile_
    from edgecc.importer import load
    from edgecc.options import CompileOptions
    from edgecc.pipeline import PassContext, Pipeline, infer_shapes
    from edgecc.presets import float_passes
    from edgecc.target import target

    seconds: dict[str, float] = {}
    device = target("arm")
    with _stage(seconds, "import"):
        model = load(path)
    started = time.process_time()
    floats, log = Pipeline(float_passes(device, CompileOptions())).run(
        model, PassContext(target=device, check=False)
    )
    total = time.process_time() - started
    for record in log.records:
        seconds[record.name] = seconds.get(record.name, 0.0) + record.seconds
    seconds["other work of the pipeline"] = total - sum(r.seconds for r in log.records)
    infer_shapes(floats)
    _to_tflite(seconds, floats, "fp32")
    _to_onnx(seconds, floats, "fp32")
    _quantized(seconds, floats, device)
    with (
        tempfile.TemporaryDirectory() as folder,
        _stage(seconds, "all of compiling to float, checked and verified"),
    ):
        compile_(path, precision="fp32", no_profile=True, threads=1, output=f"{folder}/o")
    return seconds


def _to_tflite(seconds: dict[str, float], model: Any, precision: str) -> None:
    from edgecc.analysis.layout import choose_layout
    from edgecc.analysis.sites import site_graph
    from edgecc.tflite.lower import lower, lower_graph

    suffix = "" if precision == "fp32" else f", {precision}"
    with _stage(seconds, f"sites{suffix}"):
        sites = site_graph(model)
    with _stage(seconds, f"layout{suffix}"):
        choose_layout(sites)
    with _stage(seconds, f"all of lowering to a TFLite graph{suffix}"):
        lower_graph(model)
    with _stage(seconds, f"the same, and writing it{suffix}"):
        lower(model, precision=precision, target="arm")


def _to_onnx(seconds: dict[str, float], model: Any, precision: str) -> None:
    from edgecc.onnxrt.export import export

    with _stage(seconds, f"export ONNX{'' if precision == 'fp32' else f', {precision}, and read it back'}"):
        export(model, precision=precision, target="arm")


def _quantized(seconds: dict[str, float], floats: Any, device: Any) -> None:
    from edgecc.calibration.dataset import random_samples
    from edgecc.calibration.observers import collect
    from edgecc.pipeline import PassContext, Pipeline
    from edgecc.presets import make_pass
    from edgecc.quant.plan import make_plan

    with _stage(seconds, "calibrate, one sample"):
        statistics = collect(floats, random_samples(floats, 1, 0), threads=1)
    with _stage(seconds, "plan"):
        plan = make_plan(floats, statistics, precision="int8")
    for runtime, write in (("tflite", _to_tflite), ("onnx", _to_onnx)):
        with _stage(seconds, f"plan for {runtime}"):
            special = plan.for_runtime(runtime, floats, device)  # type: ignore[arg-type]
        with _stage(seconds, f"insert_qdq for {runtime}"):
            context = PassContext(target=device, plan=special, check=False)
            quantized, _ = Pipeline([make_pass("insert_qdq")]).run(floats, context)
        write(seconds, quantized, "int8")


def time_table(sizes: list[int]) -> None:
    """Prints one row a stage."""
    import onnx

    columns: dict[str, dict[str, float]] = {}
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        for shape in ("deep", "wide"):
            for size in sizes:
                model, path = synthetic(size, shape), f"{folder}/{shape}{size}.onnx"
                onnx.save(model, path)
                key = f"{shape} {size:,}"
                counts[key] = len(model.graph.node)
                columns[key] = _child("stages", path)
                print(f"{key}: {sum(columns[key].values()):.0f} s", file=sys.stderr, flush=True)
    print("| stage | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for name in next(iter(columns.values())):
        cells = [f"{found.get(name, 0) / counts[key] * 1e3:.3f}" for key, found in columns.items()]
        print(f"| {name} | " + " | ".join(cells) + " |")


def _child(*arguments: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


# ---- memory ----------------------------------------------------------------------------------------------------------


def heavy(folder: Path, gigabytes: float) -> Path:
    """A network whose weights, of about 100 MB each, lie in a file beside it: Conv, Gemm and MatMul in turn."""
    import onnx
    from onnx import TensorProto, helper

    width, nodes, held, offset = 5120, [], [], 0
    random = np.random.default_rng(0)
    kinds: Mapping[str, tuple[tuple[int, ...], Mapping[str, Any]]] = {
        "Gemm": ((width, width), {"transB": 1}),
        "Conv": ((width, width, 1, 1), {}),
        "MatMul": ((width, width), {}),
    }
    x, flat = "x", True
    with (folder / "weights.bin").open("wb") as file:
        for index in range(max(1, round(gigabytes * 1e9 / (4 * width * width)))):
            kind = list(kinds)[index % 3]
            shape, attributes = kinds[kind]
            if flat == (kind == "Conv"):
                target = f"shape{index}"
                held.append(helper.make_tensor(target, TensorProto.INT64, *_shape(width, flat)))
                nodes.append(helper.make_node("Reshape", [x, target], [f"r{index}"]))
                x, flat = f"r{index}", not flat
            array = random.standard_normal(shape, np.float32) * np.float32(width**-0.5)
            file.write(array.tobytes())
            tensor = TensorProto(name=f"w{index}", data_type=TensorProto.FLOAT, dims=shape)
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", "weights.bin"), ("offset", offset), ("length", array.nbytes)):
                tensor.external_data.add(key=key, value=str(value))
            held.append(tensor)
            offset += array.nbytes
            nodes.append(helper.make_node(kind, [x, tensor.name], [f"y{index}"], **attributes))
            nodes.append(helper.make_node("Relu", [f"y{index}"], [f"z{index}"]))
            x = f"z{index}"
    last = [1, width] if flat else [1, width, 1, 1]
    ports = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, width]),
        helper.make_tensor_value_info(x, TensorProto.FLOAT, last),
    ]
    graph = helper.make_graph(nodes, "heavy", ports[:1], ports[1:], held)
    path = folder / "heavy.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def _shape(width: int, flat: bool) -> tuple[list[int], list[int]]:
    return ([4], [1, width, 1, 1]) if flat else ([2], [1, width])


MODES: Mapping[str, list[str]] = {
    "inspect": ["inspect"],
    **{
        f"{p} tflite": ["compile", "--precision", p, "--format", "tflite"]
        for p in ("fp32", "fp16", "dynamic")
    },
    "int8 tflite": ["compile", "--precision", "int8", "--format", "tflite", "--random-data"],
    "fp32 onnx": ["compile", "--precision", "fp32", "--format", "onnx"],
    "dynamic onnx": ["compile", "--precision", "dynamic", "--format", "onnx"],
    "int8 onnx": ["compile", "--precision", "int8", "--format", "onnx", "--random-data"],
    "fp32 both": ["compile", "--precision", "fp32"],
    "dynamic both": ["compile"],
    "int8 both": ["compile", "--precision", "int8", "--random-data"],
}


def memory_table(gigabytes: float, only: str = "") -> None:
    """Prints one row a mode: without and with verification, and with the profile too."""
    edgecc = str(Path(sys.executable).with_name("edgecc"))
    variants = {"bare": ["--no-verify", "--no-profile"], "verified": ["--no-profile"], "all": []}
    print(
        "| mode | " + " | ".join(f"{v}: x | s" for v in variants) + " |\n|---|" + "---|---|" * len(variants)
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # In a process of its own: a child's peak memory counts what its parent holds when it is forked.
        subprocess.run([sys.executable, __file__, "heavy", name, str(gigabytes)], check=True)
        weights = (folder / "weights.bin").stat().st_size / 1e9
        for mode, command in MODES.items():
            if only not in mode:
                continue
            row = []
            for extra in variants.values() if command[0] == "compile" else [[]]:
                output = ["-o", f"{folder}/o", "--threads", "1", *extra] if command[0] == "compile" else []
                peak, taken = _measured([edgecc, command[0], f"{folder}/heavy.onnx", *command[1:], *output])
                row.append(f"{peak / weights:.2f} | {taken:.1f}")
            print(f"| {mode} | " + " | ".join(row) + " |", flush=True)


def _measured(command: list[str]) -> tuple[float, float]:
    """Peak resident memory in GB, and seconds, of a command."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return usage.ru_maxrss * 1024 / 1e9, time.perf_counter() - started


def _print_stages(path: str) -> None:
    from edgecc.collection import rare_collections

    with rare_collections():  # as `edgecc.compile` does
        json.dump(stages(path), sys.stdout)


_COMMANDS: Mapping[str, Callable[..., Any]] = {
    "time": lambda *sizes: time_table([int(s) for s in sizes] or list(SIZES)),
    "memory": lambda gigabytes="1", only="": memory_table(float(gigabytes), only),
    "stages": _print_stages,
    "heavy": lambda folder, gigabytes: heavy(Path(folder), float(gigabytes)),
}


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in _COMMANDS:
        sys.exit(__doc__)
    _COMMANDS[sys.argv[1]](*sys.argv[2:])
