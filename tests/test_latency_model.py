"""The script that fits latency rates: what it counts, and that the committed rates and errors are its own."""

import csv
import importlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgecc.analysis.latency_fit import posterior
from edgecc.target import target

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def fitting(shared: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("latency_targets")
    for name in (
        "latency_targets",
        "latency_model",
        "latency_joint",
        "latency_rows",
        "latency_counts",
        "latency_transfer",
        "mobilenets",
    ):
        sys.modules.pop(name, None)


def test_the_committed_rates_are_the_fitted_ones(fitting: object) -> None:
    """Microcontrollers and TFLite only: the whole fit takes a minute."""
    fits, rows = fitting.fits, fitting.latency_rows  # type: ignore[attr-defined]
    for name, figures, columns in (
        ("micro", rows.micro_rows(), fits.MICRO), ("tflite int8", rows.tflite_rows("int8"), fits.XNNPACK)
    ):  # fmt: skip
        found = fits.fit(figures, columns)
        for of in fitting.WANTED:  # type: ignore[attr-defined]
            tables = {(s.runtime, s.precision): s for s in target(of).latency}
            for want in fitting.wanted(of, figures if name == "micro" else []):  # type: ignore[attr-defined]
                if want.rows != name:
                    continue
                spec = tables[want.runtime, want.precision]
                known = next(row.cycles for row in figures if row.device == want.device)
                for group, log in zip(columns, found.devices[want.device], strict=True):
                    for k in group:
                        assert spec.rates[k] == pytest.approx(np.exp(log) * known.get(k, 1.0), rel=0.01)


def test_counted_cycles_tell_products_from_convolutions_where_no_figure_does(fitting: object) -> None:
    rows = fitting.latency_rows  # type: ignore[attr-defined]
    dsp, mve = (rows.latency_counts.cycles(f"CMSIS-NN kernels{of}") for of in ("", " with MVE"))
    assert dsp["fc"] / dsp["conv1x1"] == pytest.approx(20 / 8 / (101 / 64), rel=0.02)
    assert mve["fc"] == mve["conv1x1"]
    figures = [
        rows.Row("a", "one", str(n), n * dsp["conv1x1"] / 1e6, 1.0, {"conv1x1": n, "fc": 0.0}, dsp)
        for n in (1e6, 2e6, 4e6)
    ]
    asked = replace(figures[0], amounts={"fc": 1e6})
    found = fitting.fits.fit(figures, fitting.fits.MICRO)  # type: ignore[attr-defined]
    (ms,) = fitting.fits.predict(found, [asked], fitting.fits.MICRO)  # type: ignore[attr-defined]
    assert ms == pytest.approx(1e6 * dsp["fc"] / 1e6, rel=0.01)


def test_all_engines_but_that_with_mve_are_within_20_percent_on_a_network_nobody_measured(
    fitting: object,
) -> None:
    fits, rows = fitting.fits, fitting.latency_rows.micro_rows()  # type: ignore[attr-defined]
    found = fits.left_out(rows, fits.MICRO, fits.folds_anywhere(rows))
    errors: dict[str, list[float]] = {}
    for row, ms in zip(rows, found, strict=True):
        if np.isfinite(ms):
            errors.setdefault(row.family.partition(",")[0], []).append(abs(ms / row.ms - 1))
    assert len(errors) == 8
    assert {engine for engine, each in errors.items() if np.mean(each) > 0.2} == {"CMSIS-NN kernels with MVE"}


def test_a_prediction_does_not_know_the_figure_that_it_is_compared_with(fitting: object) -> None:
    fits, rows = fitting.fits, fitting.latency_rows.tflite_rows("int8")  # type: ignore[attr-defined]
    fold = {i for i, row in enumerate(rows) if row.network == rows[0].network}
    others = [replace(row, ms=10 * row.ms) if i in fold else row for i, row in enumerate(rows)]
    honest, disturbed = (fits.left_out(each, fits.XNNPACK, [fold]) for each in (rows, others))
    assert np.isfinite(honest[min(fold)])
    np.testing.assert_array_equal(honest, disturbed)


def test_the_fit_is_a_minimum_and_finds_rates_that_figures_tell(fitting: object) -> None:
    """Two devices, one twice as fast, whose figures are exact: the same shape, and each its speed."""
    joint = importlib.import_module("latency_joint").joint_fit
    amounts = np.random.default_rng(0).uniform(0.1, 1, (40, 3))
    rates = np.array([0.2, 1.0, 3.0])
    ms = amounts @ rates
    ms[20:] /= 2
    devices = ["slow"] * 20 + ["fast"] * 20
    found = joint(amounts, ms, devices, {"slow": "one", "fast": "one"}, np.log([0.3, 0.5, 2.0]))
    for name, told in (("slow", rates), ("fast", rates / 2)):
        assert amounts @ np.exp(found.devices[name]) == pytest.approx(amounts @ told, rel=0.05)
    for name, at in (("slow", slice(0, 20)), ("fast", slice(20, 40))):
        again = posterior(
            amounts[at], ms[at], found.families["one"], start=found.devices[name].copy(), rounds=500
        )
        np.testing.assert_allclose(again, found.devices[name], atol=1e-4)


def test_ncnn_in_int8_is_a_device_of_its_own_on_the_same_board(fitting: object) -> None:
    fits, rows = fitting.fits, fitting.latency_rows.ncnn_rows()  # type: ignore[attr-defined]
    parts = [[row for row in rows if fits.in_part(row, part)] for part in fits.PARTS["ncnn"]]
    assert [len(part) for part in parts] == [550, 184]
    assert not {row.device for row in parts[0]} & {row.device for row in parts[1]}
    assert {row.board for row in parts[1]} <= {row.board for row in parts[0]}
    for fold in fits.folds_there(rows):  # the other precision of a figure is not known either
        pairs = {(rows[i].board, rows[i].network) for i in fold}
        assert fold == {i for i, row in enumerate(rows) if (row.board, row.network) in pairs}


def test_the_committed_transfer_errors_are_the_measured_ones(fitting: object) -> None:
    found = fitting.transfers()  # type: ignore[attr-defined]
    assert sorted(found) == ["fp16", "fp32", "int8"]
    committed = [s for t in fitting.WANTED for s in target(t).latency if s.runtime == "ncnn"]  # type: ignore[attr-defined]
    assert len(committed) >= 10
    for spec in committed:
        measured = found[spec.precision]
        assert spec.error_other == pytest.approx(measured.error, abs=0.002)
        assert list(spec.factors) == (["LiteRT"] if spec.precision == "int8" else [])
        for factor in spec.factors.values():
            assert factor.factor == pytest.approx(measured.factor, rel=0.01)
            assert factor.error == pytest.approx(measured.error_with, abs=0.002)
            assert factor.devices == measured.devices == 7


def test_the_factor_of_a_device_is_that_of_all_others(fitting: object) -> None:
    transfer = sys.modules["latency_transfer"].transfer
    same = transfer({name: [2.0, 2.0] for name in "abcde"})
    assert (same.factor, same.error, same.error_with) == pytest.approx((0.5, 1.0, 0.0))
    assert same.gains
    two = transfer({"a": [2.0], "b": [1.0]})
    assert two.error_with == pytest.approx((1.0 + 0.5) / 2)
    assert not two.gains
    assert not transfer({"a": [2.0]}).gains


def test_engines_that_skip_channels_of_zeros_have_fewer_to_compute(fitting: object) -> None:
    """Half of the visual wake words network, as the channel counts in a submission's sources say."""
    rows = fitting.latency_rows  # type: ignore[attr-defined]
    kinds = ("conv1x1", "conv3x3", "conv3x3_odd", "conv", "depthwise", "grouped")
    work = {
        (
            row.family.split(",")[0],
            row.device.rpartition(" ")[2],
            sum(row.amounts[k] for k in kinds),
        )
        for row in rows.micro_rows()
        if row.network.endswith("vww_mbv1_0.25")
    }
    assert {
        ("X-CUBE-AI", "v1.0", 7489152),
        ("X-CUBE-AI", "v1.1", 7489152),
        ("X-CUBE-AI", "v1.1", 3742047),
    } <= work
    assert {w for e, _, w in work if e in ("Bosch", "CMSIS-NN kernels")} == {7489152}
    assert {w for e, _, w in work if e == "Skymizer ONNC"} == {3742047}


def test_the_counted_networks_are_those_that_others_counted(shared: Path) -> None:
    def rows(path: Path) -> dict[str, dict[str, str]]:
        with path.open(encoding="utf-8") as file:
            return {r["model"]: r for r in csv.DictReader(file)}

    ours, theirs = rows(BENCHMARKS / "latency_networks.csv"), rows(shared / "latency_features.csv")
    both = set(ours) & set(theirs)
    assert len(both) == 21
    for model in both:
        own, other = ({k: float(v) for k, v in of[model].items() if k != "model"} for of in (ours, theirs))
        in_groups = other["gconv_macs_M"] if model == "shufflenet" else 0.0  # 1x1: ours counts them with 1x1
        pairs = (
            (own["conv1x1"], other["conv1x1_macs_M"] + in_groups),
            (own["conv3x3"] + own["conv3x3_odd"], other["conv3x3s1_macs_M"]),
            (own["conv"], other["convKxK_macs_M"]),
            (own["weights"], other["weights_M"]),
        )
        for mine, known in pairs:
            assert mine / 1e6 == pytest.approx(known, abs=1e-4), model


@pytest.mark.parametrize(("width", "size", "classes", "macs"), [(1.0, 224, 1000, 568.7), (0.25, 96, 2, 7.49)])
def test_mobilenets_have_the_operations_of_their_papers(
    monkeypatch: pytest.MonkeyPatch, width: float, size: int, classes: int, macs: float
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    found = importlib.import_module("mobilenets").v1(width, size, classes)
    assert sum(layer.macs for layer in found) / 1e6 == pytest.approx(macs, rel=0.002)
