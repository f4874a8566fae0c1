"""The RAM that TFLite Micro takes for a network, computed before it runs: what is planned and what lies behind it.

The arena has two ends (tflite-micro, arena_allocator/single_arena_buffer_allocator.cc): tensors and scratch buffers,
whose places a planner chooses once, lie at its head; structures and parameters that stay lie at its tail. `predict`
counts what the interpreter allocates, in that order (micro_allocator.cc, micro_interpreter.cc, commit 90b983c). Not
counted: the interpreter object and the operator resolver themselves, stack, and code.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass

from edgecc.analysis import micro_structs as structs
from edgecc.analysis.flat import FlatNetwork, FlatTensor
from edgecc.analysis.micro_kernels import Machine, init_bytes, persistent_bytes, scratch_bytes
from edgecc.analysis.micro_structs import align_of, size_of

ALIGNMENT = 16
"""Bytes: MicroArenaBufferAlignment."""


@dataclass(frozen=True)
class Buffer:
    """Memory with a lifetime.

    Attributes:
        name: of the tensor, or of the operator that a scratch buffer serves.
        bytes: a multiple of the alignment.
        first, last: steps in which it lives, inclusive: 0 is before the first operator, operator i is step i + 1.
        scratch: it is no tensor.
    """

    name: str
    bytes: int
    first: int
    last: int
    scratch: bool = False


@dataclass(frozen=True)
class Step:
    """Memory while one operator runs.

    Attributes:
        operator: its kind and what it makes.
        live: bytes of all that lives.
        buffers: names and bytes of these, the largest first.
    """

    operator: str
    live: int
    buffers: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Memory:
    """The predicted arena.

    Attributes:
        head: bytes that tensors and scratch buffers take as the planner places them.
        tail: bytes that stay allocated behind them.
        planning: bytes that the head needs while memory is planned: more than `head` where many tensors are small.
        live: the most bytes that live at once: no placement can do with less.
        steps: one an operator, in order.
        unknown: operators whose own buffers are not counted.
    """

    head: int
    tail: int
    planning: int
    live: int
    steps: tuple[Step, ...]
    unknown: tuple[str, ...] = ()

    @property
    def used(self) -> int:
        """Bytes in use once the network is loaded: what `arena_bytes` of the runtime counts."""
        return self.head + self.tail

    @property
    def arena(self) -> int:
        """Bytes that an arena must have for the network to load."""
        return max(self.head, self.planning) + self.tail

    @property
    def peak(self) -> Step:
        """The first operator during which the most lives."""
        return max(self.steps, key=lambda s: s.live, default=Step("", self.live, ()))


def buffers_of(network: FlatNetwork, machine: Machine) -> list[Buffer]:
    """Everything that the planner places, in the order in which it is told of them."""
    count = len(network.operators)
    first: dict[int, int] = dict.fromkeys(network.inputs, 0)
    last: dict[int, int] = dict.fromkeys(network.inputs, 0)
    for step, operator in enumerate(network.operators, 1):
        for index in operator.outputs:
            first.setdefault(index, step)
        for index in (*operator.inputs, *operator.outputs):
            last[index] = step
    for index in network.outputs:
        first.setdefault(index, count)
        last[index] = count
    found = [
        Buffer(t.name, _aligned(t.bytes), first.get(i, -1), last.get(i, -1))
        for i, t in enumerate(network.tensors)
        if not (t.constant or t.variable) and t.bytes
    ]
    for step, operator in enumerate(network.operators, 1):
        sizes = scratch_bytes(network, operator, machine)
        found += [Buffer(network.name(step - 1), _aligned(s), step, step, True) for s in sizes]
    return found


def place(buffers: Sequence[Buffer]) -> list[int]:
    """Offsets by TFLite Micro's greedy planner (memory_planner/greedy_memory_planner.cc).

    The largest first, of equal ones the last first; each into the lowest gap between those already placed that live
    at the same time.
    """
    offsets = [0] * len(buffers)
    placed: list[tuple[int, int, int]] = []  # offset, turn, buffer
    order = sorted(range(len(buffers)), key=lambda i: (-buffers[i].bytes, -i))
    for turn, index in enumerate(order):
        wanted, offset = buffers[index], 0
        for start, _, other in placed:
            held = buffers[other]
            if held.first > wanted.last or wanted.first > held.last:
                continue
            if start - offset >= wanted.bytes:
                break
            offset = max(offset, start + held.bytes)
        offsets[index] = offset
        insort(placed, (offset, turn, index))
    return offsets


def head_bytes(network: FlatNetwork, machine: Machine) -> int:
    """Bytes of the head alone, for comparing orders of the operators."""
    buffers = buffers_of(network, machine)
    return max((o + b.bytes for o, b in zip(place(buffers), buffers, strict=True)), default=0)


def predict(network: FlatNetwork, machine: Machine) -> Memory:
    """The arena that the network takes.

    Args:
        network: its main graph; other graphs of the file are not counted.
        machine: where it runs.
    """
    buffers = buffers_of(network, machine)
    head = max((o + b.bytes for o, b in zip(place(buffers), buffers, strict=True)), default=0)
    scratches = sum(b.scratch for b in buffers)
    planned, after = _tail(network, machine, scratches)
    infos = len(network.tensors) + scratches
    requests = scratches + structs.SCRATCH_REQUESTS_PER_OPERATOR
    planning = sum(
        _aligned(n * size_of(fields, machine.pointer))
        for n, fields in (
            (requests, structs.SCRATCH_REQUEST),
            (infos, structs.ALLOCATION_INFO),
            (len(buffers), structs.PLANNED_BUFFER),
        )
    )
    steps = tuple(_step(network, buffers, i) for i in range(len(network.operators)))
    known = {*structs.BUILTIN, *structs.OP_DATA, *structs.INT8_DATA, *_PLAIN}
    unknown = tuple(sorted({o.code for o in network.operators} - known))
    return Memory(
        head,
        after,
        max(0, planning - (after - planned)),
        max((s.live for s in steps), default=0),
        steps,
        unknown,
    )


def _step(network: FlatNetwork, buffers: Sequence[Buffer], position: int) -> Step:
    live = [b for b in buffers if b.first <= position + 1 <= b.last]
    parts = sorted(((_told(b), b.bytes) for b in live), key=lambda p: (-p[1], p[0]))
    return Step(network.name(position), sum(b.bytes for b in live), tuple(parts))


def _told(buffer: Buffer) -> str:
    return "(scratch)" if buffer.scratch else buffer.name


class _Tail:
    """Allocations at the end of the arena, each aligned downwards."""

    def __init__(self, pointer: int) -> None:
        self.pointer, self.used = pointer, 0

    def add(self, size: int, align: int = ALIGNMENT) -> None:
        self.used = -(-(self.used + size) // align) * align

    def struct(self, fields: str, count: int = 1) -> None:
        self.add(count * size_of(fields, self.pointer), align_of(fields, self.pointer))


def _tail(network: FlatNetwork, machine: Machine, scratches: int) -> tuple[int, int]:
    """Bytes of the tail when the placing begins, and in the end."""
    tail = _Tail(machine.pointer)
    single = structs.RECORDING_ARENA if machine.recording else structs.SINGLE_ARENA
    allocator = structs.RECORDING_ALLOCATOR if machine.recording else structs.MICRO_ALLOCATOR
    for fields in (single, structs.GREEDY_PLANNER, allocator, structs.BUILTIN_DATA_ALLOCATOR):
        tail.struct(fields)
    subgraph = structs.COMPRESSED_SUBGRAPH if machine.recording else structs.SUBGRAPH
    tail.struct(subgraph, network.subgraphs)
    tail.struct(structs.EVAL_TENSOR, len(network.tensors))
    tail.struct(structs.NODE_AND_REGISTRATION, len(network.operators))
    for operator in network.operators:
        if operator.code in structs.BUILTIN:
            tail.struct(structs.BUILTIN[operator.code])
    for operator in network.operators:
        for size in init_bytes(operator, machine):
            tail.add(size)
    for operator in network.operators:
        for size in persistent_bytes(network, operator, machine):
            tail.add(size)
    if scratches:
        tail.struct("p", scratches)
    for tensor in network.tensors:
        if tensor.variable:
            tail.add(tensor.bytes)
    planned = tail.used
    for indices in (network.inputs, network.outputs):
        tail.add(machine.pointer * len(indices))
        for index in indices:
            _port(tail, network.tensors[index])
    return planned, tail.used


def _port(tail: _Tail, tensor: FlatTensor) -> None:
    tail.struct(structs.TENSOR)
    if tensor.scales:
        tail.struct(structs.AFFINE_QUANTIZATION)
        tail.add(4 * (1 + tensor.scales), 4)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


# Operators without options and without buffers of their own.
_PLAIN = frozenset({
    "BATCH_TO_SPACE_ND", "BROADCAST_ARGS", "BROADCAST_TO", "CEIL", "COS", "DYNAMIC_UPDATE_SLICE", "EXP", "EXPAND_DIMS",
    "FILL", "FLOOR", "FLOOR_DIV", "FLOOR_MOD", "GATHER_ND", "LOG", "LOGICAL_AND", "LOGICAL_NOT", "LOGICAL_OR",
    "MAXIMUM", "MINIMUM", "NEG", "REVERSE_V2", "ROUND", "SIN", "SLICE", "SQRT", "SQUARE", "TRANSPOSE", "ZEROS_LIKE",
})  # fmt: skip
