"""What each channel is worth, by the criterion that the user chooses: in which order channels go, at what loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from edgecc import ir
from edgecc.analysis.answers import Changes
from edgecc.analysis.channel_problem import Axis
from edgecc.analysis.channels import ChannelGroup, Channels
from edgecc.calibration import moments as mo
from edgecc.calibration.columns import fan_in
from edgecc.passes._elimination import Elimination
from edgecc.passes._refit import fits_bias
from edgecc.passes._scores import channel_bits
from edgecc.passes._weights import rows, unrows
from edgecc.quant.int4 import input_axis

# Of every group so many channels stay at least.
LEAST = 0.1
# The share of a group that is taken away to see what that does to the answers.
PROBE = 0.25


@dataclass(frozen=True)
class Curve:
    """What removing the channels of one group costs.

    Attributes:
        group: the channels.
        order: units, the first to go first.
        loss: (len(order) + 1,) of the criterion, when so many are gone.
        probe: what the weights of layers would be with `PROBE` of the group gone, by the weights' name.
    """

    group: ChannelGroup
    order: tuple[int, ...]
    loss: ir.Array
    probe: Mapping[str, ir.Array] = field(default_factory=dict)


def probed(group: ChannelGroup) -> int:
    """How many channels of a group are taken away to see what that does."""
    return max(1, round(PROBE * len(group.units)))


def readers(evidence: Evidence, group: ChannelGroup) -> list[ir.Node]:
    """The layers that sum over the channels of a group and whose weights can be fitted to fewer."""
    return [n for n in evidence.layers if (n.inputs[1], input_axis(n)) in group.axes]


def _blocks(channels: Channels, group: ChannelGroup, node: ir.Node) -> ir.Array:
    """The inputs of a layer that each unit feeds, (units, size)."""
    weight, axis = node.inputs[1], input_axis(node)
    assert weight is not None
    of = channels.unit[weight, axis]
    of = np.repeat(of, fan_in(node) // len(of))
    return np.stack([np.flatnonzero(of == u) for u in group.units])


@dataclass(frozen=True)
class Evidence:
    """What criteria may look at.

    Attributes:
        model: the network.
        channels: what can go.
        data: calibration samples, or None.
        layers: whose weights can be fitted to fewer inputs.
        moments: of the inputs of these, where there is data.
        damping: of second moments.
    """

    model: ir.Model
    channels: Channels
    data: Iterable[Mapping[str, ir.Array]] | None
    layers: Sequence[ir.Node]
    moments: Mapping[ir.Node, mo.Moments]
    damping: float
    seed: int = 0

    @cached_property
    def bits(self) -> dict[ir.Node, ir.Array]:
        """The entropy of what each weight of a layer reads, (groups, fan_in)."""
        return channel_bits(self.model, list(self.data or ()), self.layers, 1)

    @cached_property
    def lost(self) -> dict[Axis, ir.Array]:
        """Of the channels that layers read, what the answers lose to first order without each, as energy.

        With a the values and g the derivatives of the sum of answers with random signs: E (sum over the channel of
        a g)^2, which counts each answer alike (Molchanov et al. 2019, arXiv:1906.10771, equation 8).
        """
        from edgecc.analysis.gradients import SEED, gradient_model
        from edgecc.runtime.ort import OrtRunner

        read = {node.inputs[0]: 1 if node.op_type == "Conv" else -1 for node in self.layers}
        axes = {v: a % len(v.shape) for v, a in read.items() if v is not None and v.shape is not None}
        axes = {v: a for v, a in axes.items() if (v, a) in self.channels.unit}
        backward, names = gradient_model(self.model, [str(v.name) for v in axes])
        forward = OrtRunner.from_model(self.model, threads=1, extra_outputs=[str(v.name) for v in axes])
        runner, random = OrtRunner.from_model(backward, threads=1), np.random.default_rng(self.seed)
        seeds = {i.name: i.shape for i in runner.inputs if i.name.startswith(SEED)}
        found: dict[Axis, ir.Array] = {}
        for sample in self.data or ():
            values = forward.run(sample)
            signs = {
                n: random.choice([-1.0, 1.0], [d or 1 for d in s]).astype(np.float32)
                for n, s in seeds.items()
            }
            slopes = runner.run({**sample, **signs})
            for value, axis in axes.items():
                if str(value.name) in names:
                    moved = values[str(value.name)] * slopes[names[str(value.name)]]
                    sums = moved.sum(axis=tuple(i for i in range(moved.ndim) if i != axis), dtype=np.float64)
                    found[value, axis] = found.get((value, axis), 0.0) + sums**2
        return found


def reconstruction(evidence: Evidence, group: ChannelGroup) -> Curve | None:
    """Channels without which the layers that read them answer most alike, once fitted again; one after another."""
    found = {}
    for node in readers(evidence, group):
        array = ir.constant(node.inputs[1])
        assert array is not None
        found[node] = Elimination.of(
            rows(node, array),
            mo.trusted(evidence.moments[node], centred=fits_bias(node))[0],
            _blocks(evidence.channels, group, node),
            evidence.damping,
        )
    if not found:
        return None
    left, order, loss = np.arange(len(group.units)), [], [0.0]
    probe: dict[str, ir.Array] = {}
    while len(left) > max(1, LEAST * len(group.units)):
        each = np.sum([e.losses(left) for e in found.values()], axis=0)
        k = int(np.argmin(each))
        order.append(group.units[left[k]])
        loss.append(loss[-1] + max(float(each[k]), 0.0))
        for layer in found.values():
            layer.remove(int(left[k]))
        left = np.delete(left, k)
        if len(order) == probed(group):
            probe = {str(n.inputs[1].name): _probed(n, e.weights) for n, e in found.items()}  # type: ignore[union-attr]
    return Curve(group, tuple(order), np.asarray(loss), probe)


def _probed(node: ir.Node, weights: ir.Array) -> ir.Array:
    array = ir.constant(node.inputs[1])
    assert array is not None
    return unrows(node, weights, array)


def by_score(evidence: Evidence, group: ChannelGroup, scores: ir.Array) -> Curve:
    """Channels of the lowest score first; the loss is their share of the group's."""
    order = np.argsort(scores, kind="stable")[
        : max(0, len(scores) - max(1, int(np.ceil(LEAST * len(scores)))))
    ]
    share = np.concatenate([[0.0], np.cumsum(scores[order])]) / max(float(scores.sum()), 1e-30)
    units = tuple(group.units[i] for i in order)
    gone = set(units[: probed(group)])
    probe = {}
    for node in readers(evidence, group):
        array, weight, axis = ir.constant(node.inputs[1]), node.inputs[1], input_axis(node)
        assert array is not None
        assert weight is not None
        dead = np.isin(evidence.channels.unit[weight, axis], list(gone))
        probe[str(weight.name)] = array * ~dead.reshape([-1 if i == axis else 1 for i in range(array.ndim)])
    return Curve(group, units, share, probe)


