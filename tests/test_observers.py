"""Ranges that the observers find, against numpy."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from edgecc import ir
from edgecc.calibration.observers import FENCE, collect, observed_values
from edgecc.errors import UsageError
from edgecc.importer import load
from edgecc.runtime.ort import OrtRunner

NETWORK = """
g (float[n,2,6,6] x) => (float[m,27] y, float[n,3] p)
<float[3,2,3,3] w, float[3] b, float[3,3] v, int64[2] s> {
  c = Conv<pads = [1,1,1,1]>(x, w, b)
  r = Relu(c)
  m = MaxPool<kernel_shape = [2,2], strides = [2,2]>(r)
  t = Tanh(m)
  a = Add(t, m)
  g = GlobalAveragePool(a)
  f = Flatten(g)
  z = MatMul(f, v)
  p = Softmax(z)
  y = Reshape(a, s)
}
"""


@pytest.fixture(scope="module")
def model(parse: Any) -> ir.Model:
    rng = np.random.default_rng(0)
    return load(
        parse(
            NETWORK,
            constants={
                "w": rng.standard_normal((3, 2, 3, 3)).astype(np.float32),
                "b": rng.standard_normal(3).astype(np.float32),
                "v": rng.standard_normal((3, 3)).astype(np.float32),
                "s": np.array([-1, 27]),
            },
        )
    )


@pytest.fixture(scope="module")
def samples() -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    rows = [rng.standard_normal((1, 2, 6, 6)).astype(np.float32) for _ in range(20)]
    rows[7] *= 50  # one odd sample
    return [{"x": row} for row in rows]


@pytest.fixture(scope="module")
def seen(model: ir.Model, samples: list[dict[str, Any]]) -> dict[str, Any]:
    names = ["r", "m", "a", "g", "z", "p", "y", "t"]
    runner = OrtRunner.from_model(model, extra_outputs=names)
    runs = [runner.run(s) for s in samples]
    found = {name: [run[name] for run in runs] for name in names}
    return found | {"x": [s["x"] for s in samples]}


def test_minmax_is_exact(model: ir.Model, samples: Any, seen: Any) -> None:
    found = collect(model, samples, observer="minmax")
    assert found.samples == 20
    for name in ("x", "r", "a", "g", "z"):
        low, high = min(a.min() for a in seen[name]), max(a.max() for a in seen[name])
        np.testing.assert_allclose(found.ranges[name], (low, high), rtol=1e-5, atol=1e-6)


def test_ranges_that_follow_are_not_observed(model: ir.Model, samples: Any) -> None:
    observed = {v.name for v in observed_values(model)}
    assert observed == {"x", "r", "a", "g", "z"}  # c is replaced by r; m, f, y move values; t, p are bounded
    ranges = collect(model, samples).ranges
    assert ranges["m"] == ranges["r"]
    assert ranges["y"] == ranges["a"]
    assert ranges["t"] == (-1.0, 1.0)
    assert ranges["p"] == (0.0, 1.0)
    assert "c" not in ranges


def test_robust_stops_at_the_fence_but_keeps_inputs_and_answers(
    model: ir.Model, samples: Any, seen: Any
) -> None:
    robust, minmax = (collect(model, samples, observer=o).ranges for o in ("robust", "minmax"))
    fence = FENCE * np.quantile([a.max() for a in seen["r"]], 0.75)
    assert robust["r"][1] == pytest.approx(fence, rel=1e-5)
    assert robust["r"][1] < minmax["r"][1]
    for name in ("x", "a", "z"):  # a is the answer y in another shape, z the answer p before Softmax
        assert robust[name] == minmax[name]


def test_percentile_against_numpy(model: ir.Model, samples: Any, seen: Any) -> None:
    ranges = collect(model, samples, observer="percentile", percentile=95).ranges
    values = np.concatenate([a.reshape(-1) for a in seen["g"]])
    bin_width = 4 * np.abs(values).max() / 4096  # the limit is at most twice the peak
    spread = float(2 * bin_width + np.ptp(np.sort(values)[-4:]))
    assert ranges["g"][1] == pytest.approx(float(np.quantile(values, 0.975)), abs=spread)
    assert ranges["r"][0] == 0.0
    assert ranges["r"][1] < max(a.max() for a in seen["r"])
    assert ranges["x"] == collect(model, samples, observer="minmax").ranges["x"]


def test_data_are_streamed_and_outputs_kept_on_request(model: ir.Model, samples: Any) -> None:
    done: list[int] = []

    def stream() -> Iterator[Any]:
        for i, sample in enumerate(samples):
            assert done == list(range(1, i + 1))
            yield sample

    found = collect(model, stream(), keep_outputs=True, progress=done.append)
    assert len(found.outputs) == 20
    reference = OrtRunner.from_model(model).run(samples[3])
    assert set(found.outputs[3]) == {"y", "p"}
    np.testing.assert_allclose(found.outputs[3]["y"], reference["y"], rtol=1e-5, atol=1e-5)
    assert collect(model, samples).outputs == []


def test_network_stays_as_it_is(model: ir.Model, samples: Any) -> None:
    before = str(model)
    collect(model, samples)
    assert str(model) == before


def test_wrong_use(model: ir.Model, samples: Any) -> None:
    with pytest.raises(UsageError, match="no calibration sample"):
        collect(model, [])
    with pytest.raises(UsageError, match="observer"):
        collect(model, samples, observer="entropy")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="percentile"):
        collect(model, samples, observer="percentile", percentile=5)
