"""What lies on disk: all of it or nothing, the manifest last, and the manifest true."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgecc
from edgecc import output
from edgecc.errors import UsageError

MODELS = Path(__file__).resolve().parents[1] / "models"
MLP = MODELS / "digits_mlp.onnx"
OLD = {"a.tflite": b"old a", "b.onnx": b"old b", output.MANIFEST: b"old manifest"}
NEW = {"a.tflite": b"new a", "b.onnx": b"new b", output.MANIFEST: b"new manifest"}


def read(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_labels_in_memory_turn_agreement_into_accuracy(tmp_path: Path) -> None:
    data = np.load(MODELS / "digits_mlp_test.npz")
    words = {
        "eval_data": data["pixels"],
        "labels": data["labels"],
        "no_profile": True,
        "output": tmp_path / "o",
    }
    result = edgecc.compile(MLP, format="onnx", precision="fp32", **words)
    assert result.fidelity is not None
    assert result.fidelity.accuracy == result.fidelity.reference_accuracy
    assert result.fidelity.accuracy is not None
    with pytest.raises(UsageError, match="labels for"):
        edgecc.compile(MLP, **{**words, "labels": data["labels"][:3]})


def test_publish_makes_the_folder_and_leaves_no_trace(tmp_path: Path) -> None:
    folder = tmp_path / "x" / "y"
    output.publish(folder, NEW)
    assert read(folder) == NEW
    assert [p.name for p in folder.parent.iterdir()] == ["y"]
    assert (folder.stat().st_mode & 0o555) == 0o555  # others may read it, unlike a temporary folder


def test_publish_keeps_what_it_does_not_know(tmp_path: Path) -> None:
    output.publish(tmp_path / "y", {**OLD, "notes.txt": b"mine"})
    output.publish(tmp_path / "y", NEW)
    assert read(tmp_path / "y") == {**NEW, "notes.txt": b"mine"}


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_a_crash_between_two_renames_leaves_no_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: int
) -> None:
    folder = tmp_path / "y"
    output.publish(folder, OLD)
    count = iter(range(10))
    replace = Path.replace

    def failing(self: Path, target: Path) -> Path:
        if next(count) == broken:
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(UsageError, match="No space left"):
        output.publish(folder, NEW)
    found = read(folder)
    assert output.MANIFEST not in found
    assert all(found[name] in (OLD[name], NEW[name]) for name in found)  # each file whole, old or new
    assert [p.name for p in tmp_path.iterdir()] == ["y"]


def test_a_crash_while_staging_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "y"
    output.publish(folder, OLD)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="No space left"):
        output.publish(folder, NEW)
    assert read(folder) == OLD
    assert [p.name for p in tmp_path.iterdir()] == ["y"]


def test_the_current_folder_can_be_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    output.publish(Path(), NEW)
    assert read(tmp_path / "here") == NEW
    assert output.failed(Path()) == tmp_path / "here.failed"
    assert output.failed(Path("a/b")) == Path("a/b.failed")


def test_a_file_in_the_way_is_told_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "sub"):
        with pytest.raises(UsageError, match="not a folder"):
            output.check_output(folder)
    output.check_output(tmp_path / "new" / "deep")


def compiled(folder: Path, **more: Any) -> dict[str, Any]:
    edgecc.compile(
        MLP, data=MODELS / "digits_mlp_calib.npz", no_profile=True, no_verify=True, output=folder, **more
    )
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return manifest


def test_the_manifest_vouches_for_the_files_beside_it(tmp_path: Path) -> None:
    found = compiled(tmp_path / "o", seed=3)
    assert set(found["artifacts"]) == {"digits_mlp.int8.tflite", "digits_mlp.int8.onnx"}
    for name, facts in found["artifacts"].items():
        data = (tmp_path / "o" / name).read_bytes()
        assert facts["sha256"] == hashlib.sha256(data).hexdigest()
        assert facts["bytes"] == len(data)
        assert [p["name"] for p in facts["inputs"]] == ["pixels"]
        assert [p["name"] for p in facts["outputs"]] == ["probabilities"]
    plan = (tmp_path / "o" / "plan.json").read_bytes()
    assert found["plan_sha256"] == hashlib.sha256(plan).hexdigest()
    assert found["model"]["sha256"] == hashlib.sha256(MLP.read_bytes()).hexdigest()
    assert found["edgecc"] == edgecc.__version__
    assert (found["target"], found["precision"], found["seed"]) == ("arm", "int8", 3)
    assert found["options"]["io-layout"] == "auto"
    assert found["options"]["data"] == "104 samples of digits_mlp_calib.npz"
    assert all(found["packages"].values())


def test_where_and_how_fast_do_not_change_the_manifest(tmp_path: Path) -> None:
    first = compiled(tmp_path / "a")
    second = compiled(tmp_path / "b", threads=2, dump_ir=tmp_path / "ir")
    assert first == second
    assert str(tmp_path) not in json.dumps(first)


def test_a_rejected_artifact_has_no_manifest(tmp_path: Path) -> None:
    words: dict[str, Any] = {
        "format": "tflite",
        "no_profile": True,
        "no_verify": True,
        "output": tmp_path / "o",
        "max_size": "1KB",
    }
    with pytest.raises(edgecc.EdgeccError) as caught:
        edgecc.compile(MLP, **words)
    assert caught.value.exit_code == 5
    assert {p.name for p in tmp_path.iterdir()} == {"o.failed"}
    assert "manifest.json" not in {p.name for p in (tmp_path / "o.failed").iterdir()}


def test_a_failed_night_leaves_the_good_one_alone(tmp_path: Path) -> None:
    compiled(tmp_path / "o")
    before = read(tmp_path / "o")
    with pytest.raises(edgecc.EdgeccError):
        compiled(tmp_path / "o", max_size="1KB")
    assert read(tmp_path / "o") == before
