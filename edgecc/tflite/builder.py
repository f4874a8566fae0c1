"""What lowering functions build with: tensors in the order and type they ask for, operators, constants.

A value is stored once, as its site computes it; whoever needs it in another order, or quantized otherwise, gets a
converted copy, which all later readers share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgecc import ir
from edgecc.analysis.layout import Flattened, Layout, Order, Permutation, identity, moves_nothing
from edgecc.analysis.sites import Operand, Site, SiteGraph
from edgecc.ir import Array
from edgecc.quant.params import QuantParams
from edgecc.quant.rules import RULES
from edgecc.tflite.graph import Graph, Operator, Tensor, itemsize
from edgecc.tflite.kernels import demanded, wanted
from edgecc.tflite.legality import objection, scales_fit
from edgecc.tflite.versions import version_of

# Element types of ONNX that are narrowed, because TFLite's kernels take the narrower one.
NARROWED = {"float64": "float32", "float16": "float32", "bfloat16": "float32", "uint16": "int32"}
_STORABLE = frozenset(
    {
        "float32",
        "float16",
        "bool",
        "int4",
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    }
)
# Same-scale operators that compute means, which may need less range than what they are means of.
_MEANS = frozenset({"AveragePool", "Resize"})
_INT32 = 2  # schema.fbs: enum TensorType
_SMALL_BYTES = 1 << 16


@dataclass(frozen=True)
class Transposition:
    """A TRANSPOSE that remains in the artifact: which value, how many bytes it moves, and who needs it."""

    value: str
    bytes: int
    reason: str


class Unservable(Exception):
    """A lowering cannot serve its node: the reason, and what could be done."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.reason, self.remedy = reason, remedy


class NotMade(Unservable):
    """A node reads what another node that cannot be served should have made."""


class NeedsFloat(Exception):
    """A lowering has no int8 form for this node: it is lowered again between DEQUANTIZE and QUANTIZE."""


