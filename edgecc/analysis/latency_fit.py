"""Rates of a latency model from measured networks: least squares on relative errors, towards rates known before."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

STRENGTH = 0.3
"""How much a rate may not leave what was known before: chosen by the errors of networks left out."""

HUBER = 0.25
"""Relative errors above it count linearly: published figures have outliers."""


def posterior(
    amounts: Floats, ms: Floats, known: Floats, *, strength: float = STRENGTH, start: Floats | None = None,
    rounds: int = 30,
) -> Floats:  # fmt: skip
    """Natural logarithms of the rates under which a sum of rates best explains measured networks.

    Minimises sum_n huber(log(amounts_n . exp(a)) - log(ms_n)) + strength |C (a - known)|^2 by Gauss-Newton steps, C the
    projection off the all-ones direction: one speed for all rates is nearly free, so that one measured network
    sets it, and shapes move as far as many networks ask. Positive rates by construction.

    Args:
        amounts: (networks, rates), what each rate is multiplied by.
        ms: (networks,) measured, above 0.
        known: (rates,) logarithms.
        strength: of the pull towards `known`.
        start: (rates,) where to begin.
        rounds: most steps.
    """
    found = known.copy() if start is None else start.copy()
    count = len(known)
    pull = strength * (np.eye(count) - (1 - 1e-3) / count)
    for _ in range(rounds):
        parts = np.exp(found) * amounts
        total = parts.sum(1)
        error = np.log(total / ms)
        weight = 1 / np.maximum(1, abs(error) / HUBER)
        shares = parts / total[:, None]
        weighted = shares * weight[:, None]
        slope = weighted.T @ error + pull @ (found - known)
        step = np.linalg.solve(weighted.T @ shares + pull + 1e-9 * np.eye(count), slope)
        largest = abs(step).max()
        found = found - step * min(1.0, 1.0 / max(largest, 1e-12))
        if largest < 1e-6:
            break
    return found
