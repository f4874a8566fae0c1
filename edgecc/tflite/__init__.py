"""From the ONNX IR straight to a TFLite flatbuffer.

A lowering is a function of (site, builder), registered for one or more ONNX operators:

    @lowers("Relu", int8=True)
    def relu(site: Site, b: Builder) -> None: ...
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgecc.errors import UsageError

if TYPE_CHECKING:
    from edgecc.analysis.sites import Site
    from edgecc.tflite.builder import Builder

Lower = Callable[["Site", "Builder"], None]


@dataclass(frozen=True)
class Lowering:
    """A registered lowering; `int8`: it also serves sites whose operands are all quantized."""

    function: Lower
    int8: bool


LOWERINGS: dict[str, Lowering] = {}


def lowers(*operators: str, int8: bool = False) -> Callable[[Lower], Lower]:
    """Registers a lowering for ONNX operators ("Conv", or "domain::Op" outside the default domain).

    Raises:
        UsageError: one of them has a lowering already.
    """

    def register(function: Lower) -> Lower:
        for operator in operators:
            known = LOWERINGS.get(operator)
            if known is not None and known.function is not function:
                raise UsageError(
                    f"{operator} has two lowerings: {_place(known.function)} and {_place(function)}",
                    remedy="uninstall one of the packages that announce them",
                )
            LOWERINGS[operator] = Lowering(function, int8)
        return function

    return register


def _place(function: Lower) -> str:
    return f"{function.__module__}.{getattr(function, '__qualname__', '?')}"
