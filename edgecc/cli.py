"""The commands. Nothing heavy is imported before a command needs it: `edgecc --help` answers at once."""

from __future__ import annotations

import inspect
import json as jsonlib
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from edgecc.errors import EdgeccError, UsageError
from edgecc.options import CompileOptions, flag, make_options, read_config

app = typer.Typer(
    name="edgecc",
    help="Compile a trained ONNX network for a device, and prove that it still answers like the original.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="everything as JSON on standard output")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="nothing but errors")]
Verbose = Annotated[bool, typer.Option("--verbose", help="every operator, refusal and traceback")]
TargetName = Annotated[str, typer.Option("--target", metavar="T", help="see `edgecc targets`")]


@dataclass(frozen=True)
class _Voice:
    """How a command speaks: a table of rows for people, JSON for programs, or not at all."""

    json: bool
    quiet: bool
    verbose: bool

    def say(self, text: str) -> None:
        """A line of progress, on standard error."""
        if not self.quiet and not self.json:
            from edgecc.report.terminal import clean

            sys.stderr.write(clean(text) + "\n")

    def show(self, data: Any, tables: Callable[[], list[Any]]) -> None:
        """The result: `data` as JSON, else `tables()`."""
        from edgecc.report.schema import jsonable
        from edgecc.report.terminal import show

        if self.json:
            sys.stdout.write(jsonlib.dumps(jsonable(data), indent=1) + "\n")
        elif not self.quiet:
            show(tables(), sys.stdout)


def _compile_signature() -> inspect.Signature:
    """The parameters of `edgecc compile`, from the fields of `CompileOptions`."""
    kind = inspect.Parameter.KEYWORD_ONLY
    model = inspect.Parameter(
        "model", kind, annotation=Annotated[str, typer.Argument(metavar="MODEL.onnx", help="the trained network")]
    )
    found = [model]
    for each in fields(CompileOptions):
        facts = each.metadata
        names = ["-o", "--output"] if each.name == "output" else [f"--{flag(each.name)}"]
        text = facts["help"]
        if facts["choices"]:
            text = f"{text} [{'|'.join(facts['choices'])}]"
        typ: Any = bool if isinstance(each.default, bool) else list[str] if facts["many"] else Optional[str]  # noqa: UP045
        default: Any = False if typ is bool else [] if facts["many"] else None
        if each.name == "target":
            text += " [default: arm]"
        option = typer.Option(*names, help=text, metavar=None if typ is bool else facts["metavar"] or "WORD", show_default=False)
        found.append(inspect.Parameter(each.name, kind, default=default, annotation=Annotated[typ, option]))
    config = typer.Option("--config", metavar="edgecc.toml", help="options from a file; those given here win", show_default=False)
    found.append(inspect.Parameter("config", kind, default=None, annotation=Annotated[Optional[str], config]))  # noqa: UP045
    found += [
        inspect.Parameter(name, kind, default=False, annotation=annotation)
        for name, annotation in (("json", Json), ("quiet", Quiet), ("verbose", Verbose))
    ]
    return inspect.Signature(found)


def compile_command(**given: Any) -> None:
    """Compile MODEL for a device: TFLite and/or ONNX, verified, measured, reported."""
    voice = _Voice(given.pop("json"), given.pop("quiet"), given.pop("verbose"))
    model, config = given.pop("model"), given.pop("config")
    words = {name: value for name, value in given.items() if value not in (None, False, [])}
    if config is not None:
        words = {**read_config(Path(config)), **words}
    make_options(words)  # wrong words are told before anything is loaded
    from edgecc.compile import compile as compile_model

    result = compile_model(model, progress=voice.say, **words)
    files = {form: str(artifact.path) for form, artifact in result.artifacts.items()}
    data = {**result.report.to_dict(), "output": str(result.output), "files": files} if voice.json else None

    def tables() -> list[Any]:
        from edgecc.report.tables import pass_table, report_tables

        items = [*result.report.warnings, *report_tables(result.report)]
        if voice.verbose:
            items.append(pass_table(result.report))
            items += [f"{p.name} left {r.node} alone: {r.reason}" for p in result.report.passes for r in p.refused]
        return [*items, *(f"wrote {path}" for path in files.values()), f"wrote {result.output / 'report.html'}"]

    voice.show(data, tables)


compile_command.__signature__ = _compile_signature()  # type: ignore[attr-defined]
compile_command.__annotations__ = {n: p.annotation for n, p in _compile_signature().parameters.items()}
app.command("compile")(compile_command)


@app.command("inspect")
def inspect_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=".onnx")],
    target: Annotated[Optional[list[str]], typer.Option("--target", metavar="T", help="what it can run (repeatable)")] = None,  # noqa: UP045
    input_shape: Annotated[Optional[list[str]], typer.Option("--input-shape", metavar="NAME=1x3x224x224", help="binds symbolic dimensions")] = None,  # noqa: UP045
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Show operators, parameters, MACs, memory, and what a target can run of MODEL."""
    from edgecc.inspect import inspect_model, inspection_tables
    from edgecc.options import shapes

    bound = shapes(tuple(input_shape)) if input_shape else None
    found = inspect_model(model, targets=tuple(target or ("arm",)), input_shape=bound)
    _Voice(json, quiet, verbose).show(found, lambda: inspection_tables(found, every=verbose))


@app.command()
def profile(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=".onnx or .tflite")],
    target: TargetName = "arm",
    device: Annotated[str, typer.Option("--device", metavar="local", help="where it runs")] = "local",
    threads: Annotated[int, typer.Option("--threads", metavar="N", help="of the runtime")] = 1,
    runs: Annotated[Optional[int], typer.Option("--runs", metavar="N", help="default: as many as fit")] = None,  # noqa: UP045
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Measure MODEL per operator on this machine."""
    from edgecc.target import target as find_target

    for name in target.split(","):
        find_target(name)
    if device != "local":
        raise UsageError(f"{device!r} cannot be reached", node="--device", remedy="this version measures on `local` only")
    from edgecc.profile import profile_artifact
    from edgecc.report.tables import profile_tables

    found = profile_artifact(Path(model), runs=runs, threads=threads)
    _Voice(json, quiet, verbose).show(found.to_dict(), lambda: profile_tables(found, None if verbose else 20, model))