def _norm(power: int) -> Callable[[Evidence, ChannelGroup], ir.Array | None]:
    def score(evidence: Evidence, group: ChannelGroup) -> ir.Array | None:
        """The norm of the weights that make each channel, in units of the layer's mean."""
        total = np.zeros(len(group.units))
        for value, axis, weight in _makers(evidence.model, group):
            size = (
                np.abs(np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1).astype(np.float64))
                ** power
            )
            norms = size.sum(axis=1) ** (1 / power)
            total += _of_units(evidence.channels.unit[value, axis], group, norms / max(norms.mean(), 1e-30))
        return total if total.any() else None

    return score


def _makers(model: ir.Model, group: ChannelGroup) -> Iterable[tuple[ir.Value, int, ir.Array]]:
    for node in model.graph:
        weight = node.inputs[1] if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") else None
        array = ir.constant(weight)
        if weight is None or array is None:
            continue
        axis = {"Conv": 0, "ConvTranspose": 1, "MatMul": array.ndim - 1}.get(node.op_type)
        axis = 1 - int(ir.attribute(node, "transB", 0)) if axis is None else axis
        if (weight, axis) in group.axes:
            yield weight, axis, array


def _of_units(units: ir.Array, group: ChannelGroup, per_index: ir.Array) -> ir.Array:
    """Sums over the indices of each unit."""
    place = {u: i for i, u in enumerate(group.units)}
    total = np.zeros(len(group.units))
    for u, number in zip(units.tolist(), per_index, strict=True):
        if u in place:
            total[place[u]] += number
    return total


