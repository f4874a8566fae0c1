"""The straight line: model in, passes, plan, one artifact a format, measured, reported (DESIGN §1)."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from edgecc import firmware, ir, micro, modelfile, output, resolve, vendor
from edgecc.artifact import Artifact
from edgecc.collection import rare_collections
from edgecc.errors import EdgeccError
from edgecc.importer import load
from edgecc.limits import FLOAT32
from edgecc.onnxfile import serialize
from edgecc.options import CompileOptions, make_options
from edgecc.pipeline import PassContext, Pipeline, PipelineLog
from edgecc.presets import (
    float_passes,
    keeping_passes,
    packs,
    planned_passes,
    planning_passes,
    quantized_passes,
    split_constant,
    unquantizing_passes,
)
from edgecc.quant import carried, constants
from edgecc.target import Target
from edgecc.target import target as find_target
from edgecc.tflite.kernels import MICRO, runtime_id
from edgecc.verdict import verdict

if TYPE_CHECKING:
    import onnx

    from edgecc.fidelity import Fidelity
    from edgecc.profile import Profile
    from edgecc.quant.plan import QuantPlan
    from edgecc.report.schema import Report

P = ParamSpec("P")
R = TypeVar("R")
# Options that say where and how, not what: they do not belong to the artifact's identity.
_ASIDE = frozenset({"output", "dump-ir", "threads", "no-verify", "no-profile", "debug-quant", "max-latency"})


@dataclass(frozen=True)
class CompileResult:
    """What a compilation made.

    Attributes:
        artifacts: by format; `.path` is where each was written.
        fidelities, profiles: by format; empty where not verified or not measured.
        report: everything, as in report.json.
        output: the folder.
    """

    artifacts: Mapping[str, Artifact]
    fidelities: Mapping[str, Fidelity]
    profiles: Mapping[str, Profile]
    report: Report
    output: Path

    @property
    def fidelity(self) -> Fidelity | None:
        """Of the artifact with the lowest SQNR; None where nothing was verified."""
        return min(self.fidelities.values(), key=lambda f: f.sqnr_db, default=None)

    @property
    def profile(self) -> Profile | None:
        """Of the fastest artifact; None where nothing was measured."""
        return min(self.profiles.values(), key=lambda p: p.typical_ms, default=None)


def _words_of(_: Callable[P, object]) -> Callable[[Callable[..., R]], Callable[Concatenate[Any, P], R]]:
    """Gives a function the keywords of another, for type checkers: options are declared once."""
    return lambda function: function


@_words_of(CompileOptions)
def compile(model: Path | str | bytes | onnx.ModelProto | ir.Model, **words: Any) -> CompileResult:
    """Compiles a trained ONNX network for a device. The keywords are the fields of `CompileOptions`.

    Args:
        model: path, bytes, or a model in memory, which stays as it is.
        **words: see `CompileOptions`; texts are read as on the command line.

    Raises:
        UsageError, ModelError: wrong use or unreadable input (exit code 2).
        UnsupportedError: operators or types that the target cannot run (3).
        FidelityError: an answer is less faithful than allowed (4); report and artifacts are in DIR.failed.
        BudgetError: a budget is exceeded (5); likewise.
    """
    return compile_with(model, make_options(words))


def compile_with(
    model: Path | str | bytes | onnx.ModelProto | ir.Model,
    options: CompileOptions,
    progress: Callable[[str], None] | None = None,
) -> CompileResult:
    """As `compile`; `progress` is called with the name of each stage when it begins."""
    with rare_collections():
        return _Compilation(model, options, progress or (lambda stage: None)).run()


class _Compilation:
    """The state of one run; each method is one stage."""

    def __init__(self, model: Any, options: CompileOptions, progress: Callable[[str], None]) -> None:
        self.options, self.progress = options, progress
        self.seconds: dict[str, float] = {}
        self.arenas: dict[str, int | None] = {}
        self.warnings: list[str] = []
        self.log = PipelineLog()
        self.target: Target = find_target(options.target)
        self.file = Path(model) if isinstance(model, (str, Path)) else None
        self.stem = "model" if self.file is None else self.file.stem
        self.folder = Path(options.output or output.default_output(self.stem, self.target.name))
        output.check_output(self.folder)
        self.given_plan = resolve.given_plan(options)
        self.packed: dict[str, bytes] = {}  # files beside the artifacts, by name
        self.memories: dict[str, micro.MemoryFacts] = {}
        self.passes, self.compressing = map(Pipeline, split_constant(float_passes(self.target, options)))
        with self._stage("import"):
            self.original = load(model, input_shape=options.input_shape)
            self.sha256, self.size = modelfile.identity(model, self.original)
        self.carried = carried.find(self.original)
        self.kept = resolve.keeps(options, self.given_plan, self.carried)
        self.precision = resolve.precision(options, self.target, self.given_plan, self.carried)
        self.formats = resolve.formats_of(self.precision, options, self.target)
        resolve.check_sense(options, self.precision)
        self.options = options = resolve.with_ports(options, self.target, self.precision)
        if self.carried is not None:
            self.warnings.append(resolve.carried_note(self.carried, self.precision, kept=self.kept))
        elif options.precision is None and self.precision == "dynamic":
            self.warnings.append(resolve.DYNAMIC_REMEDY)
        self.searched = resolve.searched(options, self.precision)
        self.data, self.eval_data = resolve.datasets(options, self.original, self.warnings)

    def run(self) -> CompileResult:
        with tempfile.TemporaryDirectory(prefix="edgecc-", ignore_cleanup_errors=True) as scratch:
            return self._compiled(Path(scratch))

    def _compiled(self, scratch: Path) -> CompileResult:
        with self._stage("passes"):
            if self.carried is not None and not self.kept:  # from here on, that is the original
                self.original = self._run(Pipeline(unquantizing_passes()), self.original)
            made_float = len(self.log.records)
            floats = self._run(self.passes, self.original)
        planned_from = floats
        if self.compressing.passes and self.given_plan is None:  # a plan holds what they made
            with self._stage("compress"):
                floats = self._run(self.compressing, floats)
        # What approximate passes left is what a float32 artifact must equal.
        approximate = any(r.rewritten and not r.exact for r in self.log.records[made_float:])
        left = floats if approximate and self.precision in FLOAT32 else None
        fresh = self.data is not None and self.given_plan is None and not self.kept
        if fresh and resolve.calibrated(self.options, self.precision):
            with self._stage("equalize"):
                floats = self._run(Pipeline(planning_passes(self.precision, self.options)), floats)
        plan = self._plan(floats)
        if plan is not None and self.given_plan is not None:
            floats = constants.restore(floats, plan.constants, plan.tensors)
        if plan is not None and fresh:
            with self._stage("round weights"):
                rounded = self._rounded(floats, plan)
            plan, floats = self._meet(plan, floats, rounded) if self.searched else (plan, rounded)
            del rounded
            plan = replace(plan, constants=constants.changed(planned_from, floats, plan))
        artifacts: dict[str, Artifact] = {}
        for form in self.formats:
            with self._stage(f"lower to {form}"):
                artifact = self._lower(floats, plan, form)
                # Two large ones are not held at once; one of int8 is a quarter of its network.
                aside = len(self.formats) > 1 and artifact.size >= ir.LARGE_BYTES // 4
                artifacts[form] = artifact.set_aside(scratch / self._file(form)) if aside else artifact
                del artifact
            self.warnings += [
                f"{self._file(form)}: {text}" for text in artifacts[form].notes.get("remarks", ())
            ]
        if packs(self.options):
            artifacts = {form: self._pack(form, artifact) for form, artifact in artifacts.items()}
        if self.target.vela is not None:
            artifacts = self._for_npu(artifacts)
        self.memories = micro.memory_facts(artifacts, self.target)
        artifacts = {form: self._for_firmware(form, artifact) for form, artifact in artifacts.items()}
        fidelities, profiles, before, failure = self._judged(artifacts, floats, left)
        del floats, planned_from  # writing needs memory, too
        ir.release(self.original)
        report = self._report(artifacts, fidelities, profiles, before, failure)
        folder = self.folder if failure is None else output.failed(self.folder)
        self._publish(folder, artifacts, report, plan)
        if failure is not None:
            raise failure
        placed = {f: replace(a, data=a.content(), path=folder / self._file(f)) for f, a in artifacts.items()}
        return CompileResult(placed, fidelities, profiles, report, folder)

    def _run(self, pipeline: Pipeline, model: ir.Model, plan: QuantPlan | None = None) -> ir.Model:
        options = self.options
        dump = Path(options.dump_ir) if options.dump_ir is not None else None
        if dump is not None and plan is not None and plan.runtime is not None:
            dump = dump / str(plan.runtime)
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
        runtime = {} if plan is None or plan.runtime is None else {"runtime": plan.runtime}
        self.log.records += [replace(r, options={**r.options, **runtime}) for r in log.records]
        return model

    def _plan(self, floats: ir.Model) -> QuantPlan | None:
        if self.kept:
            return carried.plan(floats, self.precision)
        if not resolve.calibrated(self.options, self.precision):
            return None
        pins = resolve.pins(self.options, floats)
        if self.given_plan is not None:
            plan = resolve.fitting(self.given_plan, floats)
            return replace(plan, precisions={**plan.precisions, **pins})
        from edgecc.calibration.observers import collect
        from edgecc.quant.islands import weigh
        from edgecc.quant.plan import make_plan

        assert self.data is not None
        with self._stage("calibrate"):
            statistics = collect(
                floats, self.data, observer=self.options.observer, threads=self.options.threads
            )
            plan = make_plan(
                floats,
                statistics,
                precision=self.precision,  # type: ignore[arg-type]
                per_channel=self.target.per_channel,
                precisions=pins,
                spare=not self.searched,
            )
            if self.searched and self.precision == "mixed":
                return plan
            plan, remark = weigh(
                plan, floats, self.formats[0], self.target.cost,  # type: ignore[arg-type]
                explicit=self.options.precision is not None, ports=self.options.io_dtype != "float32",
            )  # fmt: skip
            self.warnings += [] if remark is None else [remark]
            return plan

    def _meet(self, plan: QuantPlan, floats: ir.Model, rounded: ir.Model) -> tuple[QuantPlan, ir.Model]:
        from edgecc.meet import meet

        assert self.data is not None
        with self._stage("choose precisions"):
            found, model, told = meet(
                plan, floats, rounded, original=self.original, target=self.target, options=self.options,
                formats=self.formats, data=self.data, eval_data=self.eval_data, write=self._trial,
                rounding=partial(self._rounded, floats),
            )  # fmt: skip
        self.warnings.append(told)
        return found, model

    def _rounded(self, floats: ir.Model, plan: QuantPlan) -> ir.Model:
        return self._run(Pipeline(planned_passes(self.precision, self.options)), floats, plan)

    def _trial(self, floats: ir.Model, plan: QuantPlan, form: str) -> Artifact:
        """As `_lower`; the report tells nothing of it."""
        log, self.log = self.log, PipelineLog()
        try:
            return self._lower(floats, plan, form)
        finally:
            self.log = log

    def _lower(self, floats: ir.Model, plan: QuantPlan | None, form: str) -> Artifact:
        special = None
        if plan is not None and not self.kept:
            special = plan.for_runtime(form, floats, self.target)  # type: ignore[arg-type]
        io_dtype = (self.options.io_dtype if form == "tflite" else None) or "float32"
        passes = quantized_passes(self.precision, io_dtype, planned=plan is not None, options=self.options)
        model = self._run(Pipeline(keeping_passes(form) if self.kept else passes), floats, special)
        if form == "tflite":
            from edgecc.tflite.lower import lower

            return lower(
                model, precision=self.precision, target=self.target.name,
                io_layout=self.options.io_layout, io_dtype=io_dtype,
                runtime=self.target.runtimes.get("tflite", "LiteRT"),
            )  # fmt: skip
        from edgecc.onnxrt.export import export

        return export(model, precision=self.precision, target=self.target.name)

    def _pack(self, form: str, artifact: Artifact) -> Artifact:
        """Packs an artifact, which then says so in its notes."""
        from edgecc.pack.container import pack

        with self._stage(f"pack {form}"):
            name = f"{self._file(form)}.ecz"
            self.packed[name] = data = pack(artifact.content()).data
        facts = {"file": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        return replace(artifact, notes={**artifact.notes, "packed": facts})

    def _judged(
        self, artifacts: Mapping[str, Artifact], floats: ir.Model, left: ir.Model | None
    ) -> tuple[dict[str, Fidelity], dict[str, Profile], Profile | None, EdgeccError | None]:
        """Verified, measured, and the limit that is missed, if one is: what does not fit is not measured."""
        failure = micro.refusal(artifacts, self.memories, self.target, self.stem)
        failure = failure or vendor.excess(self.options, self.target, self._named(artifacts))
        if failure is not None:
            return {}, {}, None, failure
        fidelities, lowered = self._verify(artifacts, left)
        profiles, before = self._profile(artifacts)
        missed = verdict(
            self.options, self.precision, floats,
            {self._file(f): (a, fidelities.get(f), profiles.get(f)) for f, a in artifacts.items()},
            {self._file(f): fidelity for f, fidelity in lowered.items()},
        )  # fmt: skip
        return fidelities, profiles, before, missed

    def _for_firmware(self, form: str, artifact: Artifact) -> Artifact:
        """Makes the sources for a microcontroller; the artifact then says so in its notes."""
        if form not in self.memories:
            return artifact
        name = self._file(form).removesuffix(f".{form}")
        artifact, files, warning = firmware.attach(name, artifact, self.memories[form])
        self.packed |= files
        self.warnings += [] if warning is None else [warning]
        return artifact

    def _for_npu(self, artifacts: Mapping[str, Artifact]) -> dict[str, Artifact]:
        """Compiles them further, by the vendor's tool, which is told in their notes."""
        with self._stage("compile for the NPU"):
            made, files = vendor.for_npu(self.target, self._named(artifacts), self.warnings)
        self.packed |= files
        return {form: made[self._file(form)] for form in artifacts}

    def _named(self, artifacts: Mapping[str, Artifact]) -> dict[str, Artifact]:
        return {self._file(form): artifact for form, artifact in artifacts.items()}

    def _verify(
        self, artifacts: Mapping[str, Artifact], left: ir.Model | None
    ) -> tuple[dict[str, Fidelity], dict[str, Fidelity]]:
        """Against the original, and against what approximate passes left of it, where that must be equal."""
        if self.options.no_verify:
            return {}, {}
        from edgecc.turns import Recorded, reference_runner
        from edgecc.verify import class_outputs, compare_all, compare_layers, open_candidate, weigh_rounding

        threads = self.options.threads or 1  # the networks run side by side
        with self._stage("verify"):
            # As it is written: the runtime's own integer kernels may saturate (x86 without VNNI).
            reference = reference_runner(
                self.original, self.eval_data, threads=threads, optimize=not self.kept
            )
            classes = class_outputs(self.original)
            compared: dict[str, Fidelity] = {}
            lowered: dict[str, Fidelity] = {}
            alone = [{form: artifact} for form, artifact in artifacts.items()]
            for group in alone if isinstance(reference, Recorded) else [artifacts]:
                runners = {f: open_candidate(a, like=reference, threads=threads) for f, a in group.items()}
                self.arenas |= {f: getattr(runner, "arena_bytes", None) for f, runner in runners.items()}
                compared |= compare_all(reference, runners, self.eval_data, classes=classes)
                if left is not None:
                    again = reference_runner(left, self.eval_data, threads=threads)
                    lowered |= compare_all(again, runners, self.eval_data, classes=classes)
                del runners
            found = {
                form: weigh_rounding(f, self.precision, self.original, self.eval_data, threads=threads)
                for form, f in compared.items()
            }
            if self.options.debug_quant:
                for form, artifact in artifacts.items():
                    layers = compare_layers(
                        self.original, artifact, self.eval_data, like=reference, threads=threads
                    )
                    found[form] = replace(found[form], layers=layers)
            if left is not None:
                for form, f in lowered.items():
                    lowered[form] = weigh_rounding(f, self.precision, left, self.eval_data, threads=threads)
        return found, lowered

    def _profile(self, artifacts: Mapping[str, Artifact]) -> tuple[dict[str, Profile], Profile | None]:
        if self.options.no_profile:
            return {}, None
        from edgecc.onnxrt.readback import x86_notes
        from edgecc.profile.local import Job, profile_all

        with self._stage("profile"):
            here = {f: a for f, a in artifacts.items() if not self._is_micro(f)}
            jobs: dict[str, Job] = {form: Job(artifact) for form, artifact in here.items()}
            jobs["original"] = Job(self._original(), operators=False)
            failed: dict[str, EdgeccError] = {}
            found = profile_all(jobs, threads=self.options.threads or 1, failed=failed)
        for key, error in failed.items():
            if key in artifacts and self.options.max_latency is not None:
                raise error
            of = self._file(key) if key in artifacts else "the original"
            self.warnings.append(f"{of} was not timed: {error.message}")
        if "onnx" in found and self.precision == "int8" and self.target.activation_dtype == "int8":
            found["onnx"] = replace(found["onnx"], notes=(*found["onnx"].notes, *x86_notes()))
        return {form: found[form] for form in artifacts if form in found}, found.get("original")

    def _is_micro(self, form: str) -> bool:
        """Whether the target runs it in TFLite Micro, whose kernels here are not those of the device."""
        return form == "tflite" and runtime_id(self.target.runtimes.get(form, "LiteRT")) == MICRO

    def _original(self) -> Artifact | Path:
        """What is timed beside the artifacts: the file itself where its shapes are what was compiled."""
        if self.file is not None and not self.options.input_shape:
            return self.file
        return Artifact(serialize(self.original), "onnx", "fp32", "original", (), ())

    def _report(
        self,
        artifacts: Mapping[str, Artifact],
        fidelities: Mapping[str, Fidelity],
        profiles: Mapping[str, Profile],
        before: Profile | None,
        failure: EdgeccError | None,
    ) -> Report:
        from edgecc import __version__
        from edgecc.analysis.cost import total_macs
        from edgecc.profile.predict import before_and_after
        from edgecc.report.schema import Report, artifact_facts, model_facts

        facts = model_facts(
            self.original,
            name=self.stem,
            sha256=self.sha256,
            size_bytes=self.size,
            macs=total_macs(self.original),
        )
        rows = tuple(
            artifact_facts(
                a,
                file=self._file(f),
                fidelity=fidelities.get(f),
                profile=profiles.get(f),
                arena_bytes=self.arenas.get(f),
                memory=self.memories.get(f),
            )
            for f, a in artifacts.items()
        )
        made = {self._file(f): a for f, a in artifacts.items()}
        predictions = {} if self.options.no_profile else before_and_after(self.original, made, self.target)
        return Report(
            model=facts, target=self.target.name, artifacts=rows, passes=tuple(self.log.records),
            original_profile=before, predictions=predictions, options=self._words(), warnings=tuple(self.warnings),
            failure=None if failure is None else str(failure), seconds=dict(self.seconds),
            edgecc_version=__version__,
        )  # fmt: skip

    def _publish(
        self, folder: Path, artifacts: Mapping[str, Artifact], report: Report, plan: QuantPlan | None
    ) -> None:
        from edgecc.report.html import render_html

        named = self._named(artifacts)
        files: dict[str, bytes | Path] = {name: a.waits_in or a.data for name, a in named.items()}
        files |= self.packed
        files["report.json"] = report.to_json().encode()
        files["report.html"] = render_html(report).encode()
        text = None if plan is None else plan.to_json()
        if text is not None:
            files["plan.json"] = text.encode()
        if report.failure is None:  # a manifest vouches for what lies beside it
            identity = {k: v for k, v in self._words().items() if k not in _ASIDE}
            files[output.MANIFEST] = output.manifest(
                model_sha256=self.sha256, target=self.target.name, precision=self.precision, options=identity,
                seed=self.options.seed, artifacts=named, plan=text,
            ).encode()  # fmt: skip
        output.publish(folder, files)

    def _file(self, form: str) -> str:
        return f"{self.stem}.{self.precision}.{form}"

    def _words(self) -> dict[str, Any]:
        return resolve.words(
            self.options, target=self.target, precision=self.precision, formats=self.formats, data=self.data,
            eval_data=self.eval_data,
        )  # fmt: skip

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        self.progress(name)
        started = time.perf_counter()
        yield
        ir.release(self.original)
        self.seconds[name] = time.perf_counter() - started


def lower_float(
    model: Path | str | bytes | onnx.ModelProto | ir.Model, *, target: str = "arm", io_layout: str = "auto"
) -> Artifact:
    """The float32 TFLite artifact of a model after the target's passes, neither verified nor written.

    Raises:
        ModelError, UnsupportedError: as `compile`.
    """
    from edgecc.tflite.lower import lower

    options = CompileOptions(target=target, io_layout=io_layout)  # type: ignore[arg-type]
    device = find_target(target)
    pipeline = Pipeline(float_passes(device, options))
    floats, _ = pipeline.run(load(model), PassContext(target=device, check=False))
    return lower(floats, precision="fp32", target=device.name, io_layout=options.io_layout)
