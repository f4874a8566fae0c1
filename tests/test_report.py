"""Reports: the JSON fits its schema, the page is self-contained and safe, tables suit any terminal."""

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgecc.artifact import Artifact, Port
from edgecc.fidelity import Fidelity, LayerFidelity, OutputFidelity
from edgecc.importer import load
from edgecc.pipeline import PassRecord, Refusal
from edgecc.profile import OperatorTime, Profile
from edgecc.report import ArtifactFacts, Report, artifact_facts, measured, model_facts, tables, terminal
from edgecc.report.html import embedded, figures, render_html
from edgecc.report.schema import jsonable

Parse = Callable[..., onnx.ModelProto]
EVIL = "</script><script>alert(1)</script>\x1b[31m[red]\u202e"


@pytest.fixture(scope="module")
def report(parse: Parse) -> Report:
    weights = np.ones((4, 3), np.float32)
    model = load(
        parse("g (float[N,4] x) => (float[N,3] y) { h = MatMul(x, w) y = Relu(h) }", constants={"w": weights})
    )
    output = OutputFidelity("y", 21.5, 0.998, 0.3, 0.02, 0.97, 0.9, 0.91)
    layers = (
        LayerFidelity(EVIL, "MatMul", 30.0, 0.1, 0.01, 40.0, "joins " + EVIL),
        LayerFidelity("y", "Relu", 200.0, 0.0, 0.0, 200.0),
    )
    fidelity = Fidelity((output,), 100, "d.npz", layers)
    rows = (
        OperatorTime(0, EVIL, "Conv <b>", 90.0, 0.9, "xnnpack"),
        OperatorTime(1, "y", "Relu", 10.0, 0.1, "builtin"),
    )
    profile = Profile("LiteRT", "2.3", "CPU", 1, 50, 0.1, 0.09, 0.12, 0.09, rows, 10_000_000, 1234)
    artifact = Artifact(
        b"x" * 1234,
        "tflite",
        "int8",
        "arm",
        (
            Port("x", (-1, 4), (-1, 4), "int8", None, 0.5, 3),
            Port("i", (1, 3, 8, 8), (1, 8, 8, 3), "float32", (0, 2, 3, 1)),
        ),
        (Port("y", (-1, 3), (-1, 3), "float32"),),
        {
            "operators": {"CONV_2D": 2, "ADD": 5},
            "transposes": [{"value": EVIL, "bytes": 4096, "reason": "the output keeps the ONNX order"}],
            "float_islands": [{"node": EVIL, "op_type": "HardSwish", "reason": "no integer kernel"}],
        },
    )
    passes = (
        PassRecord("fuse_pad", True, {}, 2, (Refusal(EVIL, "it pads with 1"),), 9, 7, 0.01, 1e-7),
        PassRecord("prune", False, {"ratio": 0.3, "path": Path("a/b")}, 0, (), 7, 7, 0.0),
    )
    return Report(
        model=model_facts(model, name="m " + EVIL, sha256="ab" * 32, size_bytes=5000, macs=12),
        target="arm",
        artifacts=(
            artifact_facts(artifact, file="m.int8.tflite", fidelity=fidelity, profile=profile),
            artifact_facts(replace(artifact, format="onnx", notes={}), file="m.int8.onnx"),
        ),
        passes=passes,
        original_profile=replace(
            profile, runtime="ONNX Runtime", operators=(), median_ms=0.4, memory_bytes=None
        ),
        options={"data": Path("d.npz"), "seed": np.int64(0), "ratio": float("nan")},
        warnings=(EVIL,),
        seconds={"import": 0.1},
        edgecc_version="0.1.0",
    )


