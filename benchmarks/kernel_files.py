"""Files of one operator with what they must answer, for `kernels.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from kernel_reference import Array

from edgecc.quant.params import LIMITS, QuantParams
from edgecc.tflite.graph import Graph, Operator, Tensor
from edgecc.tflite.versions import version_of
from edgecc.tflite.writer import write


@dataclass(frozen=True)
class Data:
    """An activation of the kind that is tried, with values (and, quantized, the range) from low to high."""

    shape: tuple[int, ...]
    low: float = -3
    high: float = 3
    constant: bool = False


@dataclass(frozen=True)
class Weight:
    """Constant weights, with the axis of their output channels; in kinds with blocks, `block` inputs share a scale."""

    shape: tuple[int, ...]
    axis: int = 0
    block: int = 0


@dataclass(frozen=True)
class Bias:
    """One constant number a channel."""

    count: int


@dataclass(frozen=True)
class Fixed:
    """An operand that does not depend on the kind: indices, shapes, conditions."""

    array: Array
    constant: bool = True


@dataclass(frozen=True)
class Sparse:
    """Constant weights of which every other one is zero, whole again behind the operator that is tried."""

    shape: tuple[int, ...]


Item = Data | Weight | Bias | Fixed | Sparse


@dataclass(frozen=True)
class Variant:
    """One way to use an operator.

    Attributes:
        items: its operands in order.
        function: of the real values of the operands, gives those of the results.
        options: of its options table.
        out: type of the results: "same" as the data, or names of types.
        scale: of quantized results: "own", "same" as the data, or (scale, zero point).
        broadcast: it counts for operands of different shapes.
        steps: how far a quantized result may be off, in steps.
        reader: the last operator of the file, where the one that is tried works on its constants.
    """

    items: Sequence[Item | None]
    function: Callable[..., Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    out: str | tuple[str, ...] = "same"
    scale: str | Mapping[str, tuple[float, int]] = "own"
    broadcast: bool = False
    steps: float = 2.01
    reader: str = ""


@dataclass(frozen=True)
class Case:
    """A file, its inputs and its right answers."""

    code: str
    kind: str
    rank: int
    broadcast: bool
    graph: Graph
    inputs: tuple[Array, ...]
    answers: tuple[Array, ...]
    tolerances: tuple[float, ...]

    def data(self, version: int | None = None) -> bytes:
        """The bytes of the file; with an operator version, where given, instead of the lowest that serves."""
        graph = self.graph
        if version is not None:
            first, *rest = graph.operators
            graph = replace(graph, operators=[replace(first, version=version), *rest])
        return write(graph, description="one operator", metadata={})


def split_kind(kind: str) -> tuple[str, str | None, str | None]:
    """(data, weights, result) of a kind such as "float32*qint8/channel" or "qint8>float32"."""
    source, _, target = kind.removesuffix(" grouped").partition(">")
    data, _, weights = source.partition("*")
    return data, weights or None, target or None


def quantization(kind: str, low: float, high: float) -> QuantParams | None:
    """Scale and zero point for a range; None for kinds that are not quantized."""
    if not kind.startswith("q"):
        return None
    dtype = kind.removeprefix("q")
    if dtype == "int16":
        return _params(max(abs(low), abs(high), 1e-3) / 32767, 0, dtype)
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max(high - low, 1e-3) / 255
    lowest = LIMITS[dtype][0]
    return _params(scale, int(np.clip(round(lowest - low / scale), *LIMITS[dtype])), dtype)


def _params(scale: float | Array, zero: int | Array, dtype: str, axis: int | None = None) -> QuantParams:
    return QuantParams(np.atleast_1d(scale), np.atleast_1d(zero), dtype, axis)  # type: ignore[arg-type]


@dataclass
class _Maker:
    """Collects the tensors of one file."""

    kind: str
    rng: np.random.Generator
    graph: Graph = field(default_factory=Graph)
    feeds: list[Array] = field(default_factory=list)
    reals: list[Array] = field(default_factory=list)
    data_quant: QuantParams | None = None
    weight_scale: Array | None = None

    def add(self, item: Item | None) -> int:
        if item is None:
            return -1
        if isinstance(item, Fixed):
            return self._tensor(item.array, str(item.array.dtype), item.array, item.constant)
        if isinstance(item, Data):
            return self._data(item)
        if isinstance(item, Sparse):
            return self._sparse(item)
        return self._weight(item) if isinstance(item, Weight) else self._bias(item)

    def _tensor(
        self, stored: Array, dtype: str, real: Array, constant: bool, quant: QuantParams | None = None
    ) -> int:
        index = len(self.graph.tensors)
        held = stored if constant else None
        self.graph.tensors.append(Tensor(f"t{index}", stored.shape, dtype, held, quant))
        self.reals.append(real)
        if not constant:
            self.graph.inputs.append(index)
            self.graph.input_names.append(f"t{index}")
            self.feeds.append(stored)
        return index

    def _data(self, item: Data) -> int:
        base = split_kind(self.kind)[0]
        quant = quantization(base, item.low, item.high)
        if quant is not None:
            stored = quant.quantize(self.rng.uniform(item.low, item.high, item.shape))
            self.data_quant = self.data_quant or quant
            real = quant.dequantize(stored).astype(np.float64)
            return self._tensor(stored, quant.dtype, real, item.constant, quant)
        if base.startswith("float"):
            array = self.rng.uniform(item.low, item.high, item.shape).astype(base)
        elif base == "bool":
            array = self.rng.integers(0, 2, item.shape).astype(bool)
        else:
            low = max(item.low, 0) if base.startswith("u") else item.low
            array = np.asarray(self.rng.integers(int(np.ceil(low)), int(item.high) + 1, item.shape), base)
        return self._tensor(np.asarray(array), base, np.asarray(array), item.constant)

    def _sparse(self, item: Sparse) -> int:
        array = self.rng.uniform(-1, 1, item.shape).astype(self.kind)
        array.reshape(-1)[::2] = 0
        stored = self._tensor(array, self.kind, array, True)
        self.graph.tensors[stored].sparse = True
        self.reals.pop()
        self._before("DENSIFY", stored, self.kind)
        if self.kind == "float16":
            self._before("DEQUANTIZE", len(self.graph.tensors) - 1, "float32")
        self.reals.append(array.astype(np.float64))
        return len(self.graph.tensors) - 1

    def _before(self, code: str, source: int, dtype: str) -> None:
        """An operator on constants ahead of the one that reads its result."""
        self.graph.tensors.append(Tensor(f"{code}_{source}", self.graph.tensors[source].shape, dtype))
        self.graph.operators.append(Operator(code, (source,), (len(self.graph.tensors) - 1,)))

    def _weight(self, item: Weight) -> int:
        data, how, _ = split_kind(self.kind)
        array = self.rng.uniform(-1, 1, item.shape)
        if how is None:
            return self._tensor(array.astype(data), data, array.astype(data), True)
        kind, _, channel = how.partition("/")
        dtype = kind.removeprefix("q")
        if dtype == "uint8":
            return self._unsigned(array)
        top = LIMITS[dtype][1]
        if channel == "blocks":
            return self._blocks(array, item.block, dtype)
        others = tuple(a for a in range(array.ndim) if a != item.axis)
        scale = np.abs(array).max(others if channel else None) / top
        if channel:  # channels of unlike size, as real ones are
            shape = [-1 if a == item.axis else 1 for a in range(array.ndim)]
            grow = np.geomspace(0.2, 3, array.shape[item.axis])
            array, scale = array * grow.reshape(shape), scale * grow
        quant = _params(scale, np.zeros(np.size(scale), int), dtype, item.axis if channel else None)
        self.weight_scale = quant.scale
        stored = quant.quantize(array)
        return self._tensor(stored, dtype, quant.dequantize(stored).astype(np.float64), True, quant)

    def _blocks(self, array: Array, block: int, dtype: str) -> int:
        """(out, in), a scale for each `block` inputs, which files hold as float16."""
        largest = np.abs(array.reshape(array.shape[0], -1, block)).max(-1)
        scale = (largest / LIMITS[dtype][1]).astype(np.float16).astype(np.float32).reshape(-1)
        quant = QuantParams(scale, np.zeros(scale.size, int), dtype, 1, block_size=block)  # type: ignore[arg-type]
        stored = quant.quantize(array)
        return self._tensor(stored, dtype, quant.dequantize(stored).astype(np.float64), True, quant)

    def _unsigned(self, array: Array) -> int:
        """Weights as older quantizers store them: any zero point."""
        quant = quantization("quint8", float(array.min()), float(array.max()) * 1.3)
        assert quant is not None
        self.weight_scale = quant.scale
        stored = quant.quantize(array)
        return self._tensor(stored, "uint8", quant.dequantize(stored).astype(np.float64), True, quant)

    def _bias(self, item: Bias) -> int:
        array = self.rng.uniform(-2, 2, item.count)
        if self.data_quant is None or self.weight_scale is None:
            return self._tensor(array.astype(np.float32), "float32", array, True)
        scale = np.asarray(self.data_quant.scale[0] * self.weight_scale, np.float32)
        dtype = "int64" if self.data_quant.dtype == "int16" else "int32"
        stored = np.rint(array / scale).astype(dtype)
        quant = _params(scale, np.zeros(scale.size, int), "int32", 0 if scale.size > 1 else None)
        return self._tensor(stored, dtype, stored * scale.astype(np.float64), True, quant)


def make(code: str, kind: str, rank: int, variant: Variant, seed: int) -> Case:
    """The file of one operator, as edgecc would write it."""
    maker = _Maker(kind, np.random.default_rng(seed))
    inputs = tuple(maker.add(item) for item in variant.items)
    data, weights, target = split_kind(kind)
    with np.errstate(all="ignore"):
        real = variant.function(*maker.reals)
    found = real if isinstance(real, (tuple, list)) else [real]
    named = (variant.out,) * len(found) if isinstance(variant.out, str) else variant.out
    kinds = [data if kind == "same" else kind for kind in named]
    if target is not None:
        kinds = [target]
    graph, answers, tolerances = maker.graph, [], []
    outputs = []
    for position, (value, form) in enumerate(zip(found, kinds, strict=True)):
        value = np.asarray(value)
        quant = _result_quantization(variant, form, value, maker.data_quant)
        dtype = form if quant is None else quant.dtype
        answers.append(value.astype(dtype) if quant is None else quant.quantize(value))
        outputs.append(len(graph.tensors))
        graph.tensors.append(Tensor(f"y{position}", value.shape, dtype, None, quant))
        tolerances.append(_tolerance(variant, form, value, weights, data))
    op = Operator(variant.reader or code, inputs, tuple(outputs), dict(variant.options))
    op.version = version_of(op, graph.tensors)
    graph.operators, graph.outputs = [*graph.operators, op], outputs
    graph.output_names = [f"y{i}" for i in range(len(outputs))]
    return Case(
        code, kind, rank, variant.broadcast, graph, tuple(maker.feeds), tuple(answers), tuple(tolerances)
    )


def _result_quantization(
    variant: Variant, form: str, value: Array, data: QuantParams | None
) -> QuantParams | None:
    if not form.startswith("q"):
        return None
    if isinstance(variant.scale, Mapping):
        scale, zero = variant.scale[form]
        return _params(scale, zero, form.removeprefix("q"))
    if variant.scale == "same":
        return data
    return quantization(form, float(value.min(initial=0)), float(value.max(initial=0)))


def _tolerance(variant: Variant, form: str, value: Array, weights: str | None, data: str) -> float:
    largest = float(np.abs(value.astype(np.float64)).max(initial=0))
    if form.startswith("q"):
        if variant.scale == "same" and variant.steps == 0:
            return 0.0
        return max(variant.steps, 200.0 if form == "qint16" else 0.0)  # of 65536: they interpolate
    if not form.startswith("float"):
        return 0.0
    if weights is not None:  # activations are rounded to 8 bits while it runs
        return 0.03 * largest
    if data.startswith("q"):
        return 1e-5 * largest
    return {"float16": 2e-3}.get(form, 2e-5) * max(largest, 1e-3)
