"""The commands. Nothing heavy is imported before a command needs it: `edgecc --help` answers at once."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import fields
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import click

from edgecc.errors import EdgeccError, UsageError
from edgecc.options import CompileOptions, flag, make_options, read_config
from edgecc.plaintext import clean
from edgecc.voice import Voice, print_json


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="edgecc", message="edgecc %(version)s")
def app() -> None:
    """Compile a trained ONNX network for a device, and prove that it still answers like the original."""


def _speech(command: Callable[..., None]) -> Callable[..., None]:
    """The options that every command has."""
    for names, text in (
        (("--verbose",), "Every operator, every refusal, tracebacks."),
        (("-q", "--quiet"), "Nothing but errors."),
        (("--json",), "Everything as JSON on standard output."),
    ):
        command = click.option(*names, is_flag=True, help=text)(command)
    return command


_INPUT_SHAPE = click.option(
    "--input-shape", multiple=True, metavar="NAME=1x3x224x224", help="Binds symbolic dimensions (repeatable)."
)


def _compile_options(command: Callable[..., None]) -> Callable[..., None]:
    """An option for every field of `CompileOptions`."""
    command = click.option(
        "--config", metavar="edgecc.toml", help="Options from a file; those given here win."
    )(command)
    for each in reversed(fields(CompileOptions)):
        facts = each.metadata
        names = [f"--{flag(each.name)}", *(["-o"] if each.name == "output" else []), each.name]
        text = facts["help"][0].upper() + facts["help"][1:]
        text += f" [{'|'.join(facts['choices'])}]." if facts["choices"] else "."
        if isinstance(each.default, bool):
            command = click.option(*names, is_flag=True, help=text)(command)
        else:
            metavar = facts["metavar"] or "WORD"
            command = click.option(*names, multiple=facts["many"], metavar=metavar, help=text)(command)
    return command


@app.command("compile")
@click.argument("model", metavar="MODEL.onnx")
@_compile_options
@_speech
def compile_command(**given: Any) -> None:
    """Compile MODEL for a device: TFLite and/or ONNX, verified, measured, reported."""
    voice = Voice(given.pop("json"), given.pop("quiet"), given.pop("verbose"))
    model, config = given.pop("model"), given.pop("config")
    words = {name: value for name, value in given.items() if value not in (None, False, ())}
    if config is not None:
        words = {**read_config(Path(config)), **words}
    options = make_options(words)  # wrong words are told before anything is loaded
    from edgecc.compile import compile_with

    with voice.progress() as progress:
        result = compile_with(model, options, progress)
    from edgecc.report.compiled import compiled_items

    files = {form: str(artifact.path) for form, artifact in result.artifacts.items()}
    data = {**result.report.to_dict(), "output": str(result.output), "files": files} if voice.json else None
    made = [result.output / name for a in result.artifacts.values() for name in a.companions]
    written = [*map(Path, files.values()), *made, result.output / "report.html"]
    voice.show(data, lambda: compiled_items(result.report, written, every=voice.verbose))


def _listed(words: tuple[str, ...]) -> tuple[str, ...]:
    """Names that were given one by one or with commas between."""
    return tuple(name for word in words for name in word.split(",") if name)


@app.command("inspect")
@click.argument("model", metavar="MODEL")
@click.option("--target", multiple=True, metavar="T[,T2..]", help="What it can run (default: arm).")
@_INPUT_SHAPE
@_speech
def inspect_command(
    *,
    model: str,
    target: tuple[str, ...],
    input_shape: tuple[str, ...],
    json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Show operators, parameters, MACs, memory, and what a target can run of MODEL (.onnx or .tflite)."""
    from edgecc.options import shapes

    bound, targets = shapes(input_shape) if input_shape else None, _listed(target) or ("arm",)
    voice = Voice(json, quiet, verbose)
    if Path(model).suffix == ".tflite":
        from edgecc.inspect_tflite import file_tables, inspect_file

        if bound:
            raise UsageError("a TFLite file says its shapes itself", node="--input-shape")
        file = inspect_file(Path(model), targets)
        voice.show(file, lambda: file_tables(file, every=verbose))
        return
    from edgecc.inspect import inspect_model, inspection_tables

    found = inspect_model(model, targets=targets, input_shape=bound)
    voice.show(found, lambda: inspection_tables(found, every=verbose))


