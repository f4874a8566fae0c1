"""The straight line: model in, passes, plan, one artifact a format, measured, reported (DESIGN §1)."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from edgecc import ir, output, resolve
from edgecc.artifact import Artifact
from edgecc.errors import BudgetError, EdgeccError, FidelityError
from edgecc.importer import load
from edgecc.options import CompileOptions, flag, make_options
from edgecc.pipeline import PassContext, Pipeline, PipelineLog
from edgecc.target import Target
from edgecc.target import target as find_target

if TYPE_CHECKING:
    import onnx

    from edgecc.calibration.dataset import Dataset
    from edgecc.fidelity import Fidelity
    from edgecc.profile import Profile
    from edgecc.quant.plan import QuantPlan
    from edgecc.report.schema import Report

P = ParamSpec("P")
R = TypeVar("R")
# Samples of --random-data: ranges of a network on noise mean little, and more of it would not help.
_RANDOM_CALIBRATION = 16
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
        return min(self.profiles.values(), key=lambda p: p.median_ms, default=None)


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
    return _Compilation(model, options, progress or (lambda stage: None)).run()


class _Compilation:
    """The state of one run; each method is one stage."""

    def __init__(self, model: Any, options: CompileOptions, progress: Callable[[str], None]) -> None:
        self.options, self.progress = options, progress
        self.seconds: dict[str, float] = {}
        self.warnings: list[str] = []
        self.target: Target = find_target(options.target)
        self.formats = resolve.formats(options, self.target)
        self.stem = Path(model).stem if isinstance(model, (str, Path)) else "model"
        self.folder = Path(options.output or output.default_output(self.stem, self.target.name))
        output.check_output(self.folder)
        self.given_plan = resolve.given_plan(options)
        self.precision = resolve.precision(options, self.target, self.given_plan)
        resolve.check_sense(options, self.precision)
        if options.precision is None and self.precision == "dynamic":
            self.warnings.append(resolve.DYNAMIC_REMEDY)
        with self._stage("import"):
            self.original = load(model, input_shape=options.input_shape)
            self.sha256, self.size = _identity(model, self.original)
            self.data, self.eval_data = self._datasets()
        self.log = PipelineLog()

    def run(self) -> CompileResult:
        floats = self._float_passes()
        plan = self._plan(floats)
        artifacts: dict[str, Artifact] = {}
        for form in self.formats:
            with self._stage(f"lower to {form}"):
                artifacts[form] = self._lower(floats, plan, form)
        fidelities = self._verify(artifacts)
        profiles, before = self._profile(artifacts)
        failure = self._judge(artifacts, fidelities, profiles, floats)
        report = self._report(artifacts, fidelities, profiles, before, failure)
        folder = self.folder if failure is None else output.failed(self.folder)
        self._publish(folder, artifacts, report, plan)
        if failure is not None:
            raise failure
        placed = {f: replace(a, path=folder / self._file(f)) for f, a in artifacts.items()}
        return CompileResult(placed, fidelities, profiles, report, folder)

    def _datasets(self) -> tuple[Dataset | None, Dataset]:
        """Calibration data, if any, and what fidelity is measured on."""
        from edgecc.calibration.dataset import input_specs, open_dataset, random_samples
        from edgecc.verify import RANDOM_SAMPLES

        options, specs = self.options, input_specs(self.original)
        calibration = evaluation = None
        if options.data is not None:
            labels = options.labels if options.eval_data is None else None
            calibration = open_dataset(options.data, specs, labels=labels, mean=options.mean, std=options.std)
            self.warnings.extend(calibration.warnings)
        elif options.random_data:
            calibration = random_samples(self.original, _RANDOM_CALIBRATION, options.seed)
            self.warnings.append("calibrated on random data: the ranges mean little for real inputs")
        if options.eval_data is not None:
            evaluation = open_dataset(
                options.eval_data, specs, labels=options.labels, mean=options.mean, std=options.std
            )
            self.warnings.extend(w for w in evaluation.warnings if w not in self.warnings)
        if evaluation is None:
            evaluation = calibration
        if evaluation is None:
            evaluation = random_samples(self.original, RANDOM_SAMPLES, options.seed)
        return calibration, evaluation

    # ---- the line ------------------------------------------------------------------------------------------

    def _float_passes(self) -> ir.Model:
        from edgecc.presets import float_passes

        with self._stage("passes"):
            return self._run(Pipeline(float_passes(self.target, self.options)), self.original)

    def _run(self, pipeline: Pipeline, model: ir.Model, plan: QuantPlan | None = None) -> ir.Model:
        options = self.options
        dump = Path(options.dump_ir) if options.dump_ir is not None else None
        if dump is not None and plan is not None:
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
        self.log.records.extend(log.records)
        return model

    def _plan(self, floats: ir.Model) -> QuantPlan | None:
        if self.precision not in resolve.QUANTIZED:
            return None
        if self.given_plan is not None:
            return resolve.fitting(self.given_plan, floats)
        from edgecc.calibration.observers import collect
        from edgecc.quant.plan import make_plan

        assert self.data is not None
        with self._stage("calibrate"):
            statistics = collect(
                floats, self.data, observer=self.options.observer, threads=self.options.threads
            )
            return make_plan(
                floats,
                statistics,
                precision=self.precision,  # type: ignore[arg-type]
                per_channel=self.target.per_channel,
            )

    def _lower(self, floats: ir.Model, plan: QuantPlan | None, form: str) -> Artifact:
        from edgecc.presets import quantized_passes

        special = None if plan is None else plan.for_runtime(form, floats, self.target)  # type: ignore[arg-type]
        model = self._run(Pipeline(quantized_passes(self.precision)), floats, special)
        if form == "tflite":
            from edgecc.tflite.lower import lower

            return lower(
                model, precision=self.precision, target=self.target.name,
                io_layout=self.options.io_layout, io_dtype=self.options.io_dtype,
            )  # fmt: skip
        from edgecc.onnxrt.export import export

        return export(model, precision=self.precision, target=self.target.name)

    def _verify(self, artifacts: Mapping[str, Artifact]) -> dict[str, Fidelity]:
        if self.options.no_verify:
            return {}
        from edgecc.runtime.ort import OrtRunner
        from edgecc.verify import class_outputs, compare_all, compare_layers, open_candidate

        threads = self.options.threads
        with self._stage("verify"):
            reference = OrtRunner.from_model(self.original, threads=threads)
            runners = {f: open_candidate(a, like=reference, threads=threads) for f, a in artifacts.items()}
            classes = class_outputs(self.original)
            found = compare_all(reference, runners, self.eval_data, classes=classes)
            if self.options.debug_quant:
                for form, artifact in artifacts.items():
                    layers = compare_layers(
                        self.original, artifact, self.eval_data, like=reference, threads=threads
                    )
                    found[form] = replace(found[form], layers=layers)
        return found

    def _profile(self, artifacts: Mapping[str, Artifact]) -> tuple[dict[str, Profile], Profile | None]:
        if self.options.no_profile:
            return {}, None
        from edgecc.profile.local import Job, profile_all

        with self._stage("profile"):
            jobs: dict[str, Job] = {form: Job(artifact) for form, artifact in artifacts.items()}
            jobs["original"] = Job(_original_artifact(self.original), operators=False)
            found = profile_all(jobs, threads=self.options.threads or 1)
        return {form: found[form] for form in artifacts}, found["original"]

    def _judge(
        self,
        artifacts: Mapping[str, Artifact],
        fidelities: Mapping[str, Fidelity],
        profiles: Mapping[str, Profile],
        floats: ir.Model,
    ) -> EdgeccError | None:
        """The first limit or budget that is not kept."""
        from edgecc.verdict import check_budgets
        from edgecc.verify import check_limits

        options = self.options
        try:
            for form, fidelity in fidelities.items():
                check_limits(
                    fidelity, precision=self.precision, min_agreement=options.min_agreement,
                    min_sqnr=options.min_sqnr, max_drop=options.max_drop, artifact=self._file(form),
                )  # fmt: skip
            check_budgets(
                options, floats, {self._file(f): (a, profiles.get(f)) for f, a in artifacts.items()}
            )
        except (FidelityError, BudgetError) as error:
            return error
        return None

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
        from edgecc.report.schema import Report, artifact_facts, model_facts

        facts = model_facts(
            self.original,
            name=self.stem,
            sha256=self.sha256,
            size_bytes=self.size,
            macs=total_macs(self.original),
        )
        rows = tuple(
            artifact_facts(a, file=self._file(f), fidelity=fidelities.get(f), profile=profiles.get(f))
            for f, a in artifacts.items()
        )
        return Report(
            model=facts, target=self.target.name, artifacts=rows, passes=tuple(self.log.records),
            original_profile=before, options=self._resolved(), warnings=tuple(self.warnings),
            failure=None if failure is None else str(failure), seconds=dict(self.seconds),
            edgecc_version=__version__,
        )  # fmt: skip

    def _publish(
        self, folder: Path, artifacts: Mapping[str, Artifact], report: Report, plan: QuantPlan | None
    ) -> None:
        from edgecc.report.html import render_html

        named = {self._file(form): artifact for form, artifact in artifacts.items()}
        files = {name: artifact.data for name, artifact in named.items()}
        files["report.json"] = report.to_json().encode()
        files["report.html"] = render_html(report).encode()
        text = None if plan is None else plan.to_json()
        if text is not None:
            files["plan.json"] = text.encode()
        if report.failure is None:  # a manifest vouches for what lies beside it
            identity = {k: v for k, v in self._resolved().items() if k not in _ASIDE}
            files[output.MANIFEST] = output.manifest(
                model_sha256=self.sha256, target=self.target.name, precision=self.precision, options=identity,
                seed=self.options.seed,
                artifacts=named, plan=text,
            ).encode()  # fmt: skip
        output.publish(folder, files)

    def _file(self, form: str) -> str:
        return f"{self.stem}.{self.precision}.{form}"

    def _resolved(self) -> dict[str, Any]:
        """The options as they were understood, in words that JSON takes."""
        found: dict[str, Any] = {flag(f.name): getattr(self.options, f.name) for f in fields(self.options)}
        found |= {"precision": self.precision, "format": list(self.formats), "target": self.target.name}
        found["data"] = None if self.data is None else self.data.description
        found["eval-data"] = self.eval_data.description
        for name in ("labels", "plan"):
            found[name] = None if found[name] is None else "given"
        found["pass"] = [str(p) for p in self.options.passes]
        return {k: str(v) if isinstance(v, Path) else v for k, v in found.items()}

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        self.progress(name)
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started


def _identity(model: Any, loaded: ir.Model) -> tuple[str, int | None]:
    """sha256 and size of the model's file; of its serialised form where it is no file."""
    if isinstance(model, (str, Path)):
        with Path(model).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return digest, Path(model).stat().st_size
    data = (
        model
        if isinstance(model, bytes)
        else ir.serde.serialize_model(loaded).SerializeToString(deterministic=True)
    )
    return hashlib.sha256(data).hexdigest(), len(data)


def _original_artifact(model: ir.Model) -> Artifact:
    data = ir.serde.serialize_model(model).SerializeToString(deterministic=True)
    return Artifact(data, "onnx", "fp32", "original", (), ())
