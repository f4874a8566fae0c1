"""What each kernel of TFLite Micro asks for beside its tensors: persistent buffers and scratch buffers.

Read from the `Prepare` of the kernels of tensorflow/tflite-micro (commit 90b983c): the reference kernels, which run on
this machine, and those of CMSIS-NN, see cmsis_nn.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from edgecc.analysis import cmsis_nn
from edgecc.analysis.flat import FlatNetwork, FlatOperator, FlatTensor
from edgecc.analysis.micro_structs import (
    CMSIS_OP_DATA,
    COMPRESSED_OP_DATA,
    EVAL_TENSOR,
    INT8_DATA,
    MATMUL_QUANTIZATION,
    OP_DATA,
    SOFTMAX_TABLE,
    size_of,
)

Kernels = Literal["reference", "dsp", "mve"]
"""Whose kernels: TFLite Micro's own, or CMSIS-NN's for cores with the DSP or the MVE (Helium) instructions."""


@dataclass(frozen=True)
class Machine:
    """What decides how much memory the interpreter takes.

    Attributes:
        pointer: bytes of one.
        kernels: which are linked.
        recording: as the Python package `tflite-micro` does for `arena_bytes`: with the recording allocator, and built
            for compressed tensors.
    """

    pointer: int
    kernels: Kernels
    recording: bool = False


HOST = Machine(8, "reference", recording=True)
QUANTIZED = ("int8", "int16")


def init_bytes(operator: FlatOperator, machine: Machine) -> list[int]:
    """Persistent buffers that a kernel allocates when it is initialised, in bytes."""
    special = (
        COMPRESSED_OP_DATA if machine.recording else CMSIS_OP_DATA if machine.kernels != "reference" else {}
    )
    fields = special.get(operator.code, OP_DATA.get(operator.code))
    return [] if fields is None else [size_of(fields, machine.pointer)]


def persistent_bytes(network: FlatNetwork, operator: FlatOperator, machine: Machine) -> list[int]:
    """Persistent buffers that a kernel allocates when it is prepared, in bytes and in that order."""
    rule = _PERSISTENT.get(operator.code)
    return [] if rule is None else rule(_Call(network, operator, machine))


def scratch_bytes(network: FlatNetwork, operator: FlatOperator, machine: Machine) -> list[int]:
    """Scratch buffers, which live only while the kernel runs, in bytes and in the order of the requests."""
    call = _Call(network, operator, machine)
    own = _SCRATCH.get(operator.code)
    if machine.kernels != "reference" and operator.code in cmsis_nn.SCRATCH:
        return cmsis_nn.scratch(network, operator, mve=machine.kernels == "mve")
    return [] if own is None else own(call)


@dataclass(frozen=True)
class _Call:
    """An operator with its tensors."""

    network: FlatNetwork
    operator: FlatOperator
    machine: Machine

    def operand(self, position: int) -> FlatTensor:
        found = self.network.operand(self.operator, position)
        return FlatTensor("", (), 0, "none") if found is None else found

    @property
    def result(self) -> FlatTensor:
        return self.network.tensors[self.operator.outputs[0]]

    @property
    def cmsis(self) -> bool:
        return self.machine.kernels != "reference"


# ---- persistent --------------------------------------------------------------------------------------------------


def _channels(data: int, filters: int, axis: int, *, always: bool = False) -> Callable[[_Call], list[int]]:
    """Multipliers and shifts of each output channel; CMSIS-NN's kernels leave them out in float."""

    def rule(call: _Call) -> list[int]:
        if call.cmsis and not always and call.operand(data).kind not in QUANTIZED:
            return []
        return 2 * [4 * call.operand(filters).shape[axis]]

    return rule


def _connected(call: _Call) -> list[int]:
    """fully_connected_common.cc: where each output channel has a scale; CMSIS-NN keeps the sums of the weights."""
    if call.operand(0).kind not in QUANTIZED:
        return []
    weights = call.operand(1)
    found = 2 * [4 * weights.scales] if weights.scales > 1 else []
    if call.machine.kernels == "mve" and cmsis_nn.keeps_sums(call.network, call.operator):
        found.append(4 * call.result.shape[-1])
    return found