@app.command()
def verify(
    original: Annotated[str, typer.Argument(metavar="ORIGINAL", help="the float .onnx")],
    compiled: Annotated[str, typer.Argument(metavar="COMPILED", help=".tflite or .onnx, of edgecc or another tool")],
    data: Annotated[Optional[str], typer.Option("--data", metavar="D", help="default: random samples")] = None,  # noqa: UP045
    labels: Annotated[Optional[str], typer.Option("--labels", metavar="L", help="turns agreement into accuracy")] = None,  # noqa: UP045
    layers: Annotated[bool, typer.Option("--layers", help="also every layer that both name alike")] = False,
    mean: Annotated[Optional[str], typer.Option("--mean", metavar="M")] = None,  # noqa: UP045
    std: Annotated[Optional[str], typer.Option("--std", metavar="S")] = None,  # noqa: UP045
    input_shape: Annotated[Optional[list[str]], typer.Option("--input-shape", metavar="NAME=1x3x224x224")] = None,  # noqa: UP045
    min_agreement: Annotated[Optional[float], typer.Option("--min-agreement", metavar="0.99")] = None,  # noqa: UP045
    min_sqnr: Annotated[Optional[float], typer.Option("--min-sqnr", metavar="20")] = None,  # noqa: UP045
    max_drop: Annotated[Optional[float], typer.Option("--max-drop", metavar="0.5")] = None,  # noqa: UP045
    threads: Annotated[Optional[int], typer.Option("--threads", metavar="N")] = None,  # noqa: UP045
    seed: Annotated[int, typer.Option("--seed", metavar="N")] = 0,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Measure how faithfully COMPILED answers like ORIGINAL, per output and per layer."""
    from edgecc.options import numbers, shapes
    from edgecc.report.tables import fidelity_tables
    from edgecc.verify import verify as verify_model

    found = verify_model(
        original, compiled, data=data, labels=labels, layers=layers,
        mean=numbers(mean) if mean else None, std=numbers(std) if std else None,
        input_shape=shapes(tuple(input_shape)) if input_shape else None,
        min_agreement=min_agreement, min_sqnr=min_sqnr, max_drop=max_drop, threads=threads, seed=seed,
    )  # fmt: skip
    _Voice(json, quiet, verbose).show(found.to_dict(), lambda: fidelity_tables(found))


@app.command()
def targets(
    name: Annotated[Optional[str], typer.Argument(metavar="NAME", help="the page of one")] = None,  # noqa: UP045
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """List the targets, or show one."""
    from edgecc import catalogue

    voice = _Voice(json, quiet, verbose)
    if name is None:
        found = catalogue.targets()
        voice.show(found, lambda: [catalogue.list_table("targets", found)])
    else:
        page = catalogue.target_page(name)
        voice.show(page, lambda: catalogue.page_lines(page))


@app.command()
def passes(
    name: Annotated[Optional[str], typer.Argument(metavar="NAME", help="the page of one")] = None,  # noqa: UP045
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """List the passes, or show one with its options."""
    from edgecc import catalogue

    voice = _Voice(json, quiet, verbose)
    if name is None:
        found = catalogue.passes()
        voice.show(found, lambda: [catalogue.list_table("passes", found)])
    else:
        page = catalogue.pass_page(name)
        voice.show(page, lambda: catalogue.page_lines(page))


def _version(wanted: bool) -> None:
    if wanted:
        from edgecc import __version__

        sys.stdout.write(f"edgecc {__version__}\n")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="show it and stop")] = False,
) -> None:
    pass


def main(arguments: list[str] | None = None) -> None:
    """Runs a command; the process ends with the exit code of DESIGN §3."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        app(args=words, standalone_mode=True, prog_name="edgecc")
    except EdgeccError as error:
        _fail(error, words)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("edgecc: interrupted\n")
        sys.exit(130)
    except Exception as error:  # noqa: BLE001 - whatever arrives here is a defect of edgecc, and is said to be one
        _fail(EdgeccError(f"a defect in edgecc: {type(error).__name__}: {error}", remedy="report it with --verbose"), words)
        if "--verbose" in words:
            traceback.print_exc()
        sys.exit(EdgeccError.exit_code)


def _fail(error: EdgeccError, words: list[str]) -> None:
    from edgecc.report.terminal import clean

    if "--json" in words:
        sys.stdout.write(jsonlib.dumps(error_data(error), indent=1) + "\n")
    lines = [clean(line) for line in str(error).split("\n")]
    sys.stderr.write("edgecc: " + "\n".join(lines) + "\n")


def error_data(error: EdgeccError) -> Mapping[str, Any]:
    """An error as `--json` prints it."""
    return {
        "error": type(error).__name__,
        "exit_code": error.exit_code,
        "message": error.message,
        "node": error.node,
        "remedy": error.remedy,
    }


if __name__ == "__main__":
    main()