def schema() -> dict[str, Any]:
    text = resources.files("edgecc.report").joinpath("report.schema.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def bare(report: Report) -> Report:
    """As `--no-verify --no-profile` leave it."""
    plain: list[ArtifactFacts] = [
        replace(a, fidelity=None, profile=None, transposes=(), float_islands=()) for a in report.artifacts
    ]
    return replace(report, artifacts=tuple(plain), original_profile=None, passes=(), warnings=(), options={})


def test_json_fits_the_schema(report: Report) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(schema())
    for made in (report, bare(report), replace(report, failure="SQNR is too low")):
        validator.validate(json.loads(made.to_json()))
    broken = json.loads(report.to_json())
    del broken["artifacts"][0]["fidelity"]["sqnr_db"]
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(broken)


def test_every_part_of_the_schema_is_described() -> None:
    found = schema()
    for name, part in found["$defs"].items():
        assert part["description"], name
        assert set(part["required"]) == set(part["properties"]), name


def test_json_holds_the_figures(report: Report) -> None:
    made = json.loads(report.to_json())
    assert made["model"]["operators"] == {"MatMul": 1, "Relu": 1}
    assert made["model"]["parameters"] == 12
    assert made["model"]["inputs"] == {"x": ["?", 4]}
    first, second = made["artifacts"]
    assert first["fidelity"]["drop"] == pytest.approx(1.0)
    assert list(first["operators"]) == ["ADD", "CONV_2D"]
    assert second["fidelity"] is None
    assert made["options"] == {"data": "d.npz", "seed": 0, "ratio": None}
    assert made["passes"][1]["options"] == {"ratio": 0.3, "path": "a/b"}


def test_jsonable_takes_what_options_hold() -> None:
    assert jsonable({1: (np.float32(0.5), {2}, float("inf"), None, True)}) == {
        "1": [0.5, [2], None, None, True]
    }


def test_the_page_is_self_contained_and_inert(report: Report) -> None:
    page = render_html(report)
    markup = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert "alert(1)</script>" not in markup
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in markup
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert not re.search(r"""(src|href)\s*=\s*["']?\s*(https?:)?//""", markup)
    assert page.count("<script") == page.count("</script>") == 3
    assert "Content-Security-Policy" in markup
    found = re.search(r'id="charts">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    charts = json.loads(found[1])
    assert set(charts) == {"layers", "operators0", "kernels0"}
    for name in charts:
        assert f'id="{name}"' in markup


def test_the_page_says_all_that_matters(report: Report) -> None:
    markup = re.sub(r"<script>.*?</script>", "", render_html(report), flags=re.DOTALL)
    for text in (
        "4.1× smaller", "4.00× faster", "97.0 %", "21.5 dB", "measured here", "1 thread", "it pads with 1",
        "the output keeps the ONNX order", "no integer kernel", "ratio=0.3", "0, 2, 3, 1", "d.npz", "-1×4",
        "lose most by themselves", "40.0 dB", "joins",
    ):  # fmt: skip
        assert text in markup, text


def test_a_page_without_charts_does_not_carry_plotly(report: Report) -> None:
    page = render_html(bare(report))
    assert len(page) < 30_000
    assert "<script" not in page
    assert "not verified" in page
    assert "not measured" in page


def test_a_failure_stands_on_top(report: Report) -> None:
    page = render_html(replace(bare(report), failure="SQNR is 3 dB"))
    assert page.index("SQNR is 3 dB") < page.index("Before and after")


def test_equal_layers_are_no_points_and_labels_are_escaped(report: Report) -> None:
    layers, own = figures(report)["layers"]["data"]
    assert layers["y"] == [30.0, None]
    assert own["y"] == [40.0, None]
    assert "<script" not in layers["text"][0]
    assert "Conv &lt;b&gt;" in figures(report)["kernels0"]["data"][0]["y"]


def test_layers_of_all_artifacts_share_their_places(report: Report) -> None:
    first = report.artifacts[0]

    def with_layers(*names: str) -> ArtifactFacts:
        layers = tuple(LayerFidelity(name, "Conv", 20.0, 0.1, 0.01, 30.0) for name in names)
        return replace(first, fidelity=Fidelity((), 1, "d.npz", layers))

    both = replace(report, artifacts=(with_layers("a", "c", "d"), with_layers("a", "b", "c", "e")))
    found = figures(both)["layers"]["data"]
    assert [trace["x"] for trace in found[::2]] == [[0, 2, 3], [0, 1, 2, 4]]


def test_embedded_json_cannot_end_a_script() -> None:
    text = embedded({"a": "</script><!-- &"})
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"a": "</script><!-- &"}


def test_plain_lines_are_aligned_and_clean(report: Report) -> None:
    stream = io.StringIO()
    terminal.show(tables.report_tables(report), stream)
    text = stream.getvalue()
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[red]" in text  # markup of rich is text here
    heading, *rows = text.splitlines()[1:5]
    assert heading.split() == ["size", "latency", "p10..p90", "memory", "SQNR", "agreement", "accuracy"]
    assert "5 kB" in rows[0]
    assert "91.0 %" in rows[0]
    assert rows[1].split()[:6] == ["TFLite", "int8", "1.23", "kB", "100", "µs"]
    assert "latency measured here: LiteRT 2.3, 1 thread, CPU" in text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_tables_without_markup_of_the_model(report: Report) -> None:
    stream = Terminal()
    terminal.show([*tables.report_tables(report), tables.pass_table(report)], stream)
    text = stream.getvalue()
    assert "[red]" in text
    assert "\x1b[31m[red]" not in text
    assert "fuse_pad" in text


def test_tables_of_verify_and_profile(report: Report) -> None:
    fidelity, profile = report.artifacts[0].fidelity, report.artifacts[0].profile
    assert fidelity is not None
    assert profile is not None
    stream = io.StringIO()
    terminal.show(tables.fidelity_tables(fidelity) + measured.profile_tables(profile), stream)
    text = stream.getvalue()
    for expected in (
        "21.5 dB  0.998000",
        "measured on d.npz",
        "computed by",
        "equal",
        "100 µs",
        "90.0 %",
        "xnnpack",
    ):
        assert expected in text, expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (98_496, "98.5 kB"),
        (18_842_941, "18.8 MB"),
        (2e9, "2 GB"),
    ],
)
def test_sizes(value: Any, text: str) -> None:
    assert tables.size_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0123, "12.3 µs"), (0.5, "500 µs"), (5.716, "5.72 ms"), (1234.5, "1.23 s"), (0, "0 µs")],
)
def test_times(value: Any, text: str) -> None:
    assert tables.milliseconds(value) == text
