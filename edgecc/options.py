"""The words of `compile`: one declaration for Python, the command line and edgecc.toml."""

# ruff: noqa: RUF009 - `_word` returns a dataclass field

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from edgecc.errors import UsageError
from edgecc.quant import NodePrecision
from edgecc.tomlfile import read_toml

if TYPE_CHECKING:
    from edgecc.pipeline import Pass
    from edgecc.quant.plan import QuantPlan

Format = Literal["tflite", "onnx", "all"]
Precision = Literal["int8", "int16x8", "int4", "fp16", "dynamic", "fp32", "mixed"]
IoLayout = Literal["auto", "onnx", "nhwc"]
IoDtype = Literal["float32", "int8", "uint8", "int16"]
Observer = Literal["channel", "robust", "minmax", "percentile", "mse"]

SIZES = {"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
COUNTS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9}
# What a value must be once texts are parsed (`kind` of a field), in words.
_KINDS: Mapping[Any, str] = {
    bool: "true or false", Integral: "a whole number", Real: "a number", str: "a text", tuple: "a list",
    Mapping: "values by name",
}  # fmt: skip
_FINITE = sys.float_info.max
# Options whose relative paths in a configuration file start from its folder.
_PATHS = ("data", "eval_data", "labels", "plan", "output", "dump_ir")
# Option -> lowest, highest, and that in words.
_BOUNDS = {
    "min_agreement": (0.0, 1.0, "between 0 and 1"),
    "min_sqnr": (-_FINITE, _FINITE, "a number of decibels"),
    "max_drop": (-100.0, 100.0, "a number of points between -100 and 100"),
    "max_latency": (0.0, _FINITE, "a duration"),
    "max_macs": (0.0, _FINITE, "a count"),
    "max_size": (0.0, _FINITE, "a size"),
    "threads": (1, 1024, "between 1 and 1024"),
    "seed": (0, 2**32 - 1, "between 0 and 2**32 - 1"),
}
_TIMES = {"MS": 1e-3, "US": 1e-6, "S": 1.0, "NS": 1e-9}


def _word(
    help: str,
    default: Any = None,
    *,
    metavar: str | None = None,
    parse: Callable[[str], Any] | None = None,
    choices: tuple[str, ...] = (),
    flag: str | None = None,
    many: bool = False,
    kind: Any = object,
) -> Any:
    kind = bool if isinstance(default, bool) else kind
    facts = {
        "help": help,
        "metavar": metavar,
        "parse": parse,
        "choices": choices,
        "flag": flag,
        "many": many,
        "kind": kind,
    }
    return field(default=default, metadata=facts)


def quantity(units: Mapping[str, float], kind: str) -> Callable[[str], float]:
    """A parser of a number with one of these units behind it.

    Raises (the parser):
        UsageError: anything else.
    """

    def parse(text: str) -> float:
        found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([A-Za-z]*)\s*", str(text))
        if found is None or found[2].upper() not in units:
            known = ", ".join(u for u in units if u)
            raise UsageError(f"{text!r} is not a {kind}", remedy=f"write a number and one of {known}")
        return float(found[1]) * units[found[2].upper()]

    return parse


def share_or(text: str, units: Mapping[str, float], kind: str, total: float) -> float:
    """A number with a unit, or a share of `total` in percent.

    Args:
        text: as `50M` or `70%`.
        units: unit -> factor.
        kind: what it is, for messages.
        total: what 100% means.

    Raises:
        UsageError: it is neither.
    """
    if text.strip().endswith("%"):
        return numbers(text.strip()[:-1])[0] / 100 * total
    return quantity(units, kind)(text)


def numbers(text: str) -> tuple[float, ...]:
    """One number or several with commas between them."""
    try:
        return tuple(float(part) for part in str(text).split(","))
    except ValueError:
        raise UsageError(
            f"{text!r} is not a number or numbers with commas between", remedy="as in 0.485,0.456,0.406"
        ) from None


