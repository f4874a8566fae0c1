"""Which passes run: the target's or a preset's list, the user's additions and omissions."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal

from edgecc import registry, resolve
from edgecc.errors import UsageError
from edgecc.options import CompileOptions
from edgecc.pipeline import Pass
from edgecc.target import Target

# precision -> the pass after the float ones that writes it where there is no plan, once a format.
_AFTER = {"dynamic": "quantize_weights", "int4": "quantize_weights:dtype=int4", "fp16": "halve_weights"}

# Preset of every target -> the passes after the target's own. The threshold is what all zeros together may change the
# answers by: lenet_caffe loses 0.13 points of top-1 with it and becomes 33 times smaller (benchmarks/README.md).
_COMPRESSING = {"deep-compression": ("sparsify:threshold=0.005", "share_weights:bits=5")}


def packs(options: CompileOptions) -> bool:
    """Whether every artifact is packed, too."""
    return options.preset in _COMPRESSING


def float_passes(target: Target, options: CompileOptions) -> list[Pass]:
    """The passes on the float network, in order.

    Raises:
        UsageError: an unknown preset or pass, or `--skip-pass` of one that does not run.
    """
    names: tuple[str, ...] = target.pipeline.passes
    own = _COMPRESSING.get(options.preset or "", ())
    if options.preset is not None and not own:
        if options.preset not in target.pipeline.presets:
            known = ", ".join((*target.pipeline.presets, *_COMPRESSING))
            raise UsageError(f"{target.name} has no preset {options.preset!r}", remedy=f"it has: {known}")
        names = target.pipeline.presets[options.preset]
    passes = [make_pass(name) for name in names]
    ends, kept = _set(own, options), {_name(text) for text in own}
    for given in options.passes:
        # Those that run later have their options read now, before the model is.
        if _is_calibrated(given, options):
            _set([_name(given)], options)
        elif _writes(given, options):
            quantized_passes(options.precision or "dynamic", planned=False, options=options)
        elif _name(given) not in kept:
            made = given if isinstance(given, Pass) else make_pass(str(given))
            # What makes other layers (split_gemm, prune_channels) goes before what changes numbers in layers.
            (passes if made.compresses and not _fixed(made) else ends).append(made)
    passes += ends
    for name in options.skip_passes:
        if all(p.name != name for p in passes) and name not in _CALIBRATED:
            raise UsageError(
                f"no pass {name!r} runs",
                node="--skip-pass",
                remedy=f"these do: {', '.join(dict.fromkeys(p.name for p in passes))}",
            )
    return [p for p in passes if p.name not in options.skip_passes]


def split_constant(passes: Sequence[Pass]) -> tuple[list[Pass], list[Pass]]:
    """Passes, and those at their end that change float32 constants only (`constants_only` of a pass's class).

    A saved plan holds what the latter made: with it they need not run, and need no data.
    """
    count = len(passes)
    while count and _fixed(passes[count - 1]):
        count -= 1
    return list(passes[:count]), list(passes[count:])


def _fixed(step: Pass) -> bool:
    """Whether a pass changes float32 constants only."""
    return bool(getattr(step, "constants_only", False))


# What removes the quantization that a network carries, and what TFLite needs of one that is kept.
_UNQUANTIZE = ("qoperators_to_qdq", "fuse_dynamic_quantization", "remove_qdq")


def unquantizing_passes() -> list[Pass]:
    """The passes that make a network that carries quantization a float one."""
    return [make_pass(name) for name in _UNQUANTIZE]


def keeping_passes(form: str) -> list[Pass]:
    """The passes after the float ones on a network whose own quantization is kept."""
    return [make_pass("fuse_dynamic_quantization"), make_pass("settle_qdq")] if form == "tflite" else []


# precision -> the passes on the float network with calibration data, before there is a plan and after, for all
# formats. int16 activations have steps enough for unequal channels.
_PLANNING = dict.fromkeys(("int8", "int4", "mixed"), ("equalize",))
_PLANNED = dict.fromkeys(("int8", "int16x8", "int4", "mixed"), ("round_weights",))
_CALIBRATED = {name for names in (*_PLANNING.values(), *_PLANNED.values()) for name in names}


def planning_passes(precision: str, options: CompileOptions) -> list[Pass]:
    """The passes with calibration data before planning; `--pass` of one sets its options."""
    return _set(_PLANNING.get(precision, ()), options)


def planned_passes(precision: str, options: CompileOptions) -> list[Pass]:
    """The passes between planning and writing the plan into the graph; `--pass` of one sets its options."""
    return _set(_PLANNED.get(precision, ()), options)


def _set(names: Sequence[str], options: CompileOptions) -> list[Pass]:
    found: list[Pass] = []
    for name in names:
        given = [p for p in options.passes if _name(p) == _name(name)]
        found += [p if isinstance(p, Pass) else make_pass(str(p)) for p in given] or [make_pass(name)]
    return [p for p in found if p.name not in options.skip_passes]


def _name(given: Pass | str) -> str:
    return given.name if isinstance(given, Pass) else str(given).partition(":")[0].strip()


def quantized_passes(
    precision: str, io_dtype: str = "float32", *, planned: bool = True, options: CompileOptions | None = None
) -> list[Pass]:
    """The passes that write a precision into the graph.

    Args:
        io_dtype: in which inputs and outputs are stored.
        planned: there is a quantization plan, if the precision has one.
        options: whose `--pass` of the same name sets the pass's options.
    """
    if planned and precision not in ("dynamic", "fp16", "fp32"):
        return [make_pass(f"insert_qdq:io_dtype={io_dtype}")]
    text = _AFTER.get(precision)
    if text is None:
        return []
    for given in options.passes if options is not None else ():
        if options is not None and _writes(given, options):
            if isinstance(given, Pass):
                return [given]
            text = f"{text}{',' if ':' in text else ':'}{str(given).partition(':')[2]}"
    return [make_pass(text)]


def _precision(options: CompileOptions) -> str:
    planned = options.data is not None or options.plan is not None or options.random_data
    return options.precision or ("int8" if planned else "dynamic")


def _is_calibrated(given: Pass | str, options: CompileOptions) -> bool:
    """Whether a pass that the user names is one with calibration data: then it runs once, before or after planning."""
    precision = _precision(options)
    names = (*_PLANNING.get(precision, ()), *_PLANNED.get(precision, ()))
    return resolve.calibrated(options, precision) and _name(given) in names


def _writes(given: Pass | str, options: CompileOptions) -> bool:
    """Whether a pass that the user names is the one that writes the precision: then it runs once, in its place.

    Raises:
        UsageError: it would be, but a plan writes the precision.
    """
    precision, name = _precision(options), _name(given)
    if name != _AFTER.get(precision, "").partition(":")[0]:
        return False
    if resolve.calibrated(options, precision):
        raise UsageError(
            "with calibration data a plan says how weights are stored",
            node=f"--pass {name}",
            remedy="leave the pass out, or the data (--eval-data measures without calibrating)",
        )
    return True


def make_pass(text: str) -> Pass:
    """A pass from `NAME` or `NAME:option=value,...`.

    Raises:
        UsageError: an unknown pass or option, or a value of the wrong type.
    """
    name, _, listed = text.partition(":")
    kind = registry.pass_class(name.strip())
    hints = typing.get_type_hints(kind)
    known = [f.name for f in kind.declared()]
    values: dict[str, Any] = {}
    for part in filter(None, listed.split(",")):
        option, equals, value = part.partition("=")
        option = option.strip().replace("-", "_")
        if option not in known:
            close = difflib.get_close_matches(option, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has: {', '.join(known) or 'none'}"
            raise UsageError(f"the pass has no option {option!r}", node=name, remedy=hint)
        if not equals:
            raise UsageError(f"{part!r} is not option=value", node=name)
        values[option] = convert(value.strip(), hints[option], f"{name}:{option}")
    return kind(**values)


def convert(text: str, kind: Any, where: str) -> Any:
    """A text as the type of an option: bool, int, float, str, a Literal, or one of these or None.

    Raises:
        UsageError: it is none of that type.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        if text not in arguments:
            raise UsageError(
                f"{text!r} is not possible", node=where, remedy=f"choose {', '.join(map(str, arguments))}"
            )
        return text
    if origin in (typing.Union, types.UnionType):
        if text.lower() == "none" and type(None) in arguments:
            return None
        return convert(text, next(a for a in arguments if a is not type(None)), where)
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise UsageError(f"{text!r} is neither true nor false", node=where)
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError:
        raise UsageError(f"{text!r} is no {kind.__name__}", node=where) from None
