"""Orders operators so that less memory lives at once.

The memory while an operator runs is that of all tensors made and still to be read, its own results included (as TFLite
Micro's planner counts lifetimes). The order that keeps the greatest of these sums lowest is a path through the sets of
operators that can have run, each step costing the memory of the operator that runs next. The search takes the
cheapest path first and forgets of two paths to one set the dearer one, so what it finds first is best (a bottleneck
shortest path; the dynamic programme over down-sets of Ahn et al., "Ordering Chaos", MLSys 2020, without its
partition). An operator that neither exceeds what was already needed nor leaves more behind than it found is run at
once: no order can be better for putting it off.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from edgecc.analysis.flat import FlatNetwork
from edgecc.analysis.memory import ALIGNMENT, head_bytes
from edgecc.analysis.micro_kernels import Machine, scratch_bytes

_STATES = 20_000
"""Sets of operators that are looked at before the search gives up and goes greedily."""

_WORK = 300_000
"""Steps that are weighed until then, in all: one or two seconds. A count: a clock would not give one order twice."""


@dataclass(frozen=True)
class Task:
    """An operator as the search sees it.

    Attributes:
        reads, makes: numbers of tensors that take memory.
        own: bytes that live only while it runs.
    """

    reads: frozenset[int]
    makes: frozenset[int]
    own: int = 0


class _Problem:
    """Tasks, and what follows from a set of them having run. Sets are bit masks: of tasks, and of live tensors."""

    def __init__(
        self, tasks: Sequence[Task], sizes: Sequence[int], given: frozenset[int], kept: frozenset[int]
    ) -> None:
        self.tasks, self.sizes, self.kept = tasks, sizes, kept
        self.work = 0
        self.readers = [0] * len(sizes)
        maker: dict[int, int] = {}
        for number, task in enumerate(tasks):
            for tensor in task.reads:
                self.readers[tensor] |= 1 << number
            maker |= dict.fromkeys(task.makes, number)
        self.before = [{maker[t] for t in task.reads if t in maker} | {-1} for task in tasks]
        self.needs = [sum(1 << n for n in before if n >= 0) for before in self.before]
        # What nothing reads lives only in step 0, the moment before the first operator.
        self.first = sum(sizes[t] for t in given if self.readers[t] or t in kept)
        self.start = sum(sizes[t] for t in given)

    def ready(self, done: int) -> list[int]:
        self.work += len(self.needs) // 16
        return [n for n, need in enumerate(self.needs) if not done >> n & 1 and need & done == need]

    def step(self, done: int, live: int, number: int) -> tuple[int, int]:
        """Bytes while the task runs, and bytes that live behind it."""
        self.work += 1
        task = self.tasks[number]
        during = live + sum(self.sizes[t] for t in task.makes)
        done |= 1 << number
        freed = sum(
            self.sizes[t]
            for t in task.reads | task.makes
            if t not in self.kept and self.readers[t] & done == self.readers[t]
        )
        return during + task.own, during - freed

    def peak(self, order: Sequence[int]) -> int:
        done, live, peak = 0, self.first, self.start
        for number in order:
            during, live = self.step(done, live, number)
            done, peak = done | 1 << number, max(peak, during)
        return peak


def best_order(
    tasks: Sequence[Task],
    sizes: Sequence[int],
    *,
    given: frozenset[int] = frozenset(),
    kept: frozenset[int] = frozenset(),
    states: int = _STATES,
) -> tuple[list[int], int]:
    """The order of the tasks with the lowest peak, and that peak in bytes; the given order where none is better.

    Args:
        tasks: in an order in which they can run.
        sizes: bytes of each tensor.
        given: tensors that are there from the start.
        kept: tensors that stay to the end.
        states: how many sets of finished tasks the search looks at; beyond it, the result may not be the best.
    """
    problem = _Problem(tasks, sizes, given, kept)
    order = list(range(len(tasks)))
    peak = problem.peak(order)
    least = max([problem.start, *(_alone(task, sizes) for task in tasks)])
    if peak <= least:
        return order, peak
    best = _search(problem, peak, states)
    for found in [best] if best is not None else [_greedy(problem), _depth_first(problem)]:
        if problem.peak(found) < peak:
            order, peak = found, problem.peak(found)
    return order, peak


def _alone(task: Task, sizes: Sequence[int]) -> int:
    return sum(sizes[t] for t in task.reads | task.makes) + task.own


def _search(problem: _Problem, limit: int, states: int) -> list[int] | None:
    """The best order if it stays below `limit`; None where there is none, or the search is too long."""
    whole = (1 << len(problem.tasks)) - 1
    start = _State(problem.start, 0, problem.first)
    queue: list[tuple[int, int, int, _State]] = [(start.peak, 0, 0, start)]
    seen: set[int] = set()
    pushed = 0
    while queue and len(seen) < states and problem.work < _WORK:
        *_, state = heapq.heappop(queue)
        state = _run_free(problem, state)
        if state.done == whole:
            return _listed(state)
        if state.done in seen:
            continue
        seen.add(state.done)
        for number in problem.ready(state.done):
            during, live = problem.step(state.done, state.live, number)
            done = state.done | 1 << number
            if during < limit and done not in seen:
                pushed += 1
                after = _State(max(state.peak, during), done, live, (number,), state)
                heapq.heappush(queue, (after.peak, -done.bit_count(), pushed, after))
    return None


@dataclass(frozen=True)
class _State:
    """Most memory so far, set of tasks that have run, memory that lives; those that ran last, and what was before."""

    peak: int
    done: int
    live: int
    ran: tuple[int, ...] = ()
    before: _State | None = None


def _run_free(problem: _Problem, state: _State) -> _State:
    """Runs what costs nothing: see the module's text."""
    done, live, ran = state.done, state.live, list(state.ran)
    while True:
        for number in problem.ready(done):
            during, left = problem.step(done, live, number)
            if during <= state.peak and left <= live:
                done, live = done | 1 << number, left
                ran.append(number)
                break
        else:
            return _State(state.peak, done, live, tuple(ran), state.before)


