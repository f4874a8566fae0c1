"""Which of the assignments that a target's costs and the predicted noise offer is faithful enough: found by trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgecc.quant.budget import Assignment, Choice

if TYPE_CHECKING:
    from edgecc.quant.plan import QuantPlan

# Trials that are placed by the predicted noise, before bisection.
_AIMED = 3


@dataclass(frozen=True)
class Outcome:
    """What a trial on data found.

    Attributes:
        met: whether the answers are as faithful as is asked.
        noise: power of the error as a share of the answers', at the output with most.
    """

    met: bool
    noise: float


@dataclass(frozen=True)
class Found:
    """The end of a search.

    Attributes:
        chosen: the cheapest assignment that was met; the quietest where none was.
        choice: whose assignment it is.
        plan: with its precisions.
        outcome: of its trial.
        trials: how many were made.
    """

    chosen: Assignment
    choice: Choice
    plan: QuantPlan
    outcome: Outcome
    trials: int


def cheapest(
    problems: Sequence[Choice], trial: Callable[[QuantPlan], Outcome], *, wanted: float | None
) -> Found:
    """The cheapest assignment that a trial finds faithful enough, over all problems.

    Args:
        problems: as `choices` makes them.
        trial: measures a plan on data.
        wanted: noise that is allowed at each output, where the budget is one of noise.
    """
    found: list[Found] = []
    count = 0
    for choice in problems:
        outcomes: dict[int, Outcome] = {}
        hull = choice.hull()
        end = _first_met(hull, choice, trial, wanted, outcomes, start=0)  # often everything may stay
        count += len(outcomes)
        if end == len(hull):
            found.append(Found(hull[-1], choice, choice.planned(hull[-1]), outcomes[end - 1], 0))
            continue
        best = Found(hull[end], choice, choice.planned(hull[end]), outcomes[end], 0)
        if end > 0:
            steps, outcomes = choice.between(hull[end - 1], hull[end])[1:-1], {}
            end = _first_met(steps, choice, trial, wanted, outcomes)
            count += len(outcomes)
            if end < len(steps):
                best = Found(steps[end], choice, choice.planned(steps[end]), outcomes[end], 0)
        found.append(best)
    met = [f for f in found if f.outcome.met]
    best = min(met, key=lambda f: f.chosen.cost) if met else min(found, key=lambda f: f.outcome.noise)
    return replace(best, trials=count)


def _first_met(
    path: Sequence[Assignment],
    choice: Choice,
    trial: Callable[[QuantPlan], Outcome],
    wanted: float | None,
    outcomes: dict[int, Outcome],
    *,
    start: int | None = None,
) -> int:
    """The place of the cheapest assignment that a trial finds good enough, by bisection; the length if there is none.

    Where noise is what counts, the first trials are where the prediction, corrected by those before, says it is met;
    else the first one is at `start`.
    """
    low, high = -1, len(path)
    while high - low > 1:
        middle = (low + high) // 2 if outcomes or start is None else start
        if wanted is not None and len(outcomes) < _AIMED:
            last = next((i for i in reversed(outcomes) if outcomes[i].noise < np.inf), None)
            ratio = 1.0 if last is None else outcomes[last].noise / max(path[last].worst, 1e-30)
            aimed = next((i for i, a in enumerate(path) if a.worst * ratio <= wanted), len(path))
            middle = min(max(aimed, low + 1), high - 1)
        outcomes[middle] = trial(choice.planned(path[middle]))
        low, high = (low, middle) if outcomes[middle].met else (middle, high)
    return high
