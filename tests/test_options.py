"""Options: texts, bounds, types; one declaration for every way of giving them."""

import dataclasses
import math
import typing

import pytest

import edgecc
from edgecc.errors import UsageError
from edgecc.options import CompileOptions, flag, make_options, numbers, quantity, shapes

SIZES = {"": 1, "KB": 1e3, "KIB": 1024}


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("2KB", 2000), ("1.5 kb", 1500), ("1KiB", 1024), ("1e3", 1000), (".5kB", 500)],
)
def test_quantities(text: str, value: float) -> None:
    assert quantity(SIZES, "size")(text) == value


@pytest.mark.parametrize("text", ["", "KB", "1 kilobyte", "-1", "1KB 2", "1,5", "nan", "0x10"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(UsageError, match="is not a size"):
        quantity(SIZES, "size")(text)


def test_numbers_and_shapes() -> None:
    assert numbers("0.5, 1,2") == (0.5, 1.0, 2.0)
    assert shapes("a=1x2") == {"a": (1, 2)}
    assert shapes(("a=b=3", "c=4x5")) == {"a=b": (3,), "c": (4, 5)}
    for text in ("a=1x", "=1x2", "a", "a=-1x2", "a=1X2", "a=1.5"):
        with pytest.raises(UsageError, match="NAME="):
            shapes(text)


def test_texts_mean_what_they_mean_on_the_command_line() -> None:
    options = make_options({
        "min_agreement": "0.9", "max_size": "1MB", "max_macs": "50M", "max_latency": "10ms", "mean": "1,2,3",
        "std": 4, "input_shape": ["x=1x3"], "passes": "fold_constants", "seed": "7", "threads": None,
    })  # fmt: skip
    assert options.min_agreement == 0.9
    assert options.max_size == 1e6
    assert options.max_macs == 50e6
    assert options.max_latency == pytest.approx(0.01)
    assert options.mean == (1.0, 2.0, 3.0)
    assert options.std == (4.0,)
    assert options.input_shape == {"x": (1, 3)}
    assert options.passes == ("fold_constants",)
    assert options.seed == 7
    assert options.threads is None
    assert make_options({"seed": None, "target": None}) == CompileOptions()


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("target", 3), ("format", "tfl"), ("format", ["tflite"]), ("format", True), ("precision", 8),
        ("io_layout", "nchw"), ("io_dtype", "int4"), ("observer", "mean"), ("mean", ["a"]),
        ("std", object()), ("random_data", "no"), ("random_data", 1), ("input_shape", 3),
        ("input_shape", {"x": 3}),
        ("input_shape", {"x": "1x2"}), ("preset", 1), ("passes", 7), ("skip_passes", {}),
        ("min_agreement", 1.01),
        ("min_agreement", -0.1), ("min_agreement", True), ("min_agreement", math.nan),
        ("min_sqnr", math.inf),
        ("max_drop", 101), ("max_latency", -1), ("max_macs", math.nan), ("max_size", -1), ("max_size", True),
        ("seed", -1), ("seed", 2**32), ("seed", 1.5), ("seed", True), ("threads", 0), ("threads", 2000),
        ("threads", 1.0),
    ],
)  # fmt: skip
def test_wrong_values_are_refused_with_the_option(word: str, value: object) -> None:
    with pytest.raises(UsageError) as caught:
        make_options({word: value})
    assert caught.value.node == f"--{flag(word)}"


def test_an_unknown_word_brings_a_suggestion() -> None:
    with pytest.raises(UsageError, match="did you mean 'min_sqnr'"):
        make_options({"min_snqr": 3})


def test_every_option_is_described_and_named_once() -> None:
    names = [flag(f.name) for f in dataclasses.fields(CompileOptions)]
    assert len(set(names)) == len(names)
    for each in dataclasses.fields(CompileOptions):
        assert each.metadata["help"], each.name


def test_the_command_and_python_have_the_same_words() -> None:
    from edgecc.cli import compile_command

    of_command = {p.name for p in compile_command.params}
    assert {f.name for f in dataclasses.fields(CompileOptions)} == of_command - {
        "model", "config", "json", "quiet", "verbose"
    }  # fmt: skip


def test_python_keywords_are_typed() -> None:
    """Type checkers see the fields of `CompileOptions` as the keywords of `edgecc.compile`."""
    hints = typing.get_type_hints(
        CompileOptions, {**vars(edgecc.options), "Pass": object, "QuantPlan": object}
    )
    assert set(hints) == {f.name for f in dataclasses.fields(CompileOptions)}
    assert hints["threads"] == int | None
