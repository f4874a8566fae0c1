"""What calibration watches leaves the network as a few elements, and says the same as whole values would."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import pytest

from edgecc import ir
from edgecc.calibration.columns import Columns
from edgecc.calibration.extremes import is_rectified
from edgecc.calibration.least_error import COLUMNS, LeastError
from edgecc.calibration.moments import collect_moments
from edgecc.calibration.observers import observed_values
from edgecc.importer import load
from edgecc.runtime.ort import OrtRunner

Network = Callable[..., ir.Model]
Sample = dict[str, ir.Array]
SHAPES = {"w": (8, 3, 3, 3), "d": (8, 1, 3, 3), "s": (8,), "t": (8,), "k": (8, 4)}
BODY = """
    a = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, w)
    b = Relu(a)
    c = Conv<kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2], group=8>(b, d)
    e = InstanceNormalization(c, s, t)
    f = GlobalAveragePool(e)
    h = Flatten(f)
    y = Gemm(h, k)
"""


@pytest.fixture
def network(parse: Any) -> Network:
    random = np.random.default_rng(1)
    weights = {name: random.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}

    def make(batch: int | str) -> ir.Model:
        text = f"g (float[{batch},3,32,32] x) => (float[{batch},4] y) {{ {BODY} }}"
        return load(parse(text, constants=weights))

    return make


def samples(batch: int) -> list[Sample]:
    random = np.random.default_rng(2)
    return [{"x": random.standard_normal((batch, 3, 32, 32)).astype(np.float32)} for _ in range(20)]


def watched(model: ir.Model) -> tuple[list[ir.Value], LeastError]:
    values = observed_values(model)
    rectified = [str(v.name) for v in values if is_rectified(v)]
    names = [str(v.name) for v in values]
    return values, LeastError(names, ["x", "y"], fence=1.25, relative=True, rectified=rectified)


@pytest.mark.parametrize("batch", [1, 2, "N"])
def test_ranges_are_those_of_whole_values(network: Network, batch: int | str) -> None:
    model, data = network(batch), samples(batch if isinstance(batch, int) else 1)
    values, inside = watched(model)
    augmented, needed = inside.augmented(model, values)
    runner = OrtRunner.from_model(augmented, extra_outputs=needed)
    _, outside = watched(model)
    whole = OrtRunner.from_model(model, extra_outputs=[str(v.name) for v in values[1:]])
    for sample in data:
        inside.add(runner.run({**sample, **inside.places()}), sample)
        outside.add(whole.run(sample), sample)
    assert set(inside.ranges()) == {"x", "b", "c", "e", "f", "y"}
    assert inside.extremes() == outside.extremes()
    assert inside.ranges() == outside.ranges()


def test_images_leave_the_network_as_columns(network: Network) -> None:
    model = network(1)
    values, watch = watched(model)
    augmented, needed = watch.augmented(model, values)
    runner = OrtRunner.from_model(augmented, extra_outputs=needed)
    sizes = {spec.name: prod(int(d or 1) for d in spec.shape) for spec in runner.outputs}
    assert sorted(size for size in sizes.values() if size > 24) == [8 * COLUMNS] * 3  # of b, c and e
    assert {spec.shape for spec in runner.inputs} == {(1, 3, 32, 32), (COLUMNS,)}


@pytest.mark.parametrize("batch", [1, 2, "N"])
def test_moments_are_those_of_whole_values(
    network: Network, batch: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = network(batch), samples(batch if isinstance(batch, int) else 1)
    nodes = [node for node in model.graph if node.op_type in ("Conv", "Gemm")]
    found = [moments for _, moments in collect_moments(model, data, nodes, columns=20)]
    foreseen = []
    foresee = Columns.foresee
    monkeypatch.setattr(Columns, "foresee", lambda *a: foreseen.append(foresee(*a)))
    expected = [moments for _, moments in collect_moments(model, data, nodes, columns=20)]
    taken = None if batch == 2 else 16 * 9  # few of layers with small sums
    assert foreseen == [taken, taken, None]
    for one, other in zip(found, expected, strict=True):
        assert one.count == other.count
        assert np.array_equal(one.second, other.second)
        assert np.array_equal(one.mean, other.mean)