class Builder:
    """Collects the graph while the sites are lowered in order.

    Attributes:
        site: the one being lowered.
        quantized: whether it is lowered on integers.
        unsigned: these are uint8: its weights have a zero point, which only kernels on uint8 take.
        scale: in which its operands must come, where its kernel demands that of the result; None: any.
        at: the graph output being written, behind the last site.
        demanded: the kernels of the runtime that the file is for.
        wanted: those that its other readers have, too.
        kernels: which of the two the site being lowered is held to.
    """

    def __init__(self, sites: SiteGraph, layout: Layout, runtime: str = "litert") -> None:
        self.graph = Graph()
        self.demanded, self.wanted = demanded(runtime), wanted(runtime)
        self.kernels = self.wanted
        self.sites = sites
        self.layout = layout
        self._transpositions: dict[int, Transposition] = {}
        self.site: Site | None = None
        self.quantized = False
        self.unsigned = False
        self.scale: QuantParams | None = None
        self.at = "output"
        self._stored: dict[ir.Value, int] = {}
        self._orders: dict[ir.Value, Order] = {}
        self._copies: dict[tuple[int, Order | None, object], int] = {}
        self._constants: dict[tuple[str, tuple[int, ...], object, object], int] = {}
        self._names: set[str] = set()
        self._demanded: dict[int, QuantParams] = {}

    # ---- tensors -----------------------------------------------------------------------------------------------

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        dtype: str,
        *,
        data: Array | None = None,
        quant: QuantParams | None = None,
        batched: bool = False,
    ) -> int:
        """Adds a tensor; the name gets a number where it is taken.

        Raises:
            Unservable: TFLite stores no such elements.
        """
        if dtype not in _STORABLE:
            raise Unservable(f"{name} has elements of the type {dtype}")
        unique, count = name, 0
        while unique in self._names:
            count += 1
            unique = f"{name}_{count}"
        self._names.add(unique)
        self.graph.tensors.append(Tensor(unique, tuple(int(d) for d in shape), dtype, data, quant, batched))
        return len(self.graph.tensors) - 1

    def constant(self, array: Array, name: str, quant: QuantParams | None = None) -> int:
        """A constant tensor; equal constants of one type are one tensor. Biases beside int16 data are int64."""
        array = np.asarray(array)
        array = array.astype(NARROWED.get(str(array.dtype), array.dtype), copy=False)
        dtype = str(array.dtype) if quant is None or array.dtype == np.int64 else quant.dtype
        key = (dtype, array.shape, _content(array), _quant_key(quant))
        if key not in self._constants:
            self._constants[key] = self.tensor(name, array.shape, dtype, data=array, quant=quant)
        return self._constants[key]

    def weight(self, array: Array, name: str, quant: QuantParams | None) -> int:
        """A constant of a kernel's weights: integers with their scales, float32, or float16 behind a DEQUANTIZE."""
        if quant is None and array.dtype == np.float16:
            half = self.tensor(f"{name}_float16", array.shape, "float16", data=np.ascontiguousarray(array))
            real = self.tensor(name, array.shape, "float32")
            return self.operator("DEQUANTIZE", [half], [real])
        return self.constant(array, name, quant)

    def ints(self, values: Sequence[int] | Array, name: str = "") -> int:
        """A constant vector of int32, as shapes, axes and paddings are."""
        return self.constant(np.asarray(values, np.int32), name or f"{self._site_name()}/const")

    def sizes(self, like: int, rest: Sequence[int]) -> int:
        """The shape (batch of `like`, *rest) as a tensor: a constant unless the batch is symbolic."""
        if not self.graph.tensors[like].batched:
            return self.ints((self.shape(like)[0], *rest))
        name, rank = self._site_name(), len(self.shape(like))
        shape = self.operator(
            "SHAPE", [like], [self.tensor(f"{name}/shape", (rank,), "int32")], {"outType": _INT32}
        )
        batch = self.tensor(f"{name}/batch", (1,), "int32")
        self.operator(
            "STRIDED_SLICE", [shape, self.ints((0,)), self.ints((1,)), self.ints((1,))], [batch], {}
        )
        whole = self.tensor(f"{name}/sizes", (1 + len(rest),), "int32")
        return self.operator("CONCATENATION", [batch, self.ints(rest)], [whole], {"axis": 0})

    def is_free(self, operand: Operand | None, axis: int) -> bool:
        """Whether an axis of a computed operand is the symbolic batch."""
        return operand is not None and operand.array is None and axis == 0 and is_batched(operand.value)

    def shape(self, index: int) -> tuple[int, ...]:
        """Shape of a tensor, a symbolic batch as 1."""
        return self.graph.tensors[index].shape

    # ---- reading -----------------------------------------------------------------------------------------------

    def input(self, position: int, order: Order | None = None) -> int:
        """The tensor of an operand of the site being lowered, in `order` (None: ONNX's own)."""
        assert self.site is not None
        operand = self.site.inputs[position]
        if operand is None:
            raise Unservable(f"operand {position} is absent")
        return self.read(operand, order)

    def read(self, operand: Operand, order: Order | None = None) -> int:
        """The tensor of an operand in `order` (None: ONNX's own): integers if the site works on integers."""
        wanted = identity(operand.value) if order is None else order
        quant = operand.quant if self.quantized else None
        if quant is not None and self.scale is not None:
            quant = self.scale
        if quant is not None and self.unsigned and operand.array is None:
            quant = quant.as_unsigned()
        if operand.array is not None:
            array = (
                operand.array if quant is not None or operand.array.dtype == np.float16 else operand.real()
            )
            if quant is not None and _quant_key(quant) != _quant_key(operand.quant):
                array = quant.quantize(operand.real())
            return self._constant_in(array, str(operand.value.name), wanted, quant)
        if operand.value not in self._stored:
            raise NotMade(f"nothing makes {operand.value.name}")
        index = self._stored[operand.value]
        # Real operators, too, read what the pair made of the value.
        if operand.quant is not None and not self._means(index, operand.quant):
            index = self._in_quant(index, operand.value, operand.quant)
        index = self._in_quant(index, operand.value, quant)
        return self._in_order(index, operand.value, wanted)

    def _constant_in(self, array: Array, name: str, order: Order, quant: QuantParams | None) -> int:
        if isinstance(order, Flattened):
            rows = order.rows()
            moved = (
                array
                if array.size == 1
                else np.broadcast_to(array, (*array.shape[:-1], rows.size))[..., rows]
            )
            return self.constant(moved, name, quant)
        moved = array.transpose(order) if order and len(order) == array.ndim else array
        if quant is not None and quant.axis is not None and len(order) == array.ndim:
            quant = QuantParams(
                scale=quant.scale,
                zero_point=quant.zero_point,
                dtype=quant.dtype,
                axis=order.index(quant.axis),
            )
        return self.weight(moved, name, quant)

    def _in_quant(self, index: int, value: ir.Value, quant: QuantParams | None) -> int:
        tensor = self.graph.tensors[index]
        if _quant_key(tensor.quant) == _quant_key(quant):
            return index
        key = (index, None, _quant_key(quant))
        if key not in self._copies:
            dtype = "float32" if quant is None else quant.dtype
            suffix = "dequantized" if quant is None else "quantized"
            copy = self.tensor(
                f"{value.name}_{suffix}", tensor.shape, dtype, quant=quant, batched=tensor.batched
            )
            self._convert(index, copy)
            self._orders.setdefault(value, self.order(value))
            self._copies[key] = copy
        return self._copies[key]

    def _means(self, index: int, quant: QuantParams) -> bool:
        """Whether a tensor holds the numbers that `quant` can hold, be it as int8 or as uint8."""
        found = _quant_key(self.graph.tensors[index].quant)
        return found is not None and found in (_quant_key(quant), _quant_key(quant.as_unsigned()))

    def _convert(self, source: int, target: int) -> None:
        """What turns one type into another; held to the kernels of the file's runtime alone.

        (From int8 to int16 tflite-runtime 2.14 has none; a float tensor between would cost every other runtime.)
        """
        held, self.kernels = self.kernels, self.demanded
        try:
            self._turn(source, target)
        finally:
            self.kernels = held

    def _turn(self, source: int, target: int) -> None:
        """QUANTIZE or DEQUANTIZE; both where no kernel goes from one scale to the other."""
        if self.graph.tensors[target].quant is None:
            self.operator("DEQUANTIZE", [source], [target])
            return
        direct = Operator("QUANTIZE", (source,), (target,))
        if not scales_fit(direct, self.graph.tensors):
            tensor = self.graph.tensors[source]
            real = self.tensor(f"{tensor.name}_real", tensor.shape, "float32", batched=tensor.batched)
            source = self.operator("DEQUANTIZE", [source], [real])
        elif self.graph.tensors[target].dtype == "uint8" and self.graph.tensors[source].dtype == "int16":
            quant = self.graph.tensors[target].quant  # no kernel goes from int16 to uint8
            assert quant is not None
            signed = QuantParams(quant.scale, quant.zero_point - 128, "int8")
            middle = self.temporary(source, "signed", dtype="int8", quant=signed)
            source = self.operator("QUANTIZE", [source], [middle])
        self.operator("QUANTIZE", [source], [target])

    def _in_order(self, index: int, value: ir.Value, wanted: Order) -> int:
        stored = self.order(value)
        if stored == wanted:
            return index
        if isinstance(stored, Flattened) or isinstance(wanted, Flattened):
            raise Unservable(f"{value.name} is flattened in another order than its reader needs")
        # The axes of the tensor, not of the value: values that are one tensor name its axes differently.
        perm = tuple(stored.index(a) for a in wanted)
        key = (index, perm, "order")
        if key not in self._copies:
            tensor = self.graph.tensors[index]
            shape = ir.static_dims(value)
            new_shape = tuple(shape[a] for a in wanted)
            copy = self.tensor(
                f"{value.name}_{'nchw' if wanted == identity(value) else 'nhwc'}", new_shape, tensor.dtype,
                quant=tensor.quant, batched=tensor.batched,
            )  # fmt: skip
            if moves_nothing(shape, stored, wanted) and (not tensor.batched or wanted[0] == stored[0] == 0):
                self.reshape(index, copy)
            else:
                reason = f"{self._site_name()} needs {value.name} in another order than its maker leaves it"
                self.transpose(index, copy, perm, str(value.name), reason)
            self._copies[key] = copy
        return self._copies[key]

    def begin(self, site: Site, *, quantized: bool, unsigned: bool = False) -> None:
        """Starts on a site.

        Raises:
            NeedsFloat: its kernel demands one scale of results that have several.
        """
        self.site, self.quantized, self.scale, self.unsigned = site, quantized, None, unsigned
        self._demanded.clear()
        rule = RULES.get(site.op_type)
        if quantized and rule is not None and rule.tflite is not None and rule.tflite.scale == "same":
            self.scale = self._one_scale(site)

    def _one_scale(self, site: Site) -> QuantParams | None:
        """In which a kernel whose operands and results share a scale works; None: the lowering decides.

        Operands are requantized to the result's scale where that changes nothing; parts of a Split keep the operand's,
        and are requantized by whoever reads them. Means of what the result's scale does not reach would be cut off.
        """
        quants = [result.quant for result in site.outputs]
        first = site.inputs[0].quant if site.inputs[0] is not None else None
        if len({_quant_key(quant) for quant in quants}) > 1:
            if site.op_type != "Split" or first is None:
                raise NeedsFloat
            self._demanded = dict.fromkeys(range(len(quants)), first)
            return first
        result = quants[0]
        if site.op_type in _MEANS and first is not None and result is not None:
            reached = result.range[0] <= first.range[0] and first.range[1] <= result.range[1]
            if not reached and site.op_type == "Resize" and site.attribute("mode", "nearest") != "nearest":
                raise NeedsFloat
            if not reached and site.op_type == "AveragePool":
                return None
        return result

    def finish(self, output: str) -> None:
        """Turns to a graph output; no site is being lowered any more."""
        self.site, self.quantized, self.scale, self.at, self.unsigned = None, False, None, output, False

    # ---- writing -----------------------------------------------------------------------------------------------

    def order(self, value: ir.Value) -> Order:
        """The order in which `value` is stored."""
        return self._orders.get(value) or self.layout.of(value)

    def permutation(self, value: ir.Value) -> Permutation:
        """As `order`, for values that no Flatten made."""
        order = self.order(value)
        if isinstance(order, Flattened):
            raise Unservable(f"{value.name} is flattened")
        return order

    def output(self, position: int = 0) -> int:
        """The tensor that the site being lowered must fill, in the layout's order for its value."""
        assert self.site is not None
        result = self.site.outputs[position]
        value = result.value
        order = self.order(value)
        shape = ir.static_dims(value)
        if not isinstance(order, Flattened):
            shape = tuple(shape[a] for a in order)
        quant = self._demanded.get(position, result.quant) if self.quantized else None
        quant = quant.as_unsigned() if quant is not None and self.unsigned else quant
        index = self.tensor(
            str(value.name),
            shape,
            quant.dtype if quant else self.dtype(value),
            quant=quant,
            batched=is_batched(value),
        )
        self._stored[value] = index
        return index

    def demand_scale(self, scale: float, zero_point: int, position: int = 0) -> None:
        """Stores a quantized result as the kernel demands; readers that take it otherwise requantize it.

        Args:
            scale, zero_point: of the int8 kernel; int16 kernels with one demand 2^-15 and 0 (activations.cc).
            position: of the result.
        """
        assert self.site is not None
        quant = self.site.outputs[position].quant
        if self.quantized and quant is not None:
            wanted = (2.0**-15, 0) if quant.dtype == "int16" else (scale, zero_point)
            self._demanded[position] = QuantParams(np.array(wanted[:1]), np.array(wanted[1:]), quant.dtype)

    def alias(self, index: int, position: int = 0) -> None:
        """The site does no work: its result is the tensor `index`, under the name that this has already."""
        assert self.site is not None
        self._stored[self.site.outputs[position].value] = index

    def forget(self, tensors: int, operators: int) -> None:
        """Takes back what a lowering made beyond the first `tensors` and `operators`."""
        self._names.difference_update(t.name for t in self.graph.tensors[tensors:])
        del self.graph.tensors[tensors:], self.graph.operators[operators:]
        self._stored = {key: i for key, i in self._stored.items() if i < tensors}
        self._copies = {key: i for key, i in self._copies.items() if i < tensors}
        self._constants = {key: i for key, i in self._constants.items() if i < tensors}

    def store_input(self, value: ir.Value, index: int) -> None:
        """Graph input `value` is the tensor `index`."""
        self._stored[value] = index

    def dtype(self, value: ir.Value) -> str:
        """TFLite's element type for a value."""
        name = "float32" if value.dtype is None else str(value.dtype.numpy())
        return NARROWED.get(name, name)

    def operator(
        self,
        code: str,
        inputs: Sequence[int],
        outputs: Sequence[int],
        options: Mapping[str, Any] | None = None,
    ) -> int:
        """Appends an operator with the lowest version that serves its types, and gives its first output back.

        Raises:
            Unservable: no kernel takes these types or shapes.
            NeedsFloat: likewise, while a site is lowered on integers.
        """
        wide = [k for k, v in (options or {}).items() if type(v) is int and not -(2**31) <= v < 2**31]
        if wide:
            raise Unservable(f"{wide[0]} of {code} does not fit 32 bits")
        op = Operator(code, tuple(inputs), tuple(outputs), dict(options or {}))
        reason = objection(op, self.graph.tensors, self.kernels)
        if reason is not None:
            if self.quantized and self.site is not None:
                raise NeedsFloat(reason)
            raise Unservable(reason)
        if not scales_fit(op, self.graph.tensors):
            raise NeedsFloat
        op.version = version_of(op, self.graph.tensors)
        self.graph.operators.append(op)
        return outputs[0]

    def temporary(self, like: int, suffix: str, shape: Sequence[int] | None = None, **changes: Any) -> int:
        """A tensor between two operators of one site, typed like the tensor `like`."""
        tensor = self.graph.tensors[like]
        facts = {"dtype": tensor.dtype, "quant": tensor.quant, "batched": tensor.batched, **changes}
        return self.tensor(f"{self._site_name()}/{suffix}", tensor.shape if shape is None else shape, **facts)

    def emit(self, code: str, inputs: Sequence[int], options: Mapping[str, Any] | None = None) -> None:
        """The operator whose kernel has no fused activation: an absorbed one becomes an operator of its own."""
        assert self.site is not None
        target = self.output()
        activation = self.site.activation
        if activation == "NONE":
            self.operator(code, inputs, [target], options)
            return
        before = self.temporary(target, "before_activation")
        self.operator(code, inputs, [before], options)
        self.operator(activation, [before], [target])

    def reshape(self, source: int, target: int) -> int:
        """RESHAPE `source` into the shape of `target`; the batch stays -1 where it is symbolic."""
        tensor = self.graph.tensors[target]
        shape = (-1, *tensor.shape[1:]) if tensor.batched else tensor.shape
        return self.operator(
            "RESHAPE", [source, self.ints(shape)], [target], {"newShape": np.asarray(shape, np.int32)}
        )

    def transpose(self, source: int, target: int, perm: Sequence[int], value: str, reason: str) -> int:
        """TRANSPOSE: axis i of `target` is axis perm[i] of `source`; recorded as one that remains, with its reason."""
        tensor = self.graph.tensors[source]
        size = int(np.prod(tensor.shape)) * itemsize(tensor.dtype)
        self._transpositions[target] = Transposition(value, size, reason)
        return self.operator("TRANSPOSE", [source, self.ints(perm)], [target])

    @property
    def transpositions(self) -> list[Transposition]:
        """Those of the operators that the graph has now."""
        made = [op.outputs[0] for op in self.graph.operators if op.code == "TRANSPOSE"]
        return [self._transpositions[index] for index in made if index in self._transpositions]

    def _site_name(self) -> str:
        return self.at if self.site is None else str(self.site.outputs[0].value.name)


def is_batched(value: ir.Value) -> bool:
    """Whether axis 0 is the symbolic batch."""
    shape = ir.dims(value)
    return bool(shape) and shape is not None and shape[0] is None


def _content(array: Array) -> object:
    """What equal constants have in common: their bytes, or, of large ones, the place in memory that they share."""
    if array.nbytes <= _SMALL_BYTES:
        return array.tobytes()
    return array.__array_interface__["data"][0], array.strides


def _quant_key(quant: QuantParams | None) -> object:
    if quant is None:
        return None
    return (
        quant.dtype,
        quant.axis,
        np.asarray(quant.scale).tobytes(),
        np.asarray(quant.zero_point).tobytes(),
    )
