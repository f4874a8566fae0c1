"""One step of an LSTM, GRU or RNN, written as operators (equations: ONNX operator specification)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgecc import ir
from edgecc.analysis.recurrent import Activation, Recurrent
from edgecc.passes._emit import Emitter

State = tuple[ir.Value | None, ir.Value | None]
"""Hidden state and cell, [batch, hidden]; None: zeros."""

Step = Callable[["Cell", ir.Value, State], State]


@dataclass
class Cell:
    """What all steps of one direction share.

    Attributes:
        recurrence: R transposed: [hidden, gates * hidden].
        bias: input and recurrent biases one behind the other, or None.
        peepholes: [3 * hidden], or None.
    """

    emit: Emitter
    layer: Recurrent
    activations: tuple[Activation, ...]
    recurrence: ir.Value
    bias: ir.Value | None
    peepholes: ir.Value | None
    _kept: dict[str, list[ir.Value]] = field(default_factory=dict)

    def halves(self) -> tuple[ir.Value, ir.Value] | None:
        """Input bias and recurrent bias."""
        if self.bias is None:
            return None
        if "halves" not in self._kept:
            width = self.blocks * self.layer.hidden
            self._kept["halves"] = self.emit.split(self.bias, [width, width], 0)
        first, second = self._kept["halves"]
        return first, second

    @property
    def blocks(self) -> int:
        """Gates in the weights."""
        width = (self.recurrence.shape or (0, 0))[1]
        assert isinstance(width, int)
        return width // self.layer.hidden

    def input_bias(self) -> ir.Value | None:
        """What is added to x W^T: both biases, but for the candidate of a GRU that resets after the product."""
        halves = self.halves()
        if halves is None:
            return None
        first, second = halves
        size = self.layer.hidden
        if not self._resets_late:
            return self.add(first, second)
        early = self.emit.part(second, 0, 2 * size)
        sums = self.add(self.emit.part(first, 0, 2 * size), early)
        return self._joined([sums, self.emit.part(first, 2 * size, 3 * size)])

    def candidate_bias(self) -> ir.Value | None:
        """The recurrent bias of a GRU's candidate, where it is multiplied by the reset gate."""
        halves = self.halves()
        if halves is None or not self._resets_late:
            return None
        if "candidate" not in self._kept:
            size = self.layer.hidden
            self._kept["candidate"] = [self.emit.part(halves[1], 2 * size, 3 * size)]
        return self._kept["candidate"][0]

    def columns(self, start: int, stop: int) -> ir.Value:
        """The recurrent weights of the gates from `start` to `stop`, made once."""
        key = f"{start}:{stop}"
        if key not in self._kept:
            size = self.layer.hidden
            self._kept[key] = [self.emit.part(self.recurrence, start * size, stop * size, 1)]
        return self._kept[key][0]

    def peephole(self, index: int) -> ir.Value | None:
        """The weights from the cell to one gate: 0 input, 1 output, 2 forget."""
        if self.peepholes is None:
            return None
        if "peepholes" not in self._kept:
            self._kept["peepholes"] = self.emit.split(self.peepholes, [self.layer.hidden] * 3, 0)
        return self._kept["peepholes"][index]

    @property
    def _resets_late(self) -> bool:
        return self.layer.kind == "GRU" and self.layer.linear_before_reset

    def _joined(self, values: Sequence[ir.Value]) -> ir.Value:
        arrays = [ir.constant(v) for v in values]
        if all(array is not None for array in arrays):
            import numpy as np

            return self.emit.constant(np.concatenate([a for a in arrays if a is not None]), "bias")
        return self.emit.concat(values, 0)

    def add(self, a: ir.Value, b: ir.Value | None) -> ir.Value:
        """a + b, in the shape of `a`; `a` where there is no `b`."""
        return a if b is None else self.emit.op("Add", [a, b], tuple(a.shape or ()))

    def mul(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """a * b, in the shape of `a`."""
        return self.emit.op("Mul", [a, b], tuple(a.shape or ()))

    def rest(self, a: ir.Value) -> ir.Value:
        """1 - a."""
        return self.emit.op("Sub", [self.number(1.0), a], tuple(a.shape or ()))

    def number(self, value: float) -> ir.Value:
        """A scalar constant, made once."""
        key = repr(value)
        if key not in self._kept:
            self._kept[key] = [self.emit.constant(value, "number")]
        return self._kept[key][0]

    def product(self, hidden: ir.Value, start: int, stop: int) -> ir.Value:
        """The hidden state times the recurrent weights of some gates."""
        shape = [(hidden.shape or (1,))[0], (stop - start) * self.layer.hidden]
        return self.emit.op("MatMul", [hidden, self.columns(start, stop)], shape)

    def split(self, value: ir.Value, count: int) -> list[ir.Value]:
        """The blocks of `count` gates."""
        return self.emit.split(value, [self.layer.hidden] * count, 1)

    def activate(self, index: int, value: ir.Value, *, clip: bool = True) -> ir.Value:
        """The activation f, g or h; its input is clipped where the layer says so."""
        shape = tuple(value.shape or ())
        bound = self.layer.clip
        if bound is not None and clip:
            value = self.emit.op("Clip", [value, self.number(-bound), self.number(bound)], shape)
        activation = self.activations[index]
        return _ACTIVATIONS[activation.name](self, value, activation.parameters)


def _simple(op_type: str, *names: str) -> Callable[[Cell, ir.Value, tuple[float, ...]], ir.Value]:
    def make(cell: Cell, value: ir.Value, parameters: tuple[float, ...]) -> ir.Value:
        attributes: dict[str, Any] = dict(zip(names, parameters, strict=True))
        return cell.emit.op(op_type, [value], tuple(value.shape or ()), **attributes)

    return make


def _affine(cell: Cell, value: ir.Value, parameters: tuple[float, ...]) -> ir.Value:
    return cell.add(cell.mul(value, cell.number(parameters[0])), cell.number(parameters[1]))


def _scaled_tanh(cell: Cell, value: ir.Value, parameters: tuple[float, ...]) -> ir.Value:
    inner = cell.mul(value, cell.number(parameters[1]))
    return cell.mul(_ACTIVATIONS["tanh"](cell, inner, ()), cell.number(parameters[0]))


_ACTIVATIONS: dict[str, Callable[[Cell, ir.Value, tuple[float, ...]], ir.Value]] = {
    "relu": _simple("Relu"),
    "tanh": _simple("Tanh"),
    "sigmoid": _simple("Sigmoid"),
    "softsign": _simple("Softsign"),
    "softplus": _simple("Softplus"),
    "leakyrelu": _simple("LeakyRelu", "alpha"),
    "thresholdedrelu": _simple("ThresholdedRelu", "alpha"),
    "elu": _simple("Elu", "alpha"),
    "hardsigmoid": _simple("HardSigmoid", "alpha", "beta"),
    "affine": _affine,
    "scaledtanh": _scaled_tanh,
}


def rnn(cell: Cell, projected: ir.Value, state: State) -> State:
    """H = f(x W^T + H R^T + b)."""
    hidden = state[0]
    total = projected if hidden is None else cell.add(projected, cell.product(hidden, 0, 1))
    return cell.activate(0, total), None


def gru(cell: Cell, projected: ir.Value, state: State) -> State:
    """z = f(..); r = f(..); n = g(x + (r * H) R^T), or x + r * (H R^T + b) where linear before reset;
    H = (1 - z) * n + z * H."""
    hidden = state[0]
    if hidden is None:
        update, reset, candidate = cell.split(projected, 3)
        bias = cell.candidate_bias()
        if bias is not None:
            candidate = cell.add(candidate, cell.mul(cell.activate(0, reset), bias))
        update = cell.activate(0, update)
        return cell.mul(cell.rest(update), cell.activate(1, candidate)), None
    if cell.layer.linear_before_reset:
        update, reset, candidate = cell.split(projected, 3)
        own = cell.split(cell.product(hidden, 0, 3), 3)
        update, reset = cell.activate(0, cell.add(update, own[0])), cell.activate(0, cell.add(reset, own[1]))
        candidate = cell.add(candidate, cell.mul(cell.add(own[2], cell.candidate_bias()), reset))
    else:
        size = cell.layer.hidden
        gates, candidate = cell.emit.split(projected, [2 * size, size], 1)
        both = cell.activate(0, cell.add(gates, cell.product(hidden, 0, 2)))
        update, reset = cell.split(both, 2)
        candidate = cell.add(candidate, cell.product(cell.mul(hidden, reset), 2, 3))
    new = cell.activate(1, candidate)
    return cell.add(cell.mul(new, cell.rest(update)), cell.mul(hidden, update)), None


def lstm(cell: Cell, projected: ir.Value, state: State) -> State:
    """i, f, c = f, f, g(..); C = f * C + i * c; o = f(..); H = o * h(C). Order of the weights: i, o, f, c."""
    hidden, memory = state
    total = projected if hidden is None else cell.add(projected, cell.product(hidden, 0, 4))
    enter, leave, forget, fresh = cell.split(total, 4)
    enter = cell.activate(0, _peep(cell, enter, memory, 0))
    new = cell.mul(enter, cell.activate(1, fresh))
    if memory is not None:
        if cell.layer.input_forget:
            kept = cell.rest(enter)
        else:
            kept = cell.activate(0, _peep(cell, forget, memory, 2))
        new = cell.add(cell.mul(kept, memory), new)
    leave = cell.activate(0, _peep(cell, leave, new, 1))
    return cell.mul(leave, cell.activate(2, new, clip=False)), new


def _peep(cell: Cell, gate: ir.Value, memory: ir.Value | None, index: int) -> ir.Value:
    weights = cell.peephole(index)
    return gate if weights is None or memory is None else cell.add(gate, cell.mul(memory, weights))


CELLS: dict[str, Step] = {"RNN": rnn, "GRU": gru, "LSTM": lstm}
"""The step of each operator."""