@app.command("profile")
@click.argument("model", metavar="MODEL")
@click.option(
    "--target",
    multiple=True,
    metavar="T[,T2..]",
    help="Computed by its own tool or predicted, unless it is to be measured.",
)
@click.option(
    "--device",
    metavar="D",
    help="local (default without --target), ssh://[USER@]HOST, adb://SERIAL, emulated://a76.",
)
@click.option(
    "--precision", metavar="WORD", help="That a prediction is for (default: the file's, else int8)."
)
@click.option("--threads", default=1, metavar="N", help="Of the runtime (default: 1).")
@click.option("--runs", type=int, metavar="N", help="Timed runs here (default: as many as fit).")
@click.option("--html", metavar="FILE", help="The figures as a page, too.")
@_INPUT_SHAPE
@_speech
def profile_command(
    *,
    model: str,
    target: tuple[str, ...],
    device: str | None,
    precision: str | None,
    threads: int,
    runs: int | None,
    html: str | None,
    input_shape: tuple[str, ...],
    json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Measure MODEL (.onnx or .tflite) per operator, here or on a device, or tell what a target takes."""
    from edgecc.options import shapes
    from edgecc.profile.figures import figures
    from edgecc.target import target as find_target

    found = figures(
        Path(model),
        [find_target(name) for name in _listed(target)],
        device=device,
        precision=precision,
        runs=runs,
        threads=threads,
        input_shape=shapes(input_shape) if input_shape else {},
        page=None if html is None else Path(html),
    )
    voice = Voice(json, quiet, verbose)
    voice.show(found.to_dict(), lambda: found.tables(voice.limit, model))


@app.command("calibrate")
@click.argument("measured", metavar="MEASURED.csv|MODEL.onnx...", nargs=-1, required=True)
@click.option("--target", required=True, metavar="T", help="Whose rates are refitted.")
@click.option("--device", metavar="D", help="Measures the networks there, as for profile.")
@click.option("-o", "--output", required=True, metavar="myboard.toml", help="The target that is written.")
@click.option("--precision", default="int8", metavar="WORD", help="Of what was measured (default: int8).")
@click.option("--runtime", metavar="NAME", help="That ran it (default: the target's first).")
@click.option("--ghz", type=float, metavar="1.8", help="The board's clock (default: the target's).")
@_speech
def calibrate_command(
    *,
    measured: tuple[str, ...],
    target: str,
    device: str | None,
    output: str,
    precision: str,
    runtime: str | None,
    ghz: float | None,
    json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Refit a target's latency rates to networks measured before (`model,latency_ms`) or now; one is enough."""
    from edgecc.profile.board import calibrate_board

    found = calibrate_board(
        measured, Path(output), target=target, device=device, precision=precision, runtime=runtime, ghz=ghz
    )
    Voice(json, quiet, verbose).show(found.to_dict(), found.lines)


@app.command("verify")
@click.argument("original", metavar="ORIGINAL")
@click.argument("compiled", metavar="COMPILED")
@click.option("--data", metavar="D", help="As for compile (default: seeded random samples).")
@click.option("--labels", metavar="L", help="Turns agreement into accuracy.")
@click.option("--layers", is_flag=True, help="Also every layer that both name alike.")
@click.option("--bit-true", is_flag=True, help="Answers in simulated integers; who differs from them.")
@click.option("--mean", metavar="M", help="Subtracted from pixels 0..255.")
@click.option("--std", metavar="S", help="Pixels are divided by it after --mean.")
@_INPUT_SHAPE
@click.option("--min-agreement", metavar="0.99", help="Least share of equal answers (exit 4).")
@click.option("--min-sqnr", metavar="20", help="Least SQNR in dB (exit 4).")
@click.option("--max-drop", metavar="0.5", help="Most points of accuracy lost (exit 4).")
@click.option("--threads", metavar="N", help="Of both runtimes.")
@click.option("--seed", metavar="N", help="Of the random samples.")
@_speech
def verify_command(
    *,
    original: str,
    compiled: str,
    layers: bool,
    bit_true: bool,
    json: bool,
    quiet: bool,
    verbose: bool,
    **given: Any,
) -> None:
    """Measure how faithfully COMPILED (.tflite or .onnx) answers like ORIGINAL (.onnx)."""
    words = make_options({name: value for name, value in given.items() if value not in (None, ())})
    from edgecc.report.tables import fidelity_tables
    from edgecc.verify import verify as verify_files

    chosen = {name: getattr(words, name) for name in given}
    found = verify_files(original, compiled, layers=layers, bit_true=bit_true, **chosen)
    Voice(json, quiet, verbose).show(found.to_dict(), lambda: fidelity_tables(found))


@app.command("pack")
@click.argument("model", metavar="MODEL")
@click.option("-o", "--output", metavar="FILE.ecz", help="Default: MODEL with the ending .ecz.")
@_speech
def pack_command(*, model: str, output: str | None, json: bool, quiet: bool, verbose: bool) -> None:
    """Pack MODEL (.tflite or .onnx) without loss; pruned and shared weights take the fewest bytes."""
    from edgecc.pack.files import pack_file
    from edgecc.report.tables import packed_lines

    found = pack_file(Path(model), None if output is None else Path(output))
    Voice(json, quiet, verbose).show(found.to_dict(), lambda: packed_lines(found))


@app.command("unpack")
@click.argument("packed", metavar="FILE.ecz")
@click.option("-o", "--output", metavar="MODEL", help="Default: FILE with the ending of what is in it.")
@_speech
def unpack_command(*, packed: str, output: str | None, json: bool, quiet: bool, verbose: bool) -> None:
    """Give back the file that was packed, byte for byte."""
    from edgecc.pack.files import unpack_file

    path = unpack_file(Path(packed), None if output is None else Path(output))
    Voice(json, quiet, verbose).show({"file": str(path)}, lambda: [f"wrote {path}"])


@app.command("targets")
@click.argument("name", required=False)
@_speech
def targets_command(name: str | None, json: bool, quiet: bool, verbose: bool) -> None:
    """List the targets, or show one."""
    from edgecc import catalogue

    _catalogue(Voice(json, quiet, verbose), "targets", catalogue.targets, catalogue.target_page, name)


@app.command("passes")
@click.argument("name", required=False)
@_speech
def passes_command(name: str | None, json: bool, quiet: bool, verbose: bool) -> None:
    """List the passes, or show one with its options."""
    from edgecc import catalogue

    _catalogue(Voice(json, quiet, verbose), "passes", catalogue.passes, catalogue.pass_page, name)


def _catalogue(
    voice: Voice,
    title: str,
    every: Callable[[], dict[str, str]],
    page: Callable[[str], dict[str, Any]],
    name: str | None,
) -> None:
    from edgecc import catalogue

    if name is None:
        found = every()
        voice.show(found, lambda: [catalogue.list_table(title, found)])
        return
    one = page(name)
    voice.show(
        one, lambda: catalogue.target_items(one) if title == "targets" else list(catalogue.page_lines(one))
    )


def main(arguments: list[str] | None = None) -> None:
    """Runs a command; the process ends with the exit code of DESIGN §3."""
    words = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a letter is no reason to fail
    try:
        app.main(args=words, prog_name="edgecc", standalone_mode=False)
    except click.ClickException as error:
        if "--json" in words:
            print_json(error_data(UsageError(error.format_message())))
        error.show()
        sys.exit(UsageError.exit_code)
    except EdgeccError as error:
        _fail(error, words)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        sys.stderr.write("edgecc: interrupted\n")
        sys.exit(130)
    except Exception as error:  # noqa: BLE001 - whatever arrives here is a defect of edgecc, and is said to be one
        if "--verbose" in words:
            traceback.print_exc()
        cause = f"a defect in edgecc: {type(error).__name__}: {error}"
        _fail(EdgeccError(cause, remedy="report it, with the output of --verbose"), words)
        sys.exit(EdgeccError.exit_code)


def _fail(error: EdgeccError, words: list[str]) -> None:
    if "--json" in words:
        print_json(error_data(error))
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
