"""What a compilation leaves on disk: staged beside the folder, renamed when verified, manifest last."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from edgecc import __version__
from edgecc.artifact import Artifact
from edgecc.errors import UsageError

MANIFEST = "manifest.json"
# Notes of an artifact that say where it does not run, and what was made of it: packed, sources, an NPU's file.
_DECLARED = ("not_in_tflite_runtime_2_14", "packed", "firmware", "vela")
# Packages whose version can change the bytes of an artifact.
_PACKAGES = ("numpy", "onnx", "onnx-ir", "onnxruntime", "ai-edge-litert")


def manifest(
    *,
    model_sha256: str,
    target: str,
    precision: str,
    options: Mapping[str, Any],
    seed: int,
    artifacts: Mapping[str, Artifact],
    plan: str | None,
) -> str:
    """The text of manifest.json: nothing in it depends on the time, the machine's speed or the output folder.

    Args:
        model_sha256: of the input model's file.
        target, precision, options, seed: the resolved configuration.
        artifacts: by file name.
        plan: the quantization plan as JSON, if there is one.
    """
    files = {
        name: {
            "sha256": artifact.sha256,
            "bytes": artifact.size,
            "format": artifact.format,
            "inputs": [vars(p) for p in artifact.inputs],
            "outputs": [vars(p) for p in artifact.outputs],
            **{key: artifact.notes[key] for key in _DECLARED if artifact.notes.get(key)},
        }
        for name, artifact in artifacts.items()
    }
    facts = {
        "edgecc": __version__,
        "model": {"sha256": model_sha256},
        "target": target,
        "precision": precision,
        "seed": seed,
        "options": options,
        "plan_sha256": None if plan is None else hashlib.sha256(plan.encode()).hexdigest(),
        "packages": {name: metadata.version(name) for name in _PACKAGES},
        "artifacts": files,
    }
    return json.dumps(facts, indent=1, sort_keys=True) + "\n"


def default_output(stem: str, target: str) -> Path:
    """build/<stem>-<target>."""
    return Path("build") / f"{stem}-{Path(target).stem}"


def failed(folder: Path) -> Path:
    """Where report and artifacts go when a limit is missed: DIR.failed beside DIR, even where DIR is `.`."""
    whole = folder if folder.name not in ("", "..") else folder.resolve()
    return whole.with_name(f"{whole.name}.failed")


def check_output(folder: Path) -> None:
    """Refuses, before any work is done, a folder that cannot be written.

    Raises:
        UsageError: it is a file, or lies in something that is not a folder.
    """
    parent = folder
    while not parent.exists():
        if parent.parent == parent:
            break
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UsageError(
            "this is not a folder that can be written", node=str(parent), remedy="choose another -o"
        )


def publish(folder: Path, files: Mapping[str, bytes | Path]) -> None:
    """Writes all files or none: into a hidden neighbour first, then by renames, the manifest last.

    Args:
        folder: made where it is missing.
        files: bytes, or a file to copy, by name.

    Raises:
        UsageError: the folder cannot be written.
    """
    folder = folder if folder.name not in ("", "..") else folder.resolve()
    staging: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        for name, data in files.items():
            with (staging / name).open("wb") as file:
                if isinstance(data, Path):
                    with data.open("rb") as source:
                        shutil.copyfileobj(source, file, 1 << 20)
                else:
                    file.write(data)
                file.flush()
                os.fsync(file.fileno())
        _rename(staging, folder, files)
    except OSError as error:
        raise UsageError(
            f"the output cannot be written: {error.strerror or error}",
            node=str(folder),
            remedy="choose another -o",
        ) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)


def write_file(path: Path, data: bytes) -> None:
    """Writes one file whole or not at all.

    Raises:
        UsageError: it cannot be written.
    """
    staged: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            staged = Path(file.name)
            file.write(data)
        staged.chmod(0o644)
        staged.replace(path)
    except OSError as error:
        if staged is not None:
            staged.unlink(missing_ok=True)
        raise UsageError(
            f"the output cannot be written: {error.strerror or error}",
            node=str(path),
            remedy="choose another -o",
        ) from error


def _rename(staging: Path, folder: Path, names: Iterable[str]) -> None:
    if not folder.exists():
        staging.chmod(0o755)
        staging.rename(folder)
        return
    (folder / MANIFEST).unlink(missing_ok=True)  # what it vouched for is about to change
    for name in sorted(names, key=lambda n: n == MANIFEST):
        (staging / name).replace(folder / name)
