"""Lowest and highest value of every tensor and sample, computed by the runtime inside the network."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgecc import ir
from edgecc.quant import rules

Range = tuple[float, float]

_EXTREMES = "edgecc_extremes"
# Values that one output collects: ONNX Runtime 1.31 takes 10 s to load one Concat of 3000.
_FAN_IN = 64


class Extremes:
    """Collects them.

    Args:
        values: to watch.
        fence: see `observers.Observer`, "robust"; None: no fence.
        whole: names of values whose extremes count without it.
    """

    def __init__(self, values: Sequence[ir.Value], fence: float | None, whole: Collection[str]) -> None:
        self._inputs = [str(v.name) for v in values if v.is_graph_input()]
        self._inner = [v for v in values if not v.is_graph_input()]
        self._fence = fence
        self._whole = whole
        self._rows: list[ir.Array] = []
        self._lows: list[str] = []
        self._highs: list[str] = []

    def augmented(self, model: ir.Model) -> ir.Model:
        """The network with more outputs: the minimum of each inner value, in order, and the maximum of each.

        New nodes stand behind what they read: ONNX Runtime 1.31 keeps those that could run in a list sorted by
        their place in the file, so that with all at the end the time to load would grow with their square.
        """
        copy = model.clone()
        graph = copy.graph
        by_name = {out.name: out for node in graph for out in node.outputs}
        nodes = list(graph)
        following = dict(zip(nodes, [*nodes[1:], None], strict=True))
        shape = ir.add_initializer(graph, np.array([1], np.int64), ir.fresh_name(graph, f"{_EXTREMES}_shape"))
        zero = ir.add_initializer(graph, np.zeros(1, np.float32), ir.fresh_name(graph, f"{_EXTREMES}_zero"))
        for op_type, outputs in (("ReduceMin", self._lows), ("ReduceMax", self._highs)):
            parts: list[ir.Value] = []
            for position, inner in enumerate(self._inner, 1):
                value = by_name[inner.name]
                place = _Place(graph, following[value.producer()])  # type: ignore[index]
                parts.append(_extreme(place, op_type, value, shape, zero))
                if len(parts) == _FAN_IN or position == len(self._inner):
                    out = place.add("Concat", parts, axis=0)
                    out.shape = ir.Shape([len(parts)])
                    graph.outputs.append(out)
                    outputs.append(str(out.name))
                    parts = []
        return copy

    def add(self, answers: Mapping[str, ir.Array], sample: Mapping[str, ir.Array]) -> None:
        """Takes one sample's extremes; a rectified value's minimum is 0."""
        fed = [sample[name] for name in self._inputs]
        lows: list[ir.Array] = [np.array([a.min() for a in fed]), *(answers[name] for name in self._lows)]
        highs: list[ir.Array] = [np.array([a.max() for a in fed]), *(answers[name] for name in self._highs)]
        self._rows.append(np.array([np.concatenate(lows), np.concatenate(highs)], np.float32))

    def last(self) -> dict[str, Range]:
        """Of the sample that was taken last."""
        return {n: (float(a), float(b)) for n, a, b in zip(self._names(), *self._rows[-1], strict=True)}

    def _names(self) -> list[str]:
        return [*self._inputs, *(str(v.name) for v in self._inner)]

    def extremes(self) -> dict[str, Range]:
        """Over all samples."""
        return self.ranges(fenced=False)

    def ranges(self, *, fenced: bool = True) -> dict[str, Range]:
        """Over all samples, within the fence."""
        rows = np.stack(self._rows).astype(np.float64)  # (samples, 2, values)
        low, high = rows[:, 0].min(axis=0), rows[:, 1].max(axis=0)
        names = self._names()
        if self._fence is not None and fenced:
            cut = np.array([name not in self._whole for name in names], bool)
            low[cut] = np.maximum(low[cut], self._fence * np.quantile(rows[:, 0, cut], 0.25, axis=0))
            high[cut] = np.minimum(high[cut], self._fence * np.quantile(rows[:, 1, cut], 0.75, axis=0))
        return {n: (float(a), float(b)) for n, a, b in zip(names, low, high, strict=True)}


def is_rectified(value: ir.Value) -> bool:
    """Whether a Relu, or a Clip that begins at 0, computes the value."""
    producer = value.producer()
    return (
        producer is not None
        and producer.op_type in ("Relu", "Clip")
        and rules.clip_limits(producer)[0] == 0.0
    )


@dataclass(frozen=True)
class _Place:
    """Where nodes are added: before another, or at the end."""

    graph: ir.Graph
    before: ir.Node | None

    def add(self, op_type: str, inputs: Sequence[ir.Value], **attributes: int) -> ir.Value:
        node = ir.Node("", op_type, inputs)
        node.attributes.update({k: ir.Attr(k, ir.AttributeType.INT, v) for k, v in attributes.items()})
        out = node.outputs[0]
        out.name, out.type = f"{_EXTREMES}_{self.graph.num_nodes()}", ir.TensorType(ir.DataType.FLOAT)
        if self.before is None:
            self.graph.append(node)
        else:
            self.graph.insert_before(self.before, node)
        return out


def _extreme(place: _Place, op_type: str, value: ir.Value, shape: ir.Value, zero: ir.Value) -> ir.Value:
    """The lowest (ReduceMin) or highest (ReduceMax) element of a value, as a vector of one."""
    rectified = is_rectified(value)
    if rectified and op_type == "ReduceMin":
        return zero
    if rectified and len(value.shape or ()) == 4:
        # The runtime computes this one in its blocked layout: 2 ms an image less on EfficientNet-Lite0.
        value = place.add("GlobalMaxPool", [value])
    return place.add("Reshape", [place.add(op_type, [value], keepdims=0), shape])
