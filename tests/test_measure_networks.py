"""`calibrate` with a device: networks are compiled for the target, measured, and its rates fit them."""

import json
from pathlib import Path
from typing import Any

import pytest

from edgecc import cli
from edgecc.errors import EdgeccError, UsageError
from edgecc.importer import load
from edgecc.profile import OperatorTime, Profile, measure_networks
from edgecc.profile.measure_networks import measured_rows
from edgecc.profile.predict import predict
from edgecc.target import target

MLP = Path(__file__).resolve().parents[1] / "models" / "digits_mlp.onnx"
CNN = MLP.with_name("digits_cnn.onnx")


def test_networks_are_compiled_and_measured_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mine.toml"
    words = ["calibrate", str(CNN), "--device", "local", "--target", "cortex-a72", "-o", str(out), "--json"]
    cli.main(words)
    data = json.loads(capsys.readouterr().out)
    (row,) = data["measured"]
    assert row["model"] == str(CNN)
    assert "measured here" in row["notes"][0]
    made = target(str(out))
    found = predict(load(CNN), made, runtime="LiteRT", precision="int8")
    assert found.ms == pytest.approx(row["ms"], rel=0.05)
    assert (made.latency[0].measured, made.latency[0].runtime) == (1, "LiteRT")


def profile(**words: Any) -> Profile:
    given: dict[str, Any] = {
        "runtime": "LiteRT", "runtime_version": "1", "machine": "m", "threads": 1, "runs": 5, "median_ms": 2.0,
        "p10_ms": 1.0, "p90_ms": 3.0, "min_ms": 1.0, "operators": tuple[OperatorTime, ...](), "memory_bytes": None,
        "size_bytes": 1, **words,
    }  # fmt: skip
    return Profile(**given)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, bytes, int]]:
    """A device that answers with a mean alone, and what was brought there."""
    seen = []

    def answer(place: str, path: Path, *, threads: int) -> Profile:
        seen.append((place, path.suffix, path.read_bytes()[4:8], threads))
        return profile(median_ms=None, p10_ms=None, p90_ms=None, mean_ms=1.5, notes=("it throttles",))

    monkeypatch.setattr(measure_networks, "profile_on", answer)
    return seen


def test_a_device_gets_the_artifact_with_the_threads_of_the_rates(device: list[Any]) -> None:
    rows = measured_rows([str(MLP)], "ssh://pi", target="rpi4", precision="int8", runtime=None)
    assert [(row.model, row.ms) for row in rows] == [(MLP, 1.5)]
    assert rows[0].notes[1:] == ("it throttles",)
    assert device == [("ssh://pi", ".tflite", b"TFL3", 4)]
    measured_rows([str(MLP)], "ssh://pi", target="rpi4", precision="fp32", runtime="ONNX Runtime")
    assert device[1][1] == ".onnx"


def test_wrong_use(tmp_path: Path, device: list[Any]) -> None:
    def rows(*files: str, at: str | None = "ssh://pi", of: str = "rpi4", runtime: str | None = None) -> None:
        measured_rows(files, at, target=of, precision="int8", runtime=runtime)

    with pytest.raises(UsageError, match="one CSV"):
        rows("a.csv", "b.csv", at=None)
    with pytest.raises(UsageError, match=r"as \.onnx"):
        rows(str(MLP), "a.csv")
    with pytest.raises(UsageError, match="TFLite Micro is not what runs there"):
        rows(str(MLP), of="cortex-m4")
    with pytest.raises(UsageError, match="ncnn is not what runs there"):
        rows(str(MLP), runtime="ncnn")
    with pytest.raises(EdgeccError, match="no latency table"):
        rows(str(MLP), of="x86-64")
    assert device == []


def test_a_device_without_times_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_networks, "profile_on", lambda *_, **__: object())
    with pytest.raises(UsageError, match="gives no times"):
        measured_rows([str(MLP)], "emulated://a53", target="rpi4", precision="int8", runtime=None)
