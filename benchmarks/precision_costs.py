"""Fits the cost table of a target ([cost] in targets/arm.toml) to timings of single operators on this machine.

    python benchmarks/precision_costs.py [repeats]

Each operator is compiled to TFLite in float, int8 and int16x8 and timed by LiteRT's own profiler, one thread; the
least of `repeats` (3) counts. Non-negative least squares of the relative errors give, for each precision, the cycles
of a multiply-accumulate and of a byte read or written, and in common those of a converted element and of any
operator. Cycles are nominal: seconds times the clock in /proc/cpuinfo. One number for all operators is rough: printed
is how far the fit is from the timings. These are the ratios of this processor, not of the device that the target
names: what `edgecc calibrate` measures there takes their place.
"""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from scipy.optimize import nnls

from edgecc import ir
from edgecc.analysis.cost import elements, moved_bytes
from edgecc.analysis.cost import macs as count_macs
from edgecc.calibration.dataset import random_samples
from edgecc.calibration.observers import collect
from edgecc.importer import load
from edgecc.passes.insert_qdq import InsertQDQ
from edgecc.pipeline import PassContext
from edgecc.profile import profile_artifact
from edgecc.quant.plan import make_plan
from edgecc.quant.units import unit_outputs
from edgecc.tflite.lower import lower

PRECISIONS = ("fp32", "int8", "int16x8")
RNG = np.random.default_rng(0)


def weights(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


# Operator, shapes of its activations, constants, attributes.
CASES: list[Any] = [
    *(("Conv", [(1, i, s, s)], [weights(o, i, 1, 1), weights(o)], {}) for i, o, s in
      ((16, 96, 56), (96, 24, 56), (144, 32, 28), (192, 64, 14), (384, 96, 14), (960, 320, 7))),
    *(("Conv", [(1, c, s, s)], [weights(c, c, 3, 3), weights(c)], {"pads": [1, 1, 1, 1]})
      for c, s in ((16, 56), (32, 28), (64, 14))),
    *(("Conv", [(1, c, s, s)], [weights(c, 1, 3, 3), weights(c)], {"pads": [1, 1, 1, 1], "group": c})
      for c, s in ((96, 56), (192, 28), (576, 14))),
    *(("Gemm", [(1, i)], [weights(o, i), weights(o)], {"transB": 1}) for i, o in ((1280, 1000), (256, 128))),
    *((op, [(1, c, s, s)] * 2, [], {}) for op in ("Add", "Mul") for c, s in ((24, 56), (64, 28), (96, 14))),
    *((op, [(1, c, s, s)], [], {}) for op in ("Sigmoid", "LeakyRelu") for c, s in ((24, 56), (64, 28))),
    *(("MaxPool", [(1, c, s, s)], [], {"kernel_shape": [2, 2], "strides": [2, 2]}) for c, s in ((24, 56), (64, 28))),
    *(("Concat", [(1, c, s, s)] * 2, [], {"axis": 1}) for c, s in ((24, 56), (64, 28))),
]  # fmt: skip


def network(
    op: str, shapes: list[tuple[int, ...]], constants: list[Any], attributes: dict[str, Any]
) -> ir.Model:
    names = [f"x{i}" for i in range(len(shapes))], [f"c{i}" for i in range(len(constants))]
    node = helper.make_node(op, [*names[0], *names[1]], ["y"], name="node", **attributes)
    inputs = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip(names[0], shapes, strict=True)
    ]
    held = [numpy_helper.from_array(a, n) for n, a in zip(names[1], constants, strict=True)]
    graph = helper.make_graph([node], "g", inputs, [onnx.ValueInfoProto(name="y")], held)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    (shape,) = (v for v in onnx.shape_inference.infer_shapes(made).graph.output if v.name == "y")
    made.graph.output[0].CopyFrom(shape)
    return load(made)


def timed(model: ir.Model, precision: str, repeats: int) -> tuple[float, float]:
    """Microseconds of the operator, and of all conversions beside it."""
    if precision != "fp32":
        statistics = collect(model, random_samples(model, 2, 0))
        pins = {ir.label(n): precision for n in model.graph}
        plan = make_plan(model, statistics, precision="mixed", precisions=pins)  # type: ignore[arg-type]
        model = model.clone()
        InsertQDQ().apply(model, PassContext(plan=plan.for_runtime("tflite", model)))
    artifact = lower(model, precision=precision, target="arm", io_layout="nhwc")
    best = (np.inf, np.inf)
    for _ in range(repeats):
        rows = profile_artifact(artifact, threads=1).operators
        turned = sum(r.us for r in rows if re.search(r"quantize|convert", r.type, re.IGNORECASE))
        best = min(best[0], sum(r.us for r in rows) - turned), min(best[1], turned)
    return best


def clock() -> float:
    """Nominal MHz, which are cycles a microsecond."""
    found = re.search(r"cpu MHz\s*:\s*([0-9.]+)", Path("/proc/cpuinfo").read_text())
    return float(found[1]) if found else 1000.0


def fit(rows: list[list[float]], times: list[float]) -> tuple[Any, float]:
    """Coefficients that make the relative errors least, and the median of these errors."""
    a, t = np.array(rows), np.array(times)
    found, _ = nnls(a / t[:, None], np.ones(len(t)))
    return found, float(np.median(np.abs(a @ found / t - 1)))


def features(node: ir.Node, precision: str) -> list[float]:
    """Multiply-accumulates and bytes in the places of their precision, and one operator."""
    row = [0.0] * (2 * len(PRECISIONS)) + [1.0]
    row[PRECISIONS.index(precision)] = count_macs(node)
    row[len(PRECISIONS) + PRECISIONS.index(precision)] = moved_bytes(node, unit_outputs(node), precision)
    return row


def main() -> None:
    repeats, mhz = int(sys.argv[1]) if len(sys.argv) > 1 else 3, clock()
    rows, times, turned, turning = [], [], [], []
    for precision, case in itertools.product(PRECISIONS, CASES):
        model = network(*case)
        node = next(iter(model.graph))
        us, converting = timed(model, precision, repeats)
        print(f"{precision} {case[0]} {case[1][0]}: {us:.1f} us, conversions {converting:.1f} us", flush=True)
        rows.append(features(node, precision))
        times.append(us * mhz)
        if precision == "int8":
            values = [*(v for v in node.inputs if v is not None and ir.constant(v) is None), *node.outputs]
            turned.append([float(sum(elements(v) for v in values))])
            turning.append(converting * mhz)
    found, error = fit(rows, times)
    for name, numbers in (("mac", found[:3]), ("byte", found[3:6])):
        print(name, ", ".join(f"{p} = {n:.4f}" for p, n in zip(PRECISIONS, numbers, strict=True)))
    print(f"operator {found[6]:.0f}; median error {error:.0%}; {mhz:.0f} MHz")
    (element,), error = fit(turned, turning)
    print(f"conversion {element:.3f}; median error {error:.0%}")


if __name__ == "__main__":
    main()
