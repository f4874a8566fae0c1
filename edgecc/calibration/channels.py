"""Extremes of every channel and sample, computed by the runtime inside the network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from edgecc import ir


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
        for name, (highest, *lowest) in watched.items():
            high = answers[highest]
            low = answers[lowest[0]] if lowest else np.zeros_like(high)
            lows, highs = rows[name]
            lows.append(low.reshape(low.shape[0], -1).min(axis=0))
            highs.append(high.reshape(high.shape[0], -1).max(axis=0))
    return {name: (np.stack(lows), np.stack(highs)) for name, (lows, highs) in rows.items()}


def _ends(graph: ir.Graph, value: ir.Value) -> list[str]:
    """Adds outputs (batch, channels, 1, ...): the maximum, and the minimum of what can be negative."""
    producer = value.producer()
    rectified = producer is not None and producer.op_type == "Relu"
    rank = len(value.shape or ())
    names = []
    for op_type in ("ReduceMax",) if rectified else ("ReduceMax", "ReduceMin"):
        axes = ir.add_initializer(graph, np.arange(2, rank), ir.fresh_name(graph, f"{value.name}_axes"))
        node = ir.Node("", op_type, [value, axes])
        out = node.outputs[0]
        out.name, out.type = ir.fresh_name(graph, f"{value.name}_{op_type}"), ir.TensorType(ir.DataType.FLOAT)
        assert value.shape is not None
        out.shape = ir.Shape([*value.shape.dims[:2], *[1] * (rank - 2)])
        if producer is None:
            graph.append(node)
        else:
            graph.insert_after(producer, node)
        graph.outputs.append(out)
        names.append(str(out.name))
    return names
