"""Which of a target's rates serve a runtime and precision, and what they are worth."""

from __future__ import annotations

import msgspec

from edgecc.analysis.workload import RATES
from edgecc.errors import UnsupportedError
from edgecc.target import LatencySpec, Target

CALIBRATED = "calibrated on that board"
SCALED = "same core scaled by clock and one measured network"
CLOCK_ONLY = "same core scaled by clock, nothing measured on that board"
OTHER_RUNTIME = "other runtime"
UNCALIBRATED = "uncalibrated (a factor of two: for ranking only)"

FACTOR_OF_TWO = 1.0  # relative error: the truth lies between half and twice the figure


def choose(device: Target, runtime: str, precision: str) -> tuple[LatencySpec, str, float, tuple[str, ...]]:
    """The table that serves best, what it is worth, its error, and what to say of it."""
    own = [s for s in device.latency if s.runtime == runtime and s.precision == precision]
    if own:
        spec = max(own, key=lambda s: s.networks)
        few = spec.networks == 1
        # Nobody measured a user's network anywhere, as a rule.
        return spec, SCALED if few else CALIBRATED, max(spec.error, spec.error_new or 0.0), ()
    same = [s for s in device.latency if s.precision == precision]
    if same:
        spec = next((s for s in same if runtime in s.factors), same[0])
        if runtime in spec.factors:
            return _times(spec, runtime)
        note = f"rates of {spec.runtime} stand for {runtime}"
        if spec.error_other is None:
            return spec, UNCALIBRATED, FACTOR_OF_TWO, (note,)
        return spec, OTHER_RUNTIME, spec.error_other, (note,)
    if not device.latency:
        note = f"from [cost] of {device.name}: nothing was published or measured that could serve"
        return by_cost(device, runtime, precision), UNCALIBRATED, FACTOR_OF_TWO, (note,)
    spec = device.latency[0]
    note = f"rates of {spec.runtime} in {spec.precision} stand for {runtime} in {precision}"
    mac = device.cost.mac
    factor = mac[_counted(precision)] / mac[_counted(spec.precision)]
    if factor != 1:
        note += f", times {factor:.2g} by [cost]"
        spec = msgspec.structs.replace(spec, rates={rate: factor * r for rate, r in spec.rates.items()})
    return spec, UNCALIBRATED, FACTOR_OF_TWO, (note,)


def _times(spec: LatencySpec, runtime: str) -> tuple[LatencySpec, str, float, tuple[str, ...]]:
    """As `choose`: rates of another runtime, times what this one took of them on devices with figures of both."""
    known = spec.factors[runtime]
    note = (
        f"rates of {spec.runtime} times {known.factor:.2g} stand for {runtime}: the mean ratio of the two on"
        f" {known.devices} other devices"
    )
    scaled = msgspec.structs.replace(spec, rates={k: known.factor * v for k, v in spec.rates.items()})
    return scaled, OTHER_RUNTIME, known.error, (note,)


def _counted(precision: str) -> str:
    """The precision of `[cost]` that another is counted as."""
    return {"int4": "int8", "int8": "int8", "int16x8": "int16x8"}.get(precision, "fp32")


def by_cost(device: Target, runtime: str, precision: str) -> LatencySpec:
    """The rates of a target's `[cost]`, at its clock.

    A multiply-accumulate takes as long in every kind of layer; `channels` and `conversion` do not count.

    Raises:
        UnsupportedError: its clock is not known.
    """
    if device.clock is None:
        raise UnsupportedError(
            f"{device.name} has no latency table, and no clock at which its [cost] would be time",
            remedy="give `ghz` in a target of your own that extends it, or measure there",
        )
    counted = _counted(precision)
    width, weight = {"fp32": (4, 4), "int8": (1, 1), "int16x8": (2, 1)}[counted]
    byte = device.cost.byte[counted]
    of = {
        "macs": device.cost.mac[counted], "moved": width * byte, "written": 0.0, "weights": weight * byte,
        "layers": device.cost.operator,
    }  # fmt: skip
    return LatencySpec(
        runtime=runtime, precision=precision, board=_board(device), ghz=device.clock, networks=0,
        rates={rate: of[what] for rate, (what, _) in RATES.items()}, error=FACTOR_OF_TWO,
        source=device.cost.source,
    )  # fmt: skip


def _board(device: Target) -> str:
    return device.name if device.board is None else device.boards[device.board].description