def _dims(call: _Call) -> list[int]:
    """kernel_util.cc, CreateWritableTensorDimsWithCopy."""
    return [4 * (1 + len(call.result.shape))]


def _softmax(call: _Call) -> list[int]:
    return 2 * [2 * SOFTMAX_TABLE] if call.operand(0).kind == "int16" else []


def _product(call: _Call) -> list[int]:
    """batch_matmul.cc: a transposed copy of an operand is kept for good."""
    found: list[int] = []
    quantized = call.operand(0).kind in QUANTIZED
    numbers = [size_of(MATMUL_QUANTIZATION, 4)] if quantized else []
    for tensor, copied in (
        (call.operand(0), bool(call.operator.options.get("adjX"))),
        (call.operand(1), not call.operator.options.get("adjY")),
    ):
        if copied:
            dims = 4 * (1 + len(tensor.shape))
            found += [size_of(EVAL_TENSOR, call.machine.pointer), dims, tensor.bytes]
    return [*found, *_dims(call), *numbers] if call.cmsis else [*numbers, *found, *_dims(call)]


def _of_int8(call: _Call) -> list[int]:
    own = size_of(INT8_DATA[call.operator.code], call.machine.pointer)
    return [own] if call.result.kind == "int8" else []


_PERSISTENT: Mapping[str, Callable[[_Call], list[int]]] = {
    "CONV_2D": _channels(0, 1, 0),
    "DEPTHWISE_CONV_2D": _channels(0, 1, 3),
    "TRANSPOSE_CONV": _channels(2, 1, 0, always=True),
    "FULLY_CONNECTED": _connected,
    "SOFTMAX": _softmax,
    "BATCH_MATMUL": _product,
    **dict.fromkeys(("GATHER", "GATHER_ND", "DEPTH_TO_SPACE", "SPACE_TO_DEPTH", "L2_POOL_2D"), _dims),
    **dict.fromkeys(INT8_DATA, _of_int8),
}


# ---- scratch -----------------------------------------------------------------------------------------------------


def _unpacked(call: _Call) -> list[int]:
    """4-bit weights are unpacked into a byte each."""
    return [call.operand(1).elements] if call.operand(1).kind == "int4" else []


def _reduced(call: _Call) -> list[int]:
    """reduce_common.cc: places in the input and the axes; sums of integers are kept in 32 bits."""
    found = [4 * len(call.operand(0).shape), 4 * call.operand(1).elements]
    summed = call.operator.code in ("MEAN", "SUM") and call.operand(0).kind in QUANTIZED
    return [4 * call.result.elements, *found] if summed else found


def _transposed(call: _Call) -> list[int]:
    wide = {"int8": 4, "int16": 8}.get(call.operand(2).kind)
    return [] if wide is None else [wide * call.result.elements]


def _mirrored(call: _Call) -> list[int]:
    return 2 * [4 * len(call.operand(0).shape)]


def _added(call: _Call) -> list[int]:
    return (
        [call.machine.pointer * len(call.operator.inputs)] if call.result.kind in ("float32", "int8") else []
    )


def _svdf(call: _Call) -> list[int]:
    rows, filters = call.operand(0).shape[0], call.operand(1).shape[0]
    rank = max(1, int(call.operator.options.get("rank", 1)))
    first = 4 * rows * filters
    return [first, 4 * rows * (filters // rank)] if call.operand(0).kind == "int8" else [first]


_SCRATCH: Mapping[str, Callable[[_Call], list[int]]] = {
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"), _unpacked),
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_ALL"), _reduced),
    "TRANSPOSE_CONV": _transposed,
    "MIRROR_PAD": _mirrored,
    "ADD_N": _added,
    "SVDF": _svdf,
}
