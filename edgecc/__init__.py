"""edgecc: a trained ONNX network and a target device in, the smallest and fastest faithful artifact out.

Names are imported when they are first used, so that `import edgecc` costs nothing.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgecc.compile import CompileResult, compile
    from edgecc.errors import EdgeccError
    from edgecc.importer import load
    from edgecc.options import CompileOptions
    from edgecc.pipeline import Pass, PassContext, PassResult, Pipeline, Refusal
    from edgecc.target import Target, target
    from edgecc.verify import verify

__version__ = "0.1.0"

# ONNX Runtime's Linux wheels report to their makers unless this stands before they are loaded (seen in 1.31). Networks
# are their owners' business: who wants the reports sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOME = {
    "CompileOptions": "edgecc.options",
    "CompileResult": "edgecc.compile",
    "EdgeccError": "edgecc.errors",
    "Pass": "edgecc.pipeline",
    "PassContext": "edgecc.pipeline",
    "PassResult": "edgecc.pipeline",
    "Pipeline": "edgecc.pipeline",
    "Refusal": "edgecc.pipeline",
    "Target": "edgecc.target",
    "compile": "edgecc.compile",
    "load": "edgecc.importer",
    "target": "edgecc.target",
    "verify": "edgecc.verify",
}

__all__ = [
    "CompileOptions",
    "CompileResult",
    "EdgeccError",
    "Pass",
    "PassContext",
    "PassResult",
    "Pipeline",
    "Refusal",
    "Target",
    "__version__",
    "compile",
    "load",
    "target",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'edgecc' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


class _Package(ModuleType):
    """Keeps `edgecc.compile`, `.target` and `.verify` the functions when their modules are imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _HOME and isinstance(value, ModuleType):
            return
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return sorted(__all__)
