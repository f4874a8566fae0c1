"""Which operators ONNX Runtime computes in integers: the source of its column in `edgecc/quant/rules.py`.

    python benchmarks/onnxrt_kernels.py

For each operator a model `QuantizeLinear, DequantizeLinear, operator, QuantizeLinear, DequantizeLinear` is
optimised by the CPU provider; printed is the graph that is left. Activations are uint8, for which x86 and Arm
both have kernels.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

IMAGE, MATRIX = (1, 4, 8, 8), (1, 16)
RNG = np.random.default_rng(0)
SPATIAL, PADS = np.array([2, 3]), np.array([0, 0, 1, 1, 0, 0, 1, 1])
SCALES = np.array([1, 1, 2, 2], np.float32)

# Operator: number of activations, their shape, attributes, further constant inputs (float ones are
# quantized).
CASES: dict[str, tuple[int, tuple[int, ...], dict[str, Any], list[Any]]] = {
    "Conv": (1, IMAGE, {}, [RNG.standard_normal((8, 4, 3, 3))]),
    "ConvTranspose": (1, IMAGE, {}, [RNG.standard_normal((4, 8, 3, 3))]),
    "Gemm": (1, MATRIX, {"transB": 1}, [RNG.standard_normal((8, 16))]),
    "MatMul": (1, MATRIX, {}, [RNG.standard_normal((16, 8))]),
    **{name: (2, IMAGE, {}, []) for name in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow")},
    **{
        name: (1, IMAGE, {}, [])
        for name in ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Elu", "Gelu", "Erf",
                     "Exp", "Sqrt", "Abs", "Neg", "Identity", "Flatten", "Transpose", "GlobalAveragePool",
                     "GlobalMaxPool")
    },
    "PRelu": (1, IMAGE, {}, [RNG.standard_normal((4, 1, 1))]),
    "Softmax": (1, IMAGE, {"axis": -1}, []),
    "LogSoftmax": (1, IMAGE, {"axis": -1}, []),
    "LpNormalization": (1, IMAGE, {"axis": -1, "p": 2}, []),
    "LRN": (1, IMAGE, {"size": 3}, []),
    "MaxPool": (1, IMAGE, {"kernel_shape": [2, 2]}, []),
    "AveragePool": (1, IMAGE, {"kernel_shape": [2, 2]}, []),
    **{name: (1, IMAGE, {}, [SPATIAL]) for name in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum")},
    "Concat": (2, IMAGE, {"axis": 1}, []),
    "Reshape": (1, IMAGE, {}, [np.array([1, -1])]),
    "Squeeze": (1, IMAGE, {}, [np.array([0])]),
    "Unsqueeze": (1, IMAGE, {}, [np.array([0])]),
    "Slice": (1, IMAGE, {}, [np.array([0]), np.array([2]), np.array([1])]),
    "Split": (1, IMAGE, {"axis": 1, "num_outputs": 2}, []),
    "Gather": (1, IMAGE, {"axis": 1}, [np.array([0, 1])]),
    "Pad": (1, IMAGE, {}, [PADS]),
    "Resize, nearest": (1, IMAGE, {"mode": "nearest"}, [None, SCALES]),
    "Resize, linear": (1, IMAGE, {"mode": "linear"}, [None, SCALES]),
    "Expand": (1, IMAGE, {}, [np.array([2, 4, 8, 8])]),
    "Tile": (1, IMAGE, {}, [np.array([2, 1, 1, 1])]),
    "DepthToSpace": (1, IMAGE, {"blocksize": 2}, []),
    "SpaceToDepth": (1, IMAGE, {"blocksize": 2}, []),
}  # fmt: skip


def one_operator(case: str) -> onnx.ModelProto:
    op_type, (count, shape, attributes, constants) = case.partition(",")[0], CASES[case]
    scale = numpy_helper.from_array(np.array(0.05, np.float32), "scale")
    zero = numpy_helper.from_array(np.array(131, np.uint8), "zero")
    weight_zero = numpy_helper.from_array(np.array(0, np.int8), "weight_zero")
    initializers, nodes, operands = [scale, zero, weight_zero], [], []
    for i in range(count):
        nodes += _pair(f"x{i}")
        operands.append(f"x{i}_dq")
    for i, array in enumerate(constants):
        if array is None or array is SCALES or array.dtype.kind == "i":
            operands.append("" if array is None else f"k{i}")
            initializers += [] if array is None else [numpy_helper.from_array(array, f"k{i}")]
            continue
        stored = np.clip(np.rint(array * 40), -127, 127)
        signed = op_type != "PRelu"
        initializers.append(numpy_helper.from_array(stored.astype(np.int8 if signed else np.uint8), f"k{i}"))
        names = [f"k{i}", "scale", "weight_zero" if signed else "zero"]
        nodes.append(helper.make_node("DequantizeLinear", names, [f"k{i}_dq"]))
        operands.append(f"k{i}_dq")
    results = [f"y{i}" for i in range(2 if op_type == "Split" else 1)]
    nodes.append(helper.make_node(op_type, operands, results, **attributes))
    for result in results:
        nodes += _pair(result)
    inputs = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, shape) for i in range(count)]
    outputs = [helper.make_tensor_value_info(f"{r}_dq", TensorProto.FLOAT, None) for r in results]
    graph = helper.make_graph(nodes, "one", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _pair(name: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("QuantizeLinear", [name, "scale", "zero"], [f"{name}_q"]),
        helper.make_node("DequantizeLinear", [f"{name}_q", "scale", "zero"], [f"{name}_dq"]),
    ]


def optimized(model: onnx.ModelProto) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]


def main() -> None:
    print(f"ONNX Runtime {ort.__version__}, CPU provider, uint8 activations")
    for case, (count, *_) in CASES.items():
        left = optimized(one_operator(case))
        outputs = 2 if case == "Split" else 1
        fused = left.count("QuantizeLinear") == count and left.count("DequantizeLinear") == outputs
        print(f"{case:20} {'integer' if fused else 'float':8} {' '.join(left)}")


if __name__ == "__main__":
    main()
