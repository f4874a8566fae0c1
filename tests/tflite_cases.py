"""One-operator networks for the tests of the TFLite lowering, and the comparison with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgecc import ir
from edgecc.artifact import Artifact
from edgecc.calibration.dataset import random_samples
from edgecc.calibration.observers import collect
from edgecc.importer import load
from edgecc.pipeline import PassContext, Pipeline
from edgecc.presets import make_pass
from edgecc.quant.plan import QuantPlan, make_plan
from edgecc.runtime.litert import LiteRtRunner
from edgecc.runtime.ort import OrtRunner
from edgecc.tflite.lower import lower

Array = npt.NDArray[Any]
LAYOUTS = ("auto", "onnx", "nhwc")


def seeded(*shape: int, seed: int = 0, low: float | None = None) -> Array:
    """Normal float32 values, or uniform ones from `low` to `low` + 1."""
    random = np.random.default_rng((seed, *shape))
    values = random.standard_normal(shape) if low is None else random.random(shape) + low
    return np.asarray(values, np.float32)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


@dataclass(frozen=True)
class Case:
    """A node: its operator, operands (a shape: computed; an array: constant; None: absent) and attributes."""

    op: str
    operands: tuple[tuple[int, ...] | Array | None, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    outputs: int = 1
    low: float | None = None
    dtype: str = "float32"

    def __str__(self) -> str:
        shapes = [
            "-"
            if o is None
            else "x".join(map(str, o)) or "()"
            if isinstance(o, tuple)
            else f"c{list(o.shape)}"
            for o in self.operands
        ]
        texts = [f"{k}={v}" for k, v in self.attributes.items()]
        constants = [
            str(o.reshape(-1)[:8].tolist())
            for o in self.operands
            if isinstance(o, np.ndarray) and o.dtype != np.float32
        ]
        kind = [] if self.dtype == "float32" else [self.dtype]
        return " ".join([self.op, *kind, *shapes, *constants, *texts]).replace("'", "")


def case(op: str, *operands: tuple[int, ...] | Array | None, outputs: int = 1, low: float | None = None,
         dtype: str = "float32", **attributes: Any) -> Case:  # fmt: skip
    return Case(op, operands, attributes, outputs, low, dtype)


def names(cases: Sequence[Case]) -> list[str]:
    return [str(c) for c in cases]


def model(c: Case, *, sandwiched: bool = False, opset: int = 21) -> onnx.ModelProto:
    """The node alone, or with a 1x1 Conv before and behind it on every float edge of rank 3 and 4."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(c.dtype))
    nodes, inputs, constants, read = [], [], [], []
    for i, operand in enumerate(c.operands):
        if operand is None:
            read.append("")
        elif isinstance(operand, tuple):
            inputs.append(helper.make_tensor_value_info(f"x{i}", kind, operand))
            read.append(f"x{i}")
            if sandwiched and c.dtype == "float32" and len(operand) in (3, 4):
                constants.append(_pointwise(f"w{i}", operand[1], len(operand)))
                nodes.append(helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"in{i}"], name=f"before{i}"))
                read[-1] = f"in{i}"
        else:
            read.append(f"c{i}")
            constants.append(numpy_helper.from_array(operand, f"c{i}"))
    results = [f"y{i}" for i in range(c.outputs)]
    nodes.append(helper.make_node(c.op, read, results, name="node", **c.attributes))
    graph = helper.make_graph(nodes, "g", inputs, [onnx.ValueInfoProto(name=n) for n in results], constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    shapes = onnx.shape_inference.infer_shapes(_without_outputs(made), data_prop=True).graph.value_info
    kinds = {v.name: v.type.tensor_type for v in shapes}
    del made.graph.output[:]
    for name in results:
        found = kinds[name]
        dims = [d.dim_value for d in found.shape.dim]
        if sandwiched and len(dims) in (3, 4) and found.elem_type == TensorProto.FLOAT:
            made.graph.initializer.append(_pointwise(f"{name}_w", dims[1], len(dims)))
            made.graph.node.append(
                helper.make_node("Conv", [name, f"{name}_w"], [f"{name}_out"], name=f"after_{name}")
            )
            name = f"{name}_out"
        made.graph.output.append(helper.make_tensor_value_info(name, found.elem_type, dims))
    return made


def _without_outputs(made: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(made)
    del copy.graph.output[:]
    return copy


def _pointwise(name: str, channels: int, rank: int) -> onnx.TensorProto:
    return numpy_helper.from_array(seeded(channels, channels, *[1] * (rank - 2), seed=7) + 0.3, name)


def compiled(
    original: onnx.ModelProto | ir.Model,
    io_layout: Any = "auto",
    passes: Sequence[str] = (),
    check: bool = True,
) -> Artifact:
    """Imported, rewritten by `passes` (whose answers are compared if `check`), lowered."""
    loaded = original if isinstance(original, ir.Model) else load(original)
    rewritten, _ = Pipeline([make_pass(name) for name in passes]).run(loaded, PassContext(check=check))
    return lower(rewritten, precision="fp32", target="arm", io_layout=io_layout)


def feed(original: onnx.ModelProto, *, low: float | None = None, seed: int = 1) -> dict[str, Array]:
    """Random inputs: normal, or from `low` up; integers from -4 to 4; booleans."""
    feeds: dict[str, Array] = {}
    for i, value in enumerate(original.graph.input):
        shape = [d.dim_value or 2 for d in value.type.tensor_type.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        random = np.random.default_rng((seed, i))
        if dtype.kind == "f":
            array = seeded(*shape, seed=seed + i, low=low)
        else:
            array = random.integers(0 if low is None else int(low), 2 if dtype.kind == "b" else 5, shape)
        feeds[value.name] = np.asarray(array).astype(dtype)
    return feeds


def assert_close(got: Mapping[str, Array], wanted: Mapping[str, Array], tolerance: float = 1e-5) -> None:
    """Equal names, shapes and numbers: relative to the largest number of each output."""
    assert list(got) == list(wanted)
    for name, array in wanted.items():
        assert got[name].shape == array.shape, name
        if array.dtype.kind == "f":
            finite = np.abs(array[np.isfinite(array)])
            limit = tolerance * max(float(finite.max(initial=0.0)), 1e-3)
            np.testing.assert_allclose(got[name], array, rtol=0, atol=limit, err_msg=name)
        else:
            np.testing.assert_array_equal(got[name], array, err_msg=name)


def check(c: Case, *, layouts: Sequence[str] = LAYOUTS, passes: Sequence[str] = (), tolerance: float = 1e-5,
          change: Callable[[onnx.ModelProto], onnx.ModelProto] | None = None) -> None:  # fmt: skip
    """Alone and between two convolutions, in every layout of inputs and outputs: as ONNX Runtime answers."""
    for sandwiched in (False, True):
        made = model(c, sandwiched=sandwiched)
        if change is not None:
            made = change(made)
        if sandwiched and len(made.graph.node) == 1:
            return
        feeds = feed(made, low=c.low)
        wanted = OrtRunner.from_bytes(made.SerializeToString(), optimize=False).run(feeds)
        for io_layout in layouts:
            artifact = compiled(made, io_layout, passes)
            assert len(artifact.notes["transposes"]) == artifact.notes["operators"].get("TRANSPOSE", 0)
            got = LiteRtRunner(artifact.data, threads=1).run(feeds)
            assert_close(got, wanted, tolerance)


def with_dtype(c: Case, dtype: str) -> Case:
    return replace(c, dtype=dtype)


def quantized(original: onnx.ModelProto, passes: Sequence[str] = ("fuse_gemm",), precision: Any = "int8",
              per_channel: bool = True) -> tuple[ir.Model, QuantPlan]:  # fmt: skip
    """The Q/DQ graph for TFLite, calibrated on four random samples, and its plan."""
    rewritten, _ = Pipeline([make_pass(name) for name in passes]).run(load(original))
    statistics = collect(rewritten, random_samples(rewritten, count=4, seed=3))
    plan = make_plan(rewritten, statistics, precision=precision, per_channel=per_channel)
    plan = plan.for_runtime("tflite", rewritten)
    graph, _ = Pipeline([make_pass("insert_qdq")]).run(rewritten, PassContext(plan=plan))
    return graph, plan
