"""How many elements an operator computes from constants, told before it runs: models are untrusted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from edgecc import ir
from edgecc.ir import Array

Inputs = Sequence[Array | None]
Bound = Callable[[ir.Node, Inputs], int]


def _array(inputs: Inputs, index: int) -> Array:
    array = inputs[index]
    if array is None:
        raise ValueError(f"its input {index} is missing")
    return array


def _sum_of_inputs(node: ir.Node, inputs: Inputs) -> int:
    return sum(array.size for array in inputs if array is not None)


def _constant(node: ir.Node, inputs: Inputs) -> int:
    return 0  # it is in the file already


def _broadcast(node: ir.Node, inputs: Inputs) -> int:
    return math.prod(np.broadcast_shapes(*(array.shape for array in inputs if array is not None)))


def _product(array: Array) -> int:
    return math.prod(int(v) for v in array.reshape(-1))


def _constant_of_shape(node: ir.Node, inputs: Inputs) -> int:
    return _product(_array(inputs, 0))


def _repeated(node: ir.Node, inputs: Inputs) -> int:
    return _product(_array(inputs, 1)) * max(_array(inputs, 0).size, 1)


def _range(node: ir.Node, inputs: Inputs) -> int:
    start, limit, delta = (float(_array(inputs, i).reshape(-1)[0]) for i in range(3))
    return max(math.ceil((limit - start) / delta), 0)


def _gather(node: ir.Node, inputs: Inputs) -> int:
    data = _array(inputs, 0)
    return int(_array(inputs, 1).size) * (data.size // max(int(data.shape[ir.attribute(node, "axis", 0)]), 1))


def _matmul(node: ir.Node, inputs: Inputs) -> int:
    a, b = _array(inputs, 0), _array(inputs, 1)
    inner = max(int(a.shape[-1]), 1)
    return math.ceil(a.size / inner) * math.ceil(b.size / inner)


def _pad(node: ir.Node, inputs: Inputs) -> int:
    total = int(np.abs(_array(inputs, 1)).sum())
    return math.prod(int(d) + total for d in _array(inputs, 0).shape)


_ELEMENTWISE = """
    Abs Acos Add And Asin Atan BitwiseAnd BitwiseNot BitwiseOr Cast Ceil Clip Cos Div Elu Equal Erf Exp Floor
    Gelu Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log Max
    Mean Min Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Round Sigmoid Sign Sin Softplus Sqrt Sub Sum Tan
    Tanh Where Xor
"""
_NO_LARGER = """
    ArgMax ArgMin CastLike Concat CumSum Flatten LogSoftmax ReduceL1 ReduceL2 ReduceMax ReduceMean ReduceMin
    ReduceProd ReduceSum ReduceSumSquare Reshape ScatterElements ScatterND Shape Size Slice Softmax Split
    Squeeze Transpose Trilu Unsqueeze
"""

# An operator that is not here is not evaluated.
BOUNDS: dict[str, Bound] = {
    **dict.fromkeys(_ELEMENTWISE.split(), _broadcast),
    **dict.fromkeys(_NO_LARGER.split(), _sum_of_inputs),
    "BatchNormalization": _sum_of_inputs,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _repeated,
    "Gather": _gather,
    "MatMul": _matmul,
    "Pad": _pad,
    "Range": _range,
    "Tile": _repeated,
}
