"""Targets: TOML read into one frozen value, extended, aliased; the documentation says what there is."""

import re
from pathlib import Path

import msgspec
import pytest

from edgecc import registry
from edgecc.errors import EdgeccError, ModelError, UsageError
from edgecc.presets import make_pass
from edgecc.target import BoardSpec, Fact, LatencySpec, PipelineSpec, Target, VelaSpec, read_target, target

DOCS = Path(__file__).resolve().parents[1] / "docs" / "targets.md"
HEAD = 'name = "board"\ndescription = "a board"\n'


def write(folder: Path, text: str, name: str = "board.toml") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


@pytest.mark.parametrize("name", sorted(registry.target_files()))
def test_every_target_is_complete(name: str) -> None:
    found = target(name)
    assert found.name == name == registry.target_file(name).stem
    assert found.description
    assert set(found.runtimes) == set(found.formats)
    assert "int8" in found.precisions
    assert set(found.only_as) <= set(found.precisions)
    assert all(fact.source and fact.unit for fact in found.facts)
    for preset in (found.pipeline.passes, *found.pipeline.presets.values()):
        assert [make_pass(step).name for step in preset] == [step.split(":")[0] for step in preset]


def test_aliases_and_files(tmp_path: Path) -> None:
    assert target("aarch64") == target("arm")
    assert target("amd64").name == "x86-64"
    assert target(str(write(tmp_path, HEAD))).name == "board"


def test_extends_takes_the_rest_from_the_other(tmp_path: Path) -> None:
    text = HEAD + 'extends = "arm"\nvector_width = 64\n[runtimes]\ntflite = "TFLite Micro"\n'
    found = read_target(write(tmp_path, text))
    arm = target("arm")
    assert (found.vector_width, found.formats, found.pipeline) == (64, arm.formats, arm.pipeline)
    assert found.runtimes == {**arm.runtimes, "tflite": "TFLite Micro"}
    assert found.aliases == ()  # who is called what is not inherited
    write(tmp_path, 'name = "rev2"\ndescription = "d"\nextends = "board.toml"\n', "rev2.toml")
    assert read_target(tmp_path / "rev2.toml").vector_width == 64


MALFORMED = {
    "no such key": (HEAD + "vector_widht = 3\n", "vector_widht"),
    "a wrong type": (HEAD + 'vector_width = "wide"\n', "vector_width"),
    "an unknown format": (HEAD + 'formats = ["coreml"]\n', "formats"),
    "no name": ('description = "d"\n', "name"),
    "no TOML": ("name = \n", "TOML"),
    "itself": (HEAD + 'extends = "board.toml"\n', "extends itself"),
    "nobody": (HEAD + 'extends = "nobody"\n', "nobody"),
    "no file": (HEAD + 'extends = "nobody.toml"\n', "no such target file"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_file_is_one_clear_error(tmp_path: Path, case: str) -> None:
    text, reason = MALFORMED[case]
    with pytest.raises(EdgeccError, match=reason) as caught:
        read_target(write(tmp_path, text))
    assert caught.value.exit_code == 2


LINES = {
    "a key": (HEAD + "\n# a remark\nvector_widht = 3\n", 5),
    "a type": (HEAD + 'ram_kb = "much"\n', 3),
    "in a table": (HEAD + 'vector_width = 8\n[cost]\nbyte = { int8 = 1.0 }\nmac = { int8 = "x" }\n', 6),
    "a key in a table": (HEAD + "[cost]\nmacs = 3\n", 4),
    "in a list": (
        HEAD + "[[facts]]\nname = 'a'\nvalue = 'x'\nunit = 'u'\nsource = 's'\n",
        5,
    ),
    "syntax": (HEAD + "ram_kb = \n", 3),
}


@pytest.mark.parametrize("case", LINES)
def test_an_error_names_file_and_line(tmp_path: Path, case: str) -> None:
    text, line = LINES[case]
    with pytest.raises(ModelError, match=rf"board\.toml.*line {line}\b"):
        read_target(write(tmp_path, text))


def test_the_second_entry_of_a_list_is_told_by_its_line(tmp_path: Path) -> None:
    fact = "[[facts]]\nname = 'a'\nvalue = {}\nunit = 'u'\nsource = 's'\n"
    with pytest.raises(ModelError, match=r"line 10\b"):
        read_target(write(tmp_path, HEAD + fact.format(1) + fact.format("'x'")))


def test_a_board_is_a_target_with_its_memory() -> None:
    board = target("nucleo-l4r5zi")
    assert (board.name, board.board, board.ram_kb, board.flash_kb) == (
        "cortex-m4",
        "nucleo-l4r5zi",
        640,
        2048,
    )
    assert board.boards["nucleo-l4r5zi"].source.endswith("unchecked")
    assert target("cortex-m4").ram_kb is None
    assert target("mobile").name == "android"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such target file"):
        target(str(tmp_path / "nope.toml"))
    (tmp_path / "bytes.toml").write_bytes(b"\xff")
    with pytest.raises(ModelError, match="TOML"):
        target(str(tmp_path / "bytes.toml"))


def test_a_target_is_frozen() -> None:
    with pytest.raises(AttributeError):
        target("arm").name = "leg"  # type: ignore[misc]


def keys(kind: type[msgspec.Struct]) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(kind)}


@pytest.mark.parametrize(
    ("heading", "kind", "more"),
    [
        ("Keys", Target, {"extends"}),
        ("`[pipeline]`", PipelineSpec, set()),
        ("`[vela]`", VelaSpec, set()),
        ("`[[facts]]`", Fact, set()),
        ("`[[latency]]`", LatencySpec, set()),
        ("`[boards.NAME]`", BoardSpec, set()),
    ],
)
def test_the_documentation_lists_every_key_and_no_other(
    heading: str, kind: type[msgspec.Struct], more: set[str]
) -> None:
    section = DOCS.read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    listed = re.findall(r"^\| `([a-z_]+)` \|", section, re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) == keys(kind) | more
    defaults = dict(re.findall(r"^\| `([a-z_]+)` \| ([^|]*?) \|", section, re.MULTILINE))
    for field in msgspec.structs.fields(kind):
        assert (defaults[field.encode_name] == "required") == field.required, field.name


def test_the_example_in_the_documentation_is_a_target(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    found = read_target(write(tmp_path, example))
    assert found.pipeline.passes == target("arm").pipeline.passes
