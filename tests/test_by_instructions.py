"""Milliseconds predicted from instructions that were counted on an emulated core: never measured, never emulated."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import edgecc
from edgecc.analysis.workload import layers_of, total_amounts
from edgecc.errors import UsageError
from edgecc.importer import load
from edgecc.profile import figures
from edgecc.profile.by_instructions import BY_INSTRUCTIONS, predict_counted
from edgecc.profile.emulated import TIER, Emulated, LevelFound
from edgecc.profile.guest import Count
from edgecc.target import InstructionSpec, Target, target

ROOT = Path(__file__).resolve().parents[1]
NO_PRODUCTS = dict.fromkeys(("dot", "mmla", "mlal", "fmla"), 0)


def emulated(runtime: str = "LiteRT", level: str = "a72", instructions: int = 6_000_000) -> Emulated:
    count = Count(instructions, True, NO_PRODUCTS, ())
    return Emulated(runtime, "1.0", 1, (LevelFound(level, "cortex", "", (), count, {}),), None)


def device(**more: Any) -> Target:
    spec = InstructionSpec(
        runtime="LiteRT", precision="fp32", level="a72", per_cycle=1.5, error=0.2, figures=4, devices=2, source="papers"
    )  # fmt: skip
    return Target(name="board", description="", instructions=(spec,), **{"ghz": 2.0, **more})


def test_a_prediction_is_instructions_by_rate_and_clock_and_says_what_it_is() -> None:
    found = predict_counted(emulated(), "fp32", device())
    assert found.ms == pytest.approx(2.0)  # 6 M instructions, 1.5 a cycle, 2 GHz
    assert (found.low_ms, found.high_ms) == pytest.approx((1.6, 2.4))
    assert (found.tier, found.grade, found.error) == ("predicted", BY_INSTRUCTIONS, 0.2)


@pytest.mark.parametrize(
    ("found", "precision", "of", "cause"),
    [
        (emulated(level="a76"), "fp32", device(), "counted on a72"),
        (emulated(), "int8", device(), "no published figures"),
        (emulated("ONNX Runtime"), "fp32", device(), "no published figures"),
        (emulated(), "fp32", device(ghz=None), "clock"),
    ],
)
def test_what_has_no_figures_is_not_predicted(
    found: Emulated, precision: str, of: Target, cause: str
) -> None:
    with pytest.raises(UsageError, match=cause):
        predict_counted(found, precision, of)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """digits_cnn as float TFLite."""
    result = edgecc.compile(
        ROOT / "models" / "digits_cnn.onnx", precision="fp32", format="tflite", no_verify=True, no_profile=True,
        output=tmp_path,
    )  # fmt: skip
    path = result.artifacts["tflite"].path
    assert path is not None
    return path


def test_only_targets_that_are_named_have_milliseconds(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "profile_on", lambda *_, **__: emulated())
    bare = figures.figures(file, device="emulated://a72")
    assert " ms" not in "".join(map(str, bare.tables()))
    page = file.parent / "page.html"
    wanted = [target("rpi4"), target("cortex-a76"), target("rpi3")]
    found = figures.figures(file, wanted, device="emulated://a72", page=page)
    assert isinstance(found, Emulated)
    assert found.tier == TIER  # of the counts: "no time"
    (one,) = found.predictions
    spec = next(s for s in target("rpi4").instructions if s.precision == "fp32")
    assert one.target == "rpi4"
    assert one.ms == pytest.approx(6 / spec.per_cycle / 1.8)
    assert [note.split(":")[0] for note in found.notes] == ["cortex-a76", "rpi3"]
    text = "\n".join(map(str, found.tables()))
    for told in (text, page.read_text(encoding="utf-8")):
        assert "predicted" in told
        assert BY_INSTRUCTIONS in told
        assert "no milliseconds" in told
    assert json.loads(json.dumps(found.to_dict()))["predictions"][0]["tier"] == "predicted"


@pytest.fixture
def fitting(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("latency_instructions")
    for name in ("latency_instructions", "latency_model", "latency_joint", "latency_rows", "mobilenets"):
        sys.modules.pop(name, None)


def test_the_committed_rates_are_those_of_the_published_figures(shared: Path, fitting: ModuleType) -> None:
    for name, level in (("cortex-a72", "a72"), ("cortex-a53", "a53")):
        specs = target(name).instructions
        assert [(s.precision, s.level) for s in specs] == [("fp32", level), ("int8", level)]
        for spec in specs:
            of = fitting.chosen(spec.precision, level)
            assert (spec.figures, spec.devices) == (len(of), len({f.device for f in of}))
            assert spec.per_cycle == pytest.approx(fitting.rate(of), abs=1e-3)
            assert spec.error == pytest.approx(fitting.error(of, level), abs=2e-3)


def test_an_error_is_of_what_the_rate_was_not_made_of(fitting: ModuleType) -> None:
    """Two devices at 1 and 2 instructions a cycle: each predicts the other wrongly by a factor of two."""
    slow, fast = (
        fitting.Figure(d, "", "a72", "net", 10 / n, 10, True) for d, n in (("slow", 1), ("fast", 2))
    )
    assert fitting.left_out([slow, fast], "device") == {"fast": [1.0], "slow": [-0.5]}
    assert fitting.rate([slow, fast]) == pytest.approx(2**0.5)
    assert fitting.rate([slow, fast, fast]) == pytest.approx(2**0.5)  # a device counts once


@pytest.mark.parametrize(
    ("name", "macs"),
    [  # the tables of the papers
        ("mobilenet_v1_1.0", 569), ("mobilenet_v2_1.0", 300), ("mobilenet_v3_large_1.0", 219),
        ("mobilenet_v3_small_1.0", 56),
    ],
)  # fmt: skip
def test_counted_networks_have_the_operations_of_their_papers(
    name: str, macs: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    made = importlib.import_module("mobilenet_files").NETWORKS[name]()
    work = total_amounts(layers_of(load(made.SerializeToString())))
    kinds = ("conv1x1", "conv3x3", "conv3x3_odd", "conv", "depthwise", "fc")
    assert sum(work[k] for k in kinds) / 1e6 == pytest.approx(macs, rel=0.02)
