"""Finds passes, targets and lowerings by name: the built-in ones by their file, others through entry points.

One file a pass: `passes/<name>.py` holds the subclass of `Pass` whose `name` is `<name>`. One file a target:
`targets/<name>.toml`. Other packages announce theirs under the entry-point groups `edgecc.passes` (a Pass
class), `edgecc.targets` (a path, or a function that returns one, to a TOML file) and `edgecc.lowerings` (a
module, or a function, whose import or call registers lowerings with `edgecc.tflite.lowers`).
"""

from __future__ import annotations

import difflib
from functools import cache
from importlib import import_module, resources
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecc.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgecc.pipeline import Pass


def _builtin(package: str, suffix: str) -> dict[str, Path]:
    folder = Path(str(resources.files(package)))
    return {p.stem: p for p in sorted(folder.glob(f"*{suffix}")) if not p.stem.startswith("_")}


@cache
def _external(group: str) -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        if point.name in found and found[point.name].value != point.value:
            raise UsageError(
                f"two packages announce {point.name!r} in {group}:"
                f" {found[point.name].value} and {point.value}",
                remedy="uninstall one of them",
            )
        found[point.name] = point
    return found


def _load(point: EntryPoint) -> Any:
    try:
        return point.load()
    except (ImportError, AttributeError, SyntaxError) as error:
        raise UsageError(
            f"the entry point of another package cannot be loaded: {error}",
            node=f"{point.group}: {point.name} = {point.value}",
            remedy="repair or uninstall that package",
        ) from error


def _unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return UsageError(f"there is no {kind} {name!r}", remedy=f"{hint}choose one of {', '.join(known)}")


def pass_names() -> list[str]:
    """The names of every pass, built-in ones first."""
    builtin = _builtin("edgecc.passes", ".py")
    return [*builtin, *(n for n in _external("edgecc.passes") if n not in builtin)]


@cache
def pass_class(name: str) -> type[Pass]:
    """The pass called `name`.

    Raises:
        UsageError: there is none, or the name is claimed twice.
    """
    from edgecc.pipeline import Pass

    builtin, external = _builtin("edgecc.passes", ".py"), _external("edgecc.passes")
    if name in builtin and name in external:
        raise UsageError(
            f"{external[name].value} claims the name of the built-in pass {name!r}", remedy="rename it"
        )
    if name in builtin:
        module = import_module(f"edgecc.passes.{name}")
        return next(
            v for v in vars(module).values()
            if isinstance(v, type) and issubclass(v, Pass) and getattr(v, "name", None) == name
        )  # fmt: skip
    if name not in external:
        raise _unknown("pass", name, pass_names())
    found = _load(external[name])
    if not (isinstance(found, type) and issubclass(found, Pass)):
        raise UsageError(f"{external[name].value} is not a subclass of edgecc.Pass", node=name)
    return found


def target_files() -> dict[str, Path]:
    """The TOML file of every target, by name.

    Raises:
        UsageError: a package claims the name of a built-in target.
    """
    found = _builtin("edgecc.targets", ".toml")
    for name, point in _external("edgecc.targets").items():
        if name in found:
            raise UsageError(
                f"{point.value} claims the name of the built-in target {name!r}", remedy="rename it"
            )
        value = _load(point)
        found[name] = Path(str(value() if callable(value) else value))
    return found


def target_file(name: str) -> Path:
    """The TOML file of the target called `name`; a name that ends in .toml is a path.

    Raises:
        UsageError: there is none.
    """
    if name.endswith(".toml"):
        return Path(name)
    files = target_files()
    if name not in files:
        raise _unknown("target", name, files)
    return files[name]


@cache
def load_lowerings() -> None:
    """Imports every lowering that another package announces; each registers itself with `tflite.lowers`."""
    for point in _external("edgecc.lowerings").values():
        value = _load(point)
        if callable(value) and not isinstance(value, type):
            value()
