"""Pass, PassContext and Pipeline: how a graph is rewritten, checked and recorded (DESIGN §3)."""

from __future__ import annotations

import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from edgecc import ir
from edgecc.errors import EdgeccError, PassError

if TYPE_CHECKING:
    from edgecc.effect import Effect
    from edgecc.quant.plan import QuantPlan
    from edgecc.target import Target

# An exact pass may differ from its input by this fraction of an output's largest magnitude: float32 rounding
# of re-associated sums (10 to 30 times less on the networks measured in benchmarks/).
EXACT_TOLERANCE = 1e-4
# Of the integers that an output holds (an ArgMax), so many may differ: near ties fall either way.
EXACT_SHARE = 1e-2


@dataclass(frozen=True)
class Refusal:
    """A pattern that a pass looked at and left alone, and why."""

    node: str
    reason: str


@dataclass(frozen=True)
class PassResult:
    """What one run of a pass did."""

    rewritten: int = 0
    refused: tuple[Refusal, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PassContext:
    """What a pass may need beyond the graph.

    Attributes:
        data: calibration samples in the ONNX layout, in any form that `open_dataset` takes; passes see a
            `Dataset`.
        target: the device compiled for.
        plan: the quantization plan, already specialised for one runtime.
        seed: of every random choice.
        check: compare outputs after every exact pass that changed something.
        dump: folder that receives a text snapshot of the graph after every pass.
        progress: called with (pass name, index, count) before each pass.
    """

    data: Any = None
    target: Target | None = None
    plan: QuantPlan | None = None
    seed: int = 0
    check: bool = True
    dump: Path | None = None
    progress: Callable[[str, int, int], None] | None = None


@dataclass(frozen=True, kw_only=True)
class Pass(ABC):
    """A rewrite of the graph. The fields of a subclass are its options.

    Class attributes:
        name: the name users write.
        exact: the same function up to float rounding (checked), or approximate (its loss is measured).
        compresses: makes the network smaller: what that does to work, size and answers is recorded.
    """

    name: ClassVar[str]
    exact: ClassVar[bool] = True
    compresses: ClassVar[bool] = False

    @abstractmethod
    def apply(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Rewrites `model` in place."""

    @classmethod
    def declared(cls) -> list[Field[Any]]:
        """The options as they are listed: the pass's own, then those that it shares with others by a base class."""
        return sorted(fields(cls), key=lambda f: f.name not in cls.__annotations__)

    def options(self) -> dict[str, Any]:
        """The options and their values."""
        return {f.name: getattr(self, f.name) for f in self.declared()}


@dataclass(frozen=True)
class PassRecord:
    """The line of one pass in the log and the report. Times in seconds; `error` as in `relative_error`.

    `effect` is what a compressing pass did to the network.
    """

    name: str
    exact: bool
    options: Mapping[str, Any]
    rewritten: int
    refused: tuple[Refusal, ...]
    nodes_before: int
    nodes_after: int
    seconds: float
    error: float | None = None
    effect: Effect | None = None


@dataclass
class PipelineLog:
    """What every pass of a run did, in order."""

    records: list[PassRecord] = field(default_factory=list)


@dataclass(frozen=True)
class Pipeline:
    """Passes in the order in which they run."""

    passes: Sequence[Pass]

    def run(self, model: ir.Model, ctx: PassContext | None = None) -> tuple[ir.Model, PipelineLog]:
        """Runs every pass on a copy of `model` (weights are shared, `model` stays as it is).

        Raises:
            PassError: a pass failed, left an invalid graph, or is exact and changed the answers.
        """
        ctx = _with_dataset(ctx or PassContext(), model)
        original, model, log = model, model.clone(), PipelineLog()
        reference: dict[str, ir.Array] | None = None
        feeds: dict[str, ir.Array] | None = None
        for index, step in enumerate(self.passes):
            if ctx.progress:
                ctx.progress(step.name, index, len(self.passes))
            nodes, started = model.graph.num_nodes(), time.perf_counter()
            uncompressed = model.clone() if step.compresses and ctx.check else None
            result = self._apply(step, model, ctx, log)
            seconds = time.perf_counter() - started
            error: float | None = None
            effect: Effect | None = None
            if uncompressed is not None and result.rewritten:
                from edgecc.effect import measure_effect

                effect = measure_effect(step, uncompressed, model, ctx)
            if result.rewritten and step.exact and ctx.check:
                if feeds is None or reference is None:
                    feeds = _feeds(original, ctx)
                    reference = _answers(original, feeds)
                    ir.release(original)
                error = self._error(step, model, original, feeds, reference, log)
                ir.release(original)
            elif result.rewritten and not step.exact:  # what follows is compared with the approximate network
                original, reference = model.clone(), None
            log.records.append(
                PassRecord(
                    step.name, step.exact, step.options(), result.rewritten, result.refused,
                    nodes, model.graph.num_nodes(), seconds, error, effect,
                )
            )  # fmt: skip
            if ctx.dump:
                _snapshot(model, ctx.dump, f"{index:02d}-{step.name}")
        return model, log

    def _error(
        self,
        step: Pass,
        model: ir.Model,
        original: ir.Model,
        feeds: Mapping[str, ir.Array],
        reference: Mapping[str, ir.Array],
        log: PipelineLog,
    ) -> float:
        """By how much an exact pass changed the answers."""
        try:
            answers = _answers(model, feeds)
        except EdgeccError as error:  # the graph before the pass ran
            raise _defect(step, f"the graph that it left cannot be run: {error.message}", log) from error
        if set(answers) != set(reference):
            raise _defect(step, f"the outputs are now called {', '.join(answers)}", log)
        errors = {name: relative_error(reference[name], got) for name, got in answers.items()}
        excess = {name: error for name, error in errors.items() if not error <= _tolerance(reference[name])}
        if excess:
            self._excuse(step, excess, original, feeds, log)
        return max(errors.values(), default=0.0)

    def _excuse(
        self,
        step: Pass,
        excess: Mapping[str, float],
        original: ir.Model,
        feeds: Mapping[str, ir.Array],
        log: PipelineLog,
    ) -> None:
        """Raises PassError unless rounding alone moves the answers of the original as far."""
        from edgecc.rounding import SAFETY, rounding_noise

        noise = rounding_noise(original, [feeds])
        for name, error in excess.items():
            if not error <= SAFETY * noise.get(name, 0.0):
                allowed = f"(allowed: {EXACT_TOLERANCE:.0e})"
                cause = f"the exact pass changed the answers by {error:.2e} of their range {allowed}"
                raise _defect(step, cause, log)

    def _apply(self, step: Pass, model: ir.Model, ctx: PassContext, log: PipelineLog) -> PassResult:
        try:
            result = step.apply(model, ctx)
            if result.rewritten:
                _tidy(model.graph)
                validate(model)
                infer_shapes(model)
        except EdgeccError:
            raise
        except Exception as error:  # wrapped with the pass and the passes before it
            raise _defect(step, f"{type(error).__name__}: {error}", log) from error
        return result


def _defect(step: Pass, cause: str, log: PipelineLog) -> PassError:
    before = ", ".join(record.name for record in log.records) or "none"
    return PassError(
        f"{cause}; passes before it: {before}",
        node=step.name,
        remedy=f"report this, and compile with --skip-pass {step.name} meanwhile",
    )


def _with_dataset(ctx: PassContext, model: ir.Model) -> PassContext:
    if ctx.data is None:
        return ctx
    from edgecc.calibration.dataset import Dataset, input_specs, open_dataset

    if isinstance(ctx.data, Dataset):
        return ctx
    return replace(ctx, data=open_dataset(ctx.data, input_specs(model)))


def infer_shapes(model: ir.Model) -> None:
    """Static shape inference in place; what is known already stays known; free if all is known."""
    if all(v.shape is not None and v.type is not None for node in model.graph for v in node.outputs):
        return
    from onnx_ir.passes.common import ShapeInferencePass

    ShapeInferencePass(strict_mode=False)(model)


def validate(model: ir.Model) -> None:
    """Checks that names are unique and that each value is defined before it is used.

    Raises:
        ValueError: naming the value or the node.
    """
    known: set[ir.Value] = {*model.graph.inputs, *model.graph.initializers.values()}
    names = {v.name for v in known}
    for node in model.graph:
        for value in node.inputs:
            if value is not None and value not in known:
                raise ValueError(
                    f"node {ir.label(node)} reads {value.name}, which nothing before it computes"
                )
        for out in node.outputs:
            if out.name and out.name in names:
                raise ValueError(f"two values are called {out.name}")
            known.add(out)
            names.add(out.name)
    for out in model.graph.outputs:
        if out not in known:
            raise ValueError(f"nothing computes the output {out.name}")


def _tidy(graph: ir.Graph) -> None:
    """Drops constants that a pass replaced, and tells nodes of one name apart: ONNX Runtime refuses both."""
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
    taken: set[str] = set()
    for node in graph:
        if node.name in taken:
            count = next(i for i in itertools.count(1) if f"{node.name}_{i}" not in taken)
            node.name = f"{node.name}_{count}"
        if node.name:
            taken.add(node.name)


def _tolerance(reference: ir.Array) -> float:
    return EXACT_TOLERANCE if reference.dtype.kind == "f" else EXACT_SHARE


def relative_error(reference: ir.Array, other: ir.Array) -> float:
    """Largest difference as a fraction of the reference's largest magnitude; inf where shapes differ.

    Of integers and booleans, which have no size: the share of elements that differ.
    """
    if reference.shape != other.shape:
        return float("inf")
    if reference.dtype.kind != "f":
        return float(np.count_nonzero(reference != other)) / max(reference.size, 1)
    a, b = np.asarray(reference, np.float64), np.asarray(other, np.float64)
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return float("inf")
    finite = np.isfinite(a)
    if not finite.any():
        return 0.0
    gap = float(np.max(np.abs(a[finite] - b[finite])))
    return gap / max(float(np.max(np.abs(a[finite]))), 1e-30) if gap else 0.0


def _feeds(model: ir.Model, ctx: PassContext) -> dict[str, ir.Array]:
    from edgecc.calibration.dataset import random_samples

    if ctx.data is not None:
        return next(iter(ctx.data))
    return next(iter(random_samples(model, count=1, seed=ctx.seed)))


def _answers(model: ir.Model, feeds: Mapping[str, ir.Array]) -> dict[str, ir.Array]:
    from edgecc.runtime.ort import OrtRunner

    return OrtRunner.from_model(model, optimize=False).run(feeds)


def _snapshot(model: ir.Model, folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.txt").write_text(str(model), encoding="utf-8")
