"""Rounds weights so that the errors of a sum cancel on the calibration data, and corrects biases for the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, get_args

import numpy as np

from edgecc import ir
from edgecc.passes import _rewrite as rw
from edgecc.passes._weights import rows, unrows
from edgecc.pipeline import Pass, PassContext, PassResult
from edgecc.quant import rules
from edgecc.quant.compensate import compensated, compensated_lanes
from edgecc.quant.shared_values import REASON, stays_few
from edgecc.quant.units import integer_units

if TYPE_CHECKING:
    from edgecc.calibration.moments import Moments
    from edgecc.quant.params import QuantParams
    from edgecc.quant.plan import QuantPlan

# Layers of at most so many inputs an output are rounded all outputs at once.
_SMALL = 64


@dataclass(frozen=True, kw_only=True)
class RoundWeights(Pass):
    """Moves the weights of the float network onto the grid of the plan, compensating errors.

    Runs between planning and `insert_qdq`, once for all runtimes: weight scales are shared. The moments of the
    inputs come from the calibration data. Weights are rounded one input after the other, and what is lost on
    the data is made up for by the inputs not rounded yet; the mean of the error that remains goes into the
    bias. (GPTQ, Frantar et al. 2022; bias correction, Nagel et al. 2019, section 4.2, on measured means.)
    Weights that are zero stay zero: they may have been pruned.

    Attributes:
        damping: what is added to the diagonal of the moments, as a share of its mean. 0.001 to 0.1 differ by 0.3
            dB on EfficientNet-Lite0 and MobileNetV2.
        columns: places of the output taken of each sample.
        samples: at most so many calibration samples are run, spread over the data where their number is known.
        max_fan_in: layers with more inputs an output are rounded to nearest: time grows with its cube.
    """

    name: ClassVar[str] = "round_weights"
    exact: ClassVar[bool] = False
    damping: float = 0.01
    columns: int = 49
    samples: int = 64
    max_fan_in: int = 2304

    def apply(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Changes weights and biases in place; needs `ctx.plan` and `ctx.data`."""
        from threadpoolctl import threadpool_limits

        from edgecc.calibration.moments import collect_moments, spread

        tally = rw.Tally()
        if ctx.plan is None or ctx.data is None:
            return PassResult()
        nodes = []
        for node in model.graph:
            reason = self._objection(node, ctx.plan)
            if reason == "":
                continue
            if reason is None:
                nodes.append(node)
            else:
                tally.refuse(node, reason)
        if not nodes:
            return tally.result()
        served = {
            n for runtime in get_args(rules.Runtime) for n in integer_units(model, runtime, ctx.plan)[0]
        }
        nodes = [n for n in nodes if n in served or ctx.plan.precision_of(n) == "dynamic"]
        data = spread(ctx.data, self.samples)
        # Beside other work on the machine, threads of BLAS wait for each other: up to 100 times slower than one.
        with threadpool_limits(1, user_api="blas"):
            for node, moments in collect_moments(model, data, nodes, columns=self.columns, seed=ctx.seed):
                self._round(node, ctx.plan.tensors[str(node.inputs[1].name)], moments)  # type: ignore[union-attr]
                tally.rewritten += 1
        return tally.result()

    def _objection(self, node: ir.Node, plan: QuantPlan) -> str | None:
        """Why a node's weights are left to be rounded to nearest; "" if they are not quantized at all."""
        from edgecc.calibration.columns import fan_in
        from edgecc.calibration.moments import objection

        weight = rules.weight_of(node)
        params = None if weight is None else plan.tensors.get(str(weight.name))
        if weight is None or params is None:
            return ""
        if (reason := objection(node)) is not None:
            return reason
        if len(weight.uses()) > 1:
            return "other nodes read its weights, too"
        if params.block_size:
            return "its weights have a scale a block"
        array = ir.constant(weight)
        if array is not None and stays_few(array, rules.channel_axis(node)):
            return REASON
        if fan_in(node) > self.max_fan_in:
            return f"an output sums {fan_in(node)} inputs, more than max_fan_in ({self.max_fan_in})"
        return None

    def _round(self, node: ir.Node, params: QuantParams, moments: Moments) -> None:
        weight, bias = node.inputs[1], rules.bias_of(node)
        array = ir.constant(weight)
        assert weight is not None
        assert array is not None
        matrix = rows(node, array).astype(np.float64)
        count, size = moments.mean.shape
        scale = np.broadcast_to(params.scale.astype(np.float64), (len(matrix),))
        second = moments.second
        corrected = bias is not None and len(bias.uses()) == 1
        if corrected:  # the bias takes the mean of the error, so only its variance is left to be made small
            second = second - moments.mean[:, :, None] * moments.mean[:, None, :]
        diagonal = np.diagonal(moments.second, axis1=1, axis2=2).mean(axis=1)
        ridge = self.damping * np.maximum(diagonal, 1e-12)
        second = second + ridge[:, None, None] * np.eye(size)
        units = (matrix / scale[:, None]).reshape(count, -1, size)
        low, high = params.limits
        if size <= _SMALL:
            lanes = np.repeat(second, units.shape[1], axis=0)
            found = compensated_lanes(units.reshape(-1, size), lanes, low, high)
        else:
            found = np.concatenate([compensated(units[g], second[g], low, high) for g in range(count)])
        found = found.reshape(len(matrix), size)
        rounded = found * scale[:, None]
        weight.const_value = ir.Tensor(unrows(node, rounded, array), name=weight.name)
        if corrected:
            assert bias is not None
            lost = (matrix - rounded).reshape(count, -1, size)
            shift = np.einsum("goi,gi->go", lost, moments.mean)
            old = ir.constant(bias)
            assert old is not None
            bias.const_value = ir.Tensor((old + shift.reshape(old.shape)).astype(old.dtype), name=bias.name)
