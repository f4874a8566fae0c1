"""Rates of many devices at once, each towards its family's, each family's towards those of all: one minimum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgecc.analysis.latency_fit import HUBER, STRENGTH, Floats

FAMILY_STRENGTH = 3.0
GUESS_STRENGTH = 0.03
_CLOSE = 1e-5  # of the logarithm of a rate: the last step changes none by more
_MOST_STEPS = 1000


@dataclass
class Fit:
    """Logarithms of rates: a row a device, and a family."""

    devices: dict[str, Floats]
    families: dict[str, Floats]


@dataclass(frozen=True)
class _Figures:
    """Figures by device, padded to as many as the device with most has.

    Attributes:
        amounts: (devices, figures, rates). ms: (devices, figures). real: likewise, 0 where it is padding.
        family: (devices,) number of each one's family.
        pull: (rates, rates) of a device towards its family: of shapes, its speed is nearly free.
        ties: (families + 1, families + 1) of families towards all, which are the last, and of all towards the guess.
    """

    amounts: Floats
    ms: Floats
    real: Floats
    family: Sequence[int]
    pull: Floats
    ties: Floats


def joint_fit(
    amounts: Floats, ms: Floats, devices: Sequence[str], family_of: Mapping[str, str], guess: Floats
) -> Fit:
    """The rates that minimise what `edgecc.analysis.latency_fit.posterior` does, summed over devices, and more.

    To a device's sum comes FAMILY_STRENGTH / 2 |family - all|^2 of each family and GUESS_STRENGTH / 2 |all - guess|^2.
    Newton's steps from the guess until none changes anything: whoever stops before, or begins at rates that were
    fitted to more figures, has rates that remember where they began.

    Args:
        amounts: (figures, rates), what each rate is multiplied by. ms: (figures,), above 0.
        devices: (figures,) names. family_of: of each device.
        guess: (rates,) logarithms.

    Raises:
        RuntimeError: there is no minimum after a thousand steps.
    """
    names, families = list(dict.fromkeys(devices)), list(dict.fromkeys(family_of[d] for d in devices))
    figures = _figures(
        amounts, ms, devices, names, [families.index(family_of[d]) for d in names], len(families)
    )
    own = np.tile(guess, (len(names), 1))
    shared = np.tile(guess, (len(families) + 1, 1))
    now = _objective(figures, own, shared, guess)
    for _ in range(_MOST_STEPS):
        steps = _step(figures, own, shared, guess)
        largest = max(abs(s).max() for s in steps)
        part = min(1.0, 1.0 / largest)
        while (
            then := _objective(figures, own + part * steps[0], shared + part * steps[1], guess)
        ) > now + 1e-9:
            part /= 2
        own, shared, now = own + part * steps[0], shared + part * steps[1], then
        if largest < _CLOSE:
            return Fit(dict(zip(names, own, strict=True)), dict(zip(families, shared, strict=False)))
    raise RuntimeError("the fit did not converge")


def _figures(
    amounts: Floats,
    ms: Floats,
    devices: Sequence[str],
    names: Sequence[str],
    family: Sequence[int],
    families: int,
) -> _Figures:
    rates = amounts.shape[1]
    at = [[i for i, d in enumerate(devices) if d == name] for name in names]
    most = max(len(i) for i in at)
    padded = _Figures(
        np.ones((len(names), most, rates)), np.ones((len(names), most)), np.zeros((len(names), most)), family,
        STRENGTH * (np.eye(rates) - (1 - 1e-3) / rates), np.zeros((families + 1, families + 1)),
    )  # fmt: skip
    for k, i in enumerate(at):
        padded.amounts[k, : len(i)], padded.ms[k, : len(i)], padded.real[k, : len(i)] = amounts[i], ms[i], 1
    padded.ties[:-1, :-1] = FAMILY_STRENGTH * np.eye(families)
    padded.ties[-1, :-1] = padded.ties[:-1, -1] = -FAMILY_STRENGTH
    padded.ties[-1, -1] = FAMILY_STRENGTH * families + GUESS_STRENGTH
    return padded


def _objective(figures: _Figures, own: Floats, shared: Floats, guess: Floats) -> float:
    error = abs(np.log((np.exp(own)[:, None] * figures.amounts).sum(2) / figures.ms)) * figures.real
    off, ties = own - shared[figures.family], figures.ties.copy()
    ties[-1, -1] -= GUESS_STRENGTH
    drawn = (off * (off @ figures.pull)).sum() + (shared * (ties @ shared)).sum()
    drawn += GUESS_STRENGTH * ((shared[-1] - guess) ** 2).sum()
    return float(np.where(error < HUBER, error**2, HUBER * (2 * error - HUBER)).sum() + drawn) / 2


def _step(figures: _Figures, own: Floats, shared: Floats, guess: Floats) -> tuple[Floats, Floats]:
    """Newton's for (devices, rates) and (families + 1, rates), without what would make the curvature negative."""
    parts = np.exp(own)[:, None] * figures.amounts
    total = parts.sum(2)
    error = np.log(total / figures.ms)
    shares = parts / total[..., None]
    rates, many = len(guess), len(shared)
    unit = np.eye(rates)
    off = (own - shared[figures.family]) @ figures.pull
    force = np.clip(error, -HUBER, HUBER) * figures.real
    slope = np.einsum("drn,dr->dn", shares, force) + off
    square = (abs(error) < HUBER) * figures.real - force
    curve = np.einsum("drn,drm,dr->dnm", shares, shares, square)
    curve += np.einsum("drn,dr->dn", shares, force)[:, None] * unit
    values, vectors = np.linalg.eigh(curve)
    curve = np.einsum("dnk,dk,dmk->dnm", vectors, np.maximum(values, 0), vectors) + figures.pull
    # A device's step is linear in that of its family, so that devices drop out of the equations of families.
    solved = np.linalg.solve(
        curve, np.concatenate([np.tile(figures.pull, (len(own), 1, 1)), slope[..., None]], 2)
    )
    system = np.einsum("fg,nm->fngm", figures.ties, unit)
    asked = figures.ties @ shared
    asked[-1] -= GUESS_STRENGTH * guess
    for k, family in enumerate(figures.family):
        system[family, :, family] += figures.pull - figures.pull @ solved[k, :, :-1]
        asked[family] += figures.pull @ solved[k, :, -1] - off[k]
    found = -np.linalg.solve(system.reshape(many * rates, -1), asked.ravel()).reshape(many, rates)
    return np.einsum("dnm,dm->dn", solved[..., :-1], found[figures.family]) - solved[..., -1], found