def _gamma(evidence: Evidence, group: ChannelGroup) -> ir.Array | None:
    """|gamma| of the BatchNormalization that follows (Liu et al. 2017, arXiv:1708.06519)."""
    total = np.zeros(len(group.units))
    for node in evidence.model.graph:
        scale = node.inputs[1] if node.op_type == "BatchNormalization" else None
        array = ir.constant(scale)
        if scale is not None and array is not None and (scale, 0) in group.axes:
            total += _of_units(evidence.channels.unit[scale, 0], group, np.abs(array.astype(np.float64)))
    return total if total.any() else None


def _activation(evidence: Evidence, group: ChannelGroup) -> ir.Array | None:
    """The mean square of each channel where layers read it, in units of the layer's mean."""
    total = np.zeros(len(group.units))
    for node in readers(evidence, group):
        energy = np.diag(evidence.moments[node].second[0])[_blocks(evidence.channels, group, node)].sum(
            axis=1
        )
        total += energy / max(float(energy.mean()), 1e-30)
    return total if total.any() else None


def _entropy(evidence: Evidence, group: ChannelGroup) -> ir.Array | None:
    """Bits of each channel where layers read it, from histograms (Luo and Wu 2017, arXiv:1706.05791)."""
    total = np.zeros(len(group.units))
    for node in readers(evidence, group):
        bits = evidence.bits[node].reshape(-1)
        total += bits[_blocks(evidence.channels, group, node)].mean(axis=1)
    return total if total.any() else None


def _gradient(evidence: Evidence, group: ChannelGroup) -> ir.Array | None:
    """What the answers lose to first order (see `Evidence.lost`)."""
    total = np.zeros(len(group.units))
    for (value, axis), lost in evidence.lost.items():
        if (value, axis) in group.axes:
            total += _of_units(evidence.channels.unit[value, axis], group, lost)
    return total if total.any() else None


# Criterion -> a score a unit; None where it says nothing of a group.
SCORES: dict[str, Callable[[Evidence, ChannelGroup], ir.Array | None]] = {
    "l1": _norm(1),
    "l2": _norm(2),
    "gamma": _gamma,
    "activation": _activation,
    "entropy": _entropy,
    "gradient": _gradient,
}
# Those that look at data.
DATA_DRIVEN = frozenset({"activation", "entropy", "gradient", "reconstruction"})


def curves(evidence: Evidence, criterion: str) -> tuple[list[Curve], list[ChannelGroup]]:
    """A curve for each group that the criterion says something of, and the other groups."""
    found: list[Curve] = []
    left: list[ChannelGroup] = []
    for group in evidence.channels.groups:
        if criterion == "reconstruction":
            curve = reconstruction(evidence, group)
        else:
            scores = SCORES[criterion](evidence, group)
            curve = None if scores is None else by_score(evidence, group, scores)
        if curve is None or not curve.order:
            left.append(group)
        else:
            found.append(curve)
    return found, left


def sensitivities(
    model: ir.Model, found: Sequence[Curve], samples: Sequence[Mapping[str, ir.Array]]
) -> list[float]:
    """What a unit of each curve's loss does to the answers: noise as a share of their power, measured.

    Of several outputs it is the mean.

    Args:
        model: the network.
        found: curves whose probes are tried, one after another, all else as it is.
        samples: on which.
    """
    answers = Changes(model, samples)
    factors = []
    for curve in found:
        at = min(probed(curve.group), len(curve.order))
        if not curve.probe or curve.loss[at] <= 0:
            factors.append(1.0 if curve.loss[at] > 0 else 0.0)
            continue
        trial = model.clone()
        for name, weights in curve.probe.items():
            trial.graph.initializers[name].const_value = ir.Tensor(weights, name=name)
        noise = answers.noise(trial)
        factors.append((float(np.mean(noise)) if noise else 0.0) / float(curve.loss[at]))
    return factors
