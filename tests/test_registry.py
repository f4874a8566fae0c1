"""The registry: built-in passes and targets by their file, others through entry points, no name twice."""

from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from edgecc import registry
from edgecc.errors import UsageError
from edgecc.pipeline import Pass
from edgecc.presets import convert, make_pass
from edgecc.target import target
from edgecc.tflite import LOWERINGS, lowers

PASSES = Path(__file__).resolve().parents[1] / "passes"
Announce = Callable[..., None]


@pytest.fixture
def announce(monkeypatch: pytest.MonkeyPatch) -> Iterator[Announce]:
    """Makes it look as if packages had announced (group, name, value)."""
    caches = (registry._external, registry.pass_class, registry.load_lowerings, _aliases())

    def clear() -> None:
        for cached in caches:
            cached.cache_clear()  # type: ignore[attr-defined]

    def make(*points: tuple[str, str, str]) -> None:
        made = EntryPoints(EntryPoint(name, value, group) for group, name, value in points)
        monkeypatch.setattr(registry, "entry_points", lambda group: made.select(group=group))
        clear()

    yield make
    monkeypatch.undo()
    clear()


def _aliases() -> object:
    return import_module("edgecc.target")._aliases


@pytest.mark.parametrize("name", registry.pass_names())
def test_every_pass_lies_in_the_file_of_its_name(name: str) -> None:
    kind = registry.pass_class(name)
    assert kind.name == name
    assert (PASSES / f"{name}.py").exists()
    assert kind.__doc__
    assert kind().options() is not None


def test_every_file_is_a_pass() -> None:
    files = {p.stem for p in PASSES.glob("*.py") if not p.stem.startswith("_")}
    assert files == set(registry.pass_names())


def test_unknown_names_bring_suggestions() -> None:
    with pytest.raises(UsageError, match=r"did you mean 'fuse_pad'\? choose one of"):
        registry.pass_class("fuse_pads")
    with pytest.raises(UsageError, match="no target 'leg'"):
        target("leg")


def test_two_packages_with_one_name_are_both_named(announce: Announce) -> None:
    announce(("edgecc.passes", "twin", "one.module:Twin"), ("edgecc.passes", "twin", "other.module:Twin"))
    with pytest.raises(UsageError, match=r"one\.module:Twin and other\.module:Twin"):
        registry.pass_names()


def test_the_name_of_a_built_in_cannot_be_claimed(announce: Announce) -> None:
    announce(("edgecc.passes", "fuse_pad", "mine:FusePad"), ("edgecc.targets", "arm", "mine:arm_file"))
    with pytest.raises(UsageError, match="mine:FusePad claims the name of the built-in pass"):
        registry.pass_class("fuse_pad")
    with pytest.raises(UsageError, match="mine:arm_file claims the name of the built-in target"):
        registry.target_files()


def test_an_alias_hides_no_name(announce: Announce, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sly.toml").write_text('name = "sly"\ndescription = "d"\naliases = ["arm", "sly2"]\n')
    monkeypatch.setattr(EntryPoint, "load", lambda self: tmp_path / "sly.toml")
    announce(("edgecc.targets", "sly", "mine:SLY"))
    assert target("arm").name == "arm"
    assert target("sly2").name == "sly"


@pytest.mark.parametrize(
    ("group", "value"),
    [("edgecc.passes", "no_such_module:P"), ("edgecc.passes", "json:no_such_name"),
     ("edgecc.lowerings", "no_such_module"), ("edgecc.targets", "no_such_module:file")],
)  # fmt: skip
def test_a_broken_package_is_named(announce: Announce, group: str, value: str) -> None:
    announce((group, "broken", value))
    use: dict[str, Callable[[], object]] = {
        "edgecc.passes": lambda: registry.pass_class("broken"),
        "edgecc.lowerings": registry.load_lowerings,
        "edgecc.targets": registry.target_files,
    }
    with pytest.raises(UsageError, match="uninstall") as caught:
        use[group]()
    assert value in str(caught.value)


def test_what_is_no_pass_is_refused(announce: Announce) -> None:
    announce(("edgecc.passes", "odd", "json:dumps"))
    with pytest.raises(UsageError, match=r"json:dumps is not a subclass of edgecc\.Pass"):
        registry.pass_class("odd")


def test_two_lowerings_for_one_operator_name_both() -> None:
    def first(site: object, b: object) -> None: ...

    def second(site: object, b: object) -> None: ...

    try:
        lowers("test.domain::Op")(first)
        lowers("test.domain::Op")(first)  # the same one again is no conflict
        with pytest.raises(UsageError, match=r"test\.domain::Op has two lowerings: .*first and .*second"):
            lowers("test.domain::Op")(second)
    finally:
        LOWERINGS.pop("test.domain::Op", None)


def test_options_of_a_pass_are_typed_texts() -> None:
    for kind, text, value in (
        (int, "3", 3), (float, "1e-3", 1e-3), (bool, "True", True),
        (str, "x", "x"), (int | None, "none", None),
        (int | None, "4", 4),
    ):  # fmt: skip
        assert convert(text, kind, "p:o") == value
    for kind, text in ((int, "3.5"), (float, "x"), (bool, "yes")):
        with pytest.raises(UsageError, match="p:o"):
            convert(text, kind, "p:o")


def test_passes_from_texts() -> None:
    assert isinstance(make_pass("fuse_pad"), Pass)
    assert make_pass("fuse_pad:") == make_pass("fuse_pad")
    for text, reason in (("fuse_pad:x=1", "no option 'x'"), ("", "no pass ''"), ("fuse_pad:x", "no option")):
        with pytest.raises(UsageError, match=reason):
            make_pass(text)
