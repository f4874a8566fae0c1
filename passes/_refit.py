"""Fits weights again, so that a layer of a changed network answers as it did in the original."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from edgecc import ir
from edgecc.calibration import moments as mo
from edgecc.calibration.columns import fan_in, groups
from edgecc.calibration.pairs import PairedMoments, pairs_in_turn
from edgecc.passes._weights import rows, unrows
from edgecc.quant import rules


def store(value: ir.Value, array: ir.Array) -> None:
    """Gives a constant another array of its shape."""
    value.const_value = ir.Tensor(array, name=value.name)


def refittable(node: ir.Node, max_fan_in: int) -> bool:
    """Whether its weights are constant, read by it alone, and its inputs are columns, not too many."""
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    return (
        weight is not None
        and mo.objection(node) is None
        and len(weight.uses()) == 1
        and groups(node) == 1
        and fan_in(node) <= max_fan_in
    )


def fits_bias(node: ir.Node) -> bool:
    """Whether the layer's bias takes up what changes on average."""
    bias = rules.bias_of(node)
    return bias is not None and len(bias.uses()) == 1


def refit(
    model: ir.Model,
    original: ir.Model,
    dataset: Iterable[Mapping[str, ir.Array]],
    nodes: Iterable[tuple[ir.Node, ir.Node, ir.Array]],
    *,
    damping: float,
    columns: int,
    seed: int,
) -> int:
    """Least squares, layer after layer on what the changed network feeds it; weights and biases change in place.

    Minimises E|W z - W' x|^2 + damping |W' - W''|^2 with W, z weights and inputs in the original, x the inputs now
    and W'' the weights now; where there is a bias, it takes the mean. (He et al. 2017, arXiv:1707.06168, section 3.1,
    for one layer on the inputs of the original.) Of few columns correlations are shrunk (`moments.shrinkage`).

    Args:
        model, original: the changed network and the one whose answers are wanted.
        dataset: samples in the ONNX layout.
        nodes: in the order of the graph (layer, its original, which outputs of that it still has).
        damping: as a share of the mean second moment.
        columns: places of the output taken of each sample.
        seed: of their choice.

    Returns:
        How many layers were fitted.
    """
    listed = list(nodes)
    pairs = [(node, before) for node, before, _ in listed]
    found = pairs_in_turn(model, original, dataset, pairs, columns=columns, seed=seed)
    for (node, before, kept), (_, moments) in zip(listed, found, strict=True):
        _fit(node, before, kept, moments, damping)
    return len(listed)


def _fit(node: ir.Node, before: ir.Node, kept: ir.Array, moments: PairedMoments, damping: float) -> None:
    weight, bias = node.inputs[1], rules.bias_of(node)
    array, wanted = ir.constant(weight), ir.constant(before.inputs[1])
    assert weight is not None
    assert array is not None
    assert wanted is not None
    start = rows(node, array).astype(np.float64)
    target = rows(before, wanted)[kept].astype(np.float64)
    second, cross = moments.second[0], moments.cross[0]
    shifts = fits_bias(node)
    if shifts:
        second = second - np.outer(moments.mean[0], moments.mean[0])
        cross = cross - np.outer(moments.mean_before[0], moments.mean[0])
    ridge = damping * max(float(np.diag(moments.second[0]).mean()), 1e-12)
    # As far as correlations of few columns cannot be trusted, the weights stay what they are.
    few = float(mo.shrinkage(second[None], moments.count)[0])
    pull = few * np.diag(second) + ridge
    found = (1 - few) * (target @ cross) + pull * start
    fitted = np.linalg.solve((1 - few) * second + np.diag(pull), found.T).T
    store(weight, unrows(node, fitted, array))
    if shifts:
        assert bias is not None
        offset = ir.constant(before.inputs[2])
        assert offset is not None
        old = offset.reshape(-1)[kept] if offset.size > 1 else np.repeat(offset.reshape(-1), len(kept))
        unit = ir.attribute(node, "alpha", 1.0) / ir.attribute(node, "beta", 1.0)
        moved = old + unit * (target @ moments.mean_before[0] - fitted @ moments.mean[0])
        store(bias, moved.reshape(ir.static_dims(bias)).astype(offset.dtype))
