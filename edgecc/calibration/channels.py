"""Extremes of every channel and sample, computed by the runtime inside the network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from edgecc import ir
from edgecc.calibration.extremes import is_rectified


def channel_extremes(
    model: ir.Model,
    dataset: Iterable[Mapping[str, ir.Array]],
    values: Sequence[ir.Value],
    threads: int | None = None,
) -> dict[str, tuple[ir.Array, ir.Array]]:
    """The lowest and the highest value in each channel of each sample: (samples, channels) float32 by value name.

    Args:
        model: a float network.
        dataset: samples in the ONNX layout; one pass.
        values: inner values of `model`, (batch, channels, at least one more axis).
        threads: of the runtime.
    """
    from edgecc.runtime.ort import OrtRunner

    copy = model.clone()
    inner = {out.name: out for node in copy.graph for out in node.outputs}
    watched = {str(v.name): _ends(copy.graph, inner[v.name]) for v in values}
    runner = OrtRunner.from_model(copy, threads=threads)
    rows: dict[str, tuple[list[ir.Array], list[ir.Array]]] = {name: ([], []) for name in watched}
    for sample in dataset:
        answers = runner.run(sample)
        for name, (highest, *inverted) in watched.items():
            high = answers[highest]
            low = -answers[inverted[0]] if inverted else np.zeros_like(high)
            lows, highs = rows[name]
            lows.append(low.reshape(low.shape[0], -1).min(axis=0))
            highs.append(high.reshape(high.shape[0], -1).max(axis=0))
    return {name: (np.stack(lows), np.stack(highs)) for name, (lows, highs) in rows.items()}


def _ends(graph: ir.Graph, value: ir.Value) -> list[str]:
    """Adds outputs (batch, channels, 1, ...): the maximum, and of what can be negative that of the negated value.

    The runtime pools in its blocked layout: an image of EfficientNet-Lite0 takes 17 ms instead of 22 with ReduceMax.
    """
    producer = value.producer()
    assert producer is not None
    sources, last = [value], producer
    if not is_rectified(value):
        last = _after(graph, producer, "Neg", value)
        last.outputs[0].shape = value.shape
        sources.append(last.outputs[0])
    assert value.shape is not None
    names = []
    for source in sources:
        last = _after(graph, last, "GlobalMaxPool", source)
        out = last.outputs[0]
        out.shape = ir.Shape([*value.shape.dims[:2], *[1] * (len(value.shape) - 2)])
        graph.outputs.append(out)
        names.append(str(out.name))
    return names


def _after(graph: ir.Graph, place: ir.Node, op_type: str, value: ir.Value) -> ir.Node:
    node = ir.Node("", op_type, [value])
    node.outputs[0].name = ir.fresh_name(graph, f"{value.name}_{op_type}")
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    graph.insert_after(place, node)
    return node
