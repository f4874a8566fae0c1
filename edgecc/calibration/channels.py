"""Extremes of every channel and sample, computed by the runtime inside the network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from edgecc import ir


def channel_peaks(
    model: ir.Model,
    dataset: Iterable[Mapping[str, ir.Array]],
    values: Sequence[ir.Value],
    threads: int | None = None,
) -> dict[str, ir.Array]:
    """The largest magnitude in each channel of each sample: (samples, channels) float32 by value name.

    Args:
        model: a float network.
        dataset: samples in the ONNX layout; one pass.
        values: inner values of `model`, (batch, channels, at least one more axis).
        threads: of the runtime.
    """
    from edgecc.runtime.ort import OrtRunner

    copy = model.clone()
    inner = {out.name: out for node in copy.graph for out in node.outputs}
    watched = {str(v.name): _peaks(copy.graph, inner[v.name]) for v in values}
    runner = OrtRunner.from_model(copy, threads=threads)
    rows: dict[str, list[ir.Array]] = {name: [] for name in watched}
    for sample in dataset:
        answers = runner.run(sample)
        for name, outputs in watched.items():
            found = np.max([np.abs(answers[out]) for out in outputs], axis=0)
            rows[name].append(found.reshape(found.shape[0], -1).max(axis=0))
    return {name: np.stack(found) for name, found in rows.items()}


def _peaks(graph: ir.Graph, value: ir.Value) -> list[str]:
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
