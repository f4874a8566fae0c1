"""Runs the operators of a graph in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from edgecc.errors import Finding, ModelError, UnsupportedError
from edgecc.ir import Array
from edgecc.simulate import elementwise, linear, moving, plain, reducing, resizing, tables
from edgecc.simulate.common import Kernel
from edgecc.tflite.reader import Graph, Operator

_ANY: Mapping[str, Kernel] = {
    **moving.ANY,
    **reducing.ANY,
    **resizing.ANY,
    **elementwise.CONVERSIONS,
    **plain.ANY,
}
_INT8: Mapping[str, Kernel] = {
    **linear.INT8, **elementwise.INT8, **tables.INT8, **reducing.INT8, **resizing.INT8,
}  # fmt: skip
KERNELS: Mapping[str, Mapping[str, Kernel]] = {
    "int8": {**_ANY, **_INT8},
    "float32": {**_ANY, **plain.REAL},
    "int32": {**_ANY, **plain.WHOLE},
    "int64": {**_ANY, **plain.WHOLE},
    "bool": {**_ANY, **plain.LOGICAL},
}
"""By the type of the first output, then by the operator's name in the schema; other types are only moved."""

_MISSING = np.zeros(0, np.float32)
Observer = Callable[[Operator, list[Array]], None]


def kernel_of(op: Operator, micro: bool = False) -> Kernel | None:
    """What computes an operator, as LiteRT's reference kernels or as TFLite Micro; None: nothing here does."""
    kind = op.outputs[0].dtype if op.outputs else ""
    found = KERNELS.get(kind, _ANY).get(op.code)
    if kind == "int8" and op.code in _INT8 and any(
        t is not None and t.dtype not in ("int8", "int32") for t in op.inputs
    ):  # fmt: skip
        return None  # int16 activations, float operands
    if kind == "bool" and found and any(t is not None and t.dtype == "int8" for t in op.inputs):
        return None  # compared after a rescaling
    return linear.MICRO.get(op.code, found) if micro and kind == "int8" else found


@dataclass(frozen=True)
class Network:
    """A graph whose every operator can be computed.

    Args:
        graph: of a file.
        micro: as TFLite Micro does, where that differs from LiteRT's reference kernels.

    Raises:
        UnsupportedError: an operator cannot be; all are named at once.
    """

    graph: Graph
    micro: bool = False
    _steps: tuple[tuple[Operator, Kernel], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        steps, missing = [], []
        for op in self.graph.operators:
            kernel = kernel_of(op, self.micro)
            if kernel is None:
                kinds = ", ".join(t.dtype or "another type" for t in op.inputs if t is not None)
                missing.append(Finding(op.outputs[0].name if op.outputs else "", op.code, f"takes {kinds}"))
            else:
                steps.append((op, kernel))
        if missing:
            codes = ", ".join(dict.fromkeys(f.op_type for f in missing))
            raise UnsupportedError(
                f"not simulated bit for bit: {codes}", missing, remedy="compile with --precision int8"
            )
        object.__setattr__(self, "_steps", tuple(steps))

    def run(self, feeds: Mapping[int, Array], observe: Observer | None = None) -> list[Array]:
        """Computes every tensor once, in order, and drops it after its last use.

        Args:
            feeds: what the inputs hold, by the tensor's index.
            observe: called with each operator and its outputs.

        Returns:
            What the outputs hold.

        Raises:
            ModelError: shapes do not fit.
        """
        values = {t.index: t.data for t in self.graph.tensors if t.data is not None}
        values.update(feeds)
        keep = {t.index for t in self.graph.outputs}
        last = {t.index: op.number for op in self.graph.operators for t in op.inputs if t is not None}
        for op, kernel in self._steps:
            try:
                given = [_MISSING if t is None else values[t.index] for t in op.inputs]
                with np.errstate(invalid="ignore"):  # real values beyond all integers, in damaged files
                    found = [np.ascontiguousarray(v).reshape(v.shape) for v in kernel(op, given)]
            except (KeyError, IndexError, ValueError) as error:
                raise ModelError(f"the shapes of {op.label} do not fit: {error}") from error
            for tensor, value in zip(op.outputs, found, strict=True):
                values[tensor.index] = value
            if observe is not None:
                observe(op, found)
            for gone in {t.index for t in op.inputs if t is not None and last[t.index] == op.number} - keep:
                del values[gone]
        return [values[t.index] for t in self.graph.outputs]
