"""What is to be compiled, with everything that the words came to, and the diary that is kept of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecc import ir, output, resolve
from edgecc.datafiles import identity
from edgecc.importer import load
from edgecc.options import CompileOptions
from edgecc.pipeline import PassContext, PassRecord, Pipeline
from edgecc.presets import float_passes, split_constant
from edgecc.quant import carried
from edgecc.target import Target
from edgecc.target import target as find_target

if TYPE_CHECKING:
    from edgecc.artifact import Artifact
    from edgecc.calibration.dataset import Dataset
    from edgecc.quant.carried import Carried
    from edgecc.quant.plan import QuantPlan


@dataclass(frozen=True)
class Diary:
    """What is told of a compilation while it runs.

    Attributes:
        progress: called with the name of each stage when it begins.
        seconds: by stage.
        warnings: for the user.
        passes: what each did, in order.
    """

    progress: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    passes: list[PassRecord] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times what is done in it."""
        self.progress(name)
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started


@dataclass(frozen=True)
class Source:
    """Where the model came from: its file, if it is one, its name, its identity and size."""

    file: Path | None
    name: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Job:
    """One compilation.

    Attributes:
        options: with the type of inputs and outputs decided.
        original: the network whose answers count; what it carries of a quantization is removed where that does not
            stay.
        folder: of the output.
        given_plan: of an earlier run.
        carried: the quantization that the network came with.
        shaping, compressing: the passes on the float network.
        data: for calibration, if there is any.
        eval_data: what fidelity is measured on.
    """

    options: CompileOptions
    target: Target
    source: Source
    original: ir.Model
    folder: Path
    given_plan: QuantPlan | None
    carried: Carried | None
    precision: str
    formats: tuple[str, ...]
    shaping: Pipeline
    compressing: Pipeline
    data: Dataset | None
    eval_data: Dataset
    diary: Diary

    @property
    def kept(self) -> bool:
        """Whether the quantization that the network carries stays."""
        return resolve.keeps(self.options, self.given_plan, self.carried)

    @property
    def calibrated(self) -> bool:
        """Whether there is a plan."""
        return resolve.calibrated(self.options, self.precision)

    @property
    def planned_here(self) -> bool:
        """Whether the plan is made now, from data."""
        return self.calibrated and self.data is not None and self.given_plan is None and not self.kept

    @property
    def searched(self) -> bool:
        """Whether precisions are to be chosen by what the limits leave room for."""
        return resolve.searched(self.options, self.precision)

    @property
    def words(self) -> dict[str, Any]:
        """The options as they were understood."""
        return resolve.words(
            self.options, target=self.target, precision=self.precision, formats=self.formats, data=self.data,
            eval_data=self.eval_data,
        )  # fmt: skip

    def file(self, form: str) -> str:
        """The name of the artifact of a format."""
        return f"{self.source.name}.{self.precision}.{form}"

    def named(self, artifacts: Mapping[str, Artifact]) -> dict[str, Artifact]:
        """By file name what is given by format."""
        return {self.file(form): artifact for form, artifact in artifacts.items()}

    def untold(self) -> Job:
        """The same; the report tells nothing of what it does."""
        return replace(self, diary=Diary(self.diary.progress))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """As the diary's; memory in which the original's weights were read is given back."""
        with self.diary.stage(name):
            yield
            ir.release(self.original)

    def run(self, pipeline: Pipeline, model: ir.Model, plan: QuantPlan | None = None) -> ir.Model:
        """What the passes make of a model; `plan`: specialised for a runtime where it is to be written."""
        options, runtime = self.options, None if plan is None else plan.runtime
        dump = Path(options.dump_ir) if options.dump_ir is not None else None
        if dump is not None and runtime is not None:
            dump = dump / str(runtime)
        context = PassContext(
            data=self.data,
            target=self.target,
            plan=plan,
            seed=options.seed,
            check=not options.no_verify,
            dump=dump,
        )
        model, log = pipeline.run(model, context)
        ir.release(self.original)
        extra = {} if runtime is None else {"runtime": runtime}
        self.diary.passes.extend(replace(r, options={**r.options, **extra}) for r in log.records)
        return model


def start(model: Any, options: CompileOptions, progress: Callable[[str], None]) -> Job:
    """Imports the model and finds out what the options come to; what is wrong with them is told before any work.

    Raises:
        UsageError, ModelError, UnsupportedError: as `edgecc.compile`.
    """
    diary = Diary(progress)
    target = find_target(options.target)
    file = Path(model) if isinstance(model, (str, Path)) else None
    name = "model" if file is None else file.stem
    folder = Path(options.output or output.default_output(name, target.name))
    output.check_output(folder)
    plan = resolve.given_plan(options)
    shaping, compressing = map(Pipeline, split_constant(float_passes(target, options)))
    with diary.stage("import"):
        original = load(model, input_shape=options.input_shape)
        source = Source(file, name, *identity(model, original))
        ir.release(original)
    found = carried.find(original)
    precision = resolve.precision(options, target, plan, found)
    formats = resolve.formats_of(precision, options, target)
    resolve.check_sense(options, precision)
    options = resolve.with_ports(options, target, precision)
    if found is not None:
        kept = resolve.keeps(options, plan, found)
        diary.warnings.append(resolve.carried_note(found, precision, kept=kept))
    elif options.precision is None and precision == "dynamic":
        diary.warnings.append(resolve.DYNAMIC_REMEDY)
    data, eval_data = resolve.datasets(options, original, diary.warnings)
    return Job(
        options, target, source, original, folder, plan, found, precision, formats, shaping, compressing, data,
        eval_data, diary,
    )  # fmt: skip