def shapes(texts: str | tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """`NAME=1x3x224x224`, several of them or one."""
    found: dict[str, tuple[int, ...]] = {}
    for text in (texts,) if isinstance(texts, str) else texts:
        name, _, sizes = str(text).rpartition("=")
        if not name or not re.fullmatch(r"[0-9]+(x[0-9]+)*", sizes):
            raise UsageError(f"{text!r} is not an input shape", remedy="write NAME=1x3x224x224")
        found[name] = tuple(int(s) for s in sizes.split("x"))
    return found


def node_precisions(texts: str | tuple[str, ...]) -> dict[str, str]:
    """`NODE=PRECISION`, several of them or one."""
    pairs = [str(text).rpartition("=") for text in ((texts,) if isinstance(texts, str) else texts)]
    return checked_precisions({name: precision for name, _, precision in pairs})


def checked_precisions(given: Mapping[Any, Any]) -> dict[str, str]:
    """Precisions by node or pattern, if they are such."""
    for name, precision in given.items():
        if not name or precision not in get_args(NodePrecision):
            known = ", ".join(get_args(NodePrecision))
            raise UsageError(
                f"{precision!r} is no precision of a node", remedy=f"write NODE=PRECISION with one of {known}"
            )
    return {str(name): str(precision) for name, precision in given.items()}


@dataclass(frozen=True, kw_only=True)
class CompileOptions:
    """Everything `compile` can be told. Each field is an option of the same name, with `-` for `_`."""

    target: str = _word(
        "device to compile for (see `edgecc targets`), or a TOML file", "arm", metavar="T", kind=str
    )
    format: Format | None = _word(
        "what to write; default: every format of the target", choices=get_args(Format)
    )
    precision: Precision | None = _word(
        "default: int8 with --data, else dynamic (int8 weights)", choices=get_args(Precision)
    )
    data: Any = _word("calibration data: .npz, .npy, folder of images, or module:function", metavar="CALIB")
    eval_data: Any = _word("data that fidelity is measured on", metavar="TEST")
    labels: Any = _word("labels of --eval-data (of --data without it)", metavar="FILE")
    mean: tuple[float, ...] | None = _word(
        "subtracted from pixels 0..255", metavar="M", parse=numbers, kind=tuple
    )
    std: tuple[float, ...] | None = _word(
        "pixels are divided by it after --mean", metavar="S", parse=numbers, kind=tuple
    )
    random_data: bool = _word("calibrate int8 on random data, knowingly", False)
    input_shape: Mapping[str, tuple[int, ...]] | None = _word(
        "binds symbolic dimensions (repeatable)",
        metavar="NAME=1x3x224x224",
        parse=shapes,
        many=True,
        kind=Mapping,
    )
    preset: str | None = _word("named list of passes (see `edgecc passes`)", metavar="NAME", kind=str)
    passes: tuple[str | Pass, ...] = _word(
        "one more pass after the others (repeatable)",
        (),
        metavar="NAME[:option=value,...]",
        flag="pass",
        many=True,
        kind=tuple,
    )
    skip_passes: tuple[str, ...] = _word(
        "leave a pass out (repeatable)", (), metavar="NAME", flag="skip-pass", many=True, kind=tuple
    )
    plan: str | Path | QuantPlan | None = _word(
        "quantization plan of an earlier run, instead of data", metavar="plan.json"
    )
    keep: Mapping[str, str] | None = _word(
        "precision of nodes by name, whatever the rest has; * stands for any text (repeatable)",
        metavar="NODE=fp32",
        parse=node_precisions,
        many=True,
        kind=Mapping,
    )
    observer: Observer = _word("how ranges of activations are taken", "channel", choices=get_args(Observer))
    io_layout: IoLayout = _word("layout of inputs and outputs of TFLite", "auto", choices=get_args(IoLayout))
    io_dtype: IoDtype | None = _word(
        "type of inputs and outputs of quantized TFLite; default: the target's (float32; int8 for Ethos-U)",
        choices=get_args(IoDtype),
    )
    min_agreement: float | None = _word(
        "least share of equal answers, 0..1 (exit 4); with mixed the precisions are chosen to keep it",
        metavar="0.99",
        parse=float,
        kind=Real,
    )
    min_sqnr: float | None = _word(
        "least SQNR in dB (exit 4); likewise", metavar="20", parse=float, kind=Real
    )
    max_drop: float | None = _word(
        "most points of accuracy lost (exit 4); likewise", metavar="0.5", parse=float, kind=Real
    )
    max_latency: float | None = _word(
        "most time for one inference, measured here (exit 5)",
        metavar="10ms",
        parse=quantity(_TIMES, "duration"),
        kind=Real,
    )
    max_macs: float | None = _word(
        "most multiply-accumulates (exit 5)", metavar="50M", parse=quantity(COUNTS, "count"), kind=Real
    )
    max_size: float | None = _word(
        "largest file (exit 5)", metavar="1MB", parse=quantity(SIZES, "size"), kind=Real
    )
    no_verify: bool = _word("skip all comparisons with the original", False)
    no_profile: bool = _word("skip the timing on this machine", False)
    debug_quant: bool = _word("measure the error of every layer", False)
    dump_ir: str | Path | None = _word("text of the graph after every pass", metavar="DIR")
    seed: int = _word("of every random choice", 0, metavar="N", parse=int, kind=Integral)
    threads: int | None = _word(
        "of calibration, verification and timing", metavar="N", parse=int, kind=Integral
    )
    output: str | Path | None = _word("default: build/<stem>-<target>", metavar="DIR")

    def __post_init__(self) -> None:
        for each in fields(self):
            value, choices = getattr(self, each.name), each.metadata["choices"]
            if choices and value is not None and value not in choices:
                raise UsageError(
                    f"{value!r} is not possible",
                    node=f"--{flag(each.name)}",
                    remedy=f"choose {', '.join(choices)}",
                )
            kind = each.metadata["kind"]
            is_bool = isinstance(value, bool) and kind not in (bool, object)
            if value is not None and (is_bool or not isinstance(value, kind)):
                raise UsageError(f"{value!r} is not {_KINDS[kind]}", node=f"--{flag(each.name)}")
        for name, (low, high, words) in _BOUNDS.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:  # NaN lies outside of all bounds
                raise UsageError(f"{value} is not {words}", node=f"--{flag(name)}")


def flag(name: str) -> str:
    """The command-line spelling of a field."""
    found = next((f for f in fields(CompileOptions) if f.name == name), None)
    return (found.metadata["flag"] if found else None) or name.replace("_", "-")


def make_options(words: Mapping[str, Any]) -> CompileOptions:
    """Options from words as the user wrote them: texts are parsed, unknown words refused.

    Raises:
        UsageError: an unknown word, or a value that cannot be read.
    """
    known = {f.name: f for f in fields(CompileOptions)}
    values: dict[str, Any] = {}
    for word, value in words.items():
        if word not in known:
            close = difflib.get_close_matches(word, known, n=1)
            raise UsageError(
                f"there is no option {word!r}", remedy=f"did you mean {close[0]!r}?" if close else None
            )
        values[word] = _parsed(word, known[word].metadata, value)
        if value is None and known[word].default is not MISSING:
            values[word] = known[word].default
    return CompileOptions(**values)


def _parsed(word: str, facts: Mapping[str, Any], value: Any) -> Any:
    where = f"--{flag(word)}"
    if facts["many"] and isinstance(value, str):
        value = (value,)
    texts = isinstance(value, str) or (
        isinstance(value, (list, tuple)) and len(value) > 0 and all(isinstance(v, str) for v in value)
    )
    try:
        if facts["parse"] is not None and texts:
            return facts["parse"](tuple(value) if facts["many"] else value)
        if word in ("mean", "std") and value is not None:
            return tuple(float(v) for v in (value if isinstance(value, Iterable) else (value,)))
        if word == "input_shape" and isinstance(value, Mapping):
            return {str(k): tuple(int(d) for d in v) for k, v in value.items()}
        if word == "keep" and isinstance(value, Mapping):
            return checked_precisions(value)
    except UsageError as error:
        raise UsageError(error.message, node=where, remedy=error.remedy) from None
    except (TypeError, ValueError):
        raise UsageError(f"{value!r} cannot be read", node=where) from None
    return tuple(value) if isinstance(value, list) else value


def read_config(path: Path) -> dict[str, Any]:
    """The options in a TOML file: keys as on the command line, `-` or `_`; paths start from its folder.

    Raises:
        UsageError: there is no such file, or a key is unknown.
        ModelError: it is not TOML.
    """
    table = read_toml(path, "configuration")
    names = {flag(f.name).replace("-", "_"): f.name for f in fields(CompileOptions)}
    names |= {f.name: f.name for f in fields(CompileOptions)}
    found: dict[str, Any] = {}
    for key, value in table.items():
        name = names.get(key.replace("-", "_"))
        if name is None:
            close = difflib.get_close_matches(key.replace("-", "_"), names, n=1)
            hint = f"did you mean {flag(names[close[0]])!r}?" if close else "see `edgecc compile --help`"
            raise UsageError(f"{path} has an unknown key {key!r}", remedy=hint)
        path_like = name in _PATHS or (name == "target" and str(value).endswith(".toml"))
        if name in ("data", "eval_data", "labels", "plan") and isinstance(value, str) and ":" in value:
            raise UsageError(
                f"{key} names code in a configuration file",
                node=str(path),
                remedy=f"give --{flag(name)} on the command line",
            )
        if path_like and isinstance(value, str):
            value = str(path.parent / value)
        elif path_like and name != "target":
            raise UsageError(f"{value!r} is not a path", node=f"{path}, {key}")
        found[name] = value
    return found