def _listed(state: _State) -> list[int]:
    parts: list[tuple[int, ...]] = []
    at: _State | None = state
    while at is not None:
        parts.append(at.ran)
        at = at.before
    return [number for part in reversed(parts) for number in part]


def _greedy(problem: _Problem) -> list[int]:
    """Always the task that leaves least behind, of equal ones that with the lower sum while it runs."""
    done, live, order = 0, problem.first, []
    while ready := problem.ready(done):
        costs = {n: problem.step(done, live, n) for n in ready}
        number = min(ready, key=lambda n: (costs[n][1], costs[n][0], n))
        live, done = costs[number][1], done | 1 << number
        order.append(number)
    return order


def _depth_first(problem: _Problem) -> list[int]:
    """Always the task that goes on from where the last ones ended: one branch after the other."""
    done, order = 0, list[int]()
    place = {-1: -1}
    while ready := problem.ready(done):
        number = max(ready, key=lambda n: (max(place[p] for p in problem.before[n]), -n))
        place[number] = len(order)
        done |= 1 << number
        order.append(number)
    return order


def lower_peak(network: FlatNetwork, machine: Machine) -> list[int] | None:
    """An order of the operators in which the planned head is smaller; None: keep the one they have.

    Networks that change variables keep their order.
    """
    if any(t.variable for t in network.tensors) or len(network.operators) > _MOST:
        return None
    sizes = [0 if t.constant else -(-t.bytes // ALIGNMENT) * ALIGNMENT for t in network.tensors]
    tasks = [
        Task(
            frozenset(i for i in o.inputs if i >= 0 and sizes[i]),
            frozenset(i for i in o.outputs if sizes[i]),
            sum(-(-s // ALIGNMENT) * ALIGNMENT for s in scratch_bytes(network, o, machine)),
        )
        for o in network.operators
    ]
    order, _ = best_order(
        tasks, sizes, given=frozenset(i for i in network.inputs if sizes[i]),
        kept=frozenset(i for i in network.outputs if sizes[i]),
    )  # fmt: skip
    if order == list(range(len(order))) or head_bytes(network.ordered(order), machine) >= head_bytes(
        network, machine
    ):
        return None
    return order


_MOST = 1000  # operators; longer networks keep their order
