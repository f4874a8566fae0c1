"""What the layers after make of errors: against errors that are put in."""

from typing import Any

import numpy as np
import pytest

from edgecc.calibration.dataset import input_specs, open_dataset
from edgecc.calibration.onward import onward
from edgecc.importer import load
from edgecc.runtime.ort import OrtRunner


def _random(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# What follows `e`, which is x with errors put in; the shape of x.
CASES = {
    "product": ("y = Gemm<transB = 1>(e, w)", (6,), 0.05),
    "stacked": ("y = MatMul(e, v)", (3, 6), 0.05),
    "sum": ("a = Gemm<transB = 1>(e, w) b = Gemm<transB = 1>(e, u) y = Concat<axis = 1>(a, b)", (6,), 0.05),
    "gate": ("r = Relu(e) y = Gemm<transB = 1>(r, w)", (6,), 0.1),
    "kernel": ("y = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(e, k)", (6, 16, 16), 0.15),
    "depthwise": ("y = Conv<group = 6, pads = [1, 1, 1, 1]>(e, d)", (6, 16, 16), 0.15),
    "flat": ("f = Flatten(e) y = Gemm<transB = 1>(f, long)", (6, 2, 2), 0.05),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_it_foretells_what_errors_cost(parse: Any, case: str) -> None:
    body, shape, tolerance = CASES[case]
    constants = {
        "w": _random(5, 6), "v": _random(6, 5), "u": _random(4, 6, seed=3), "k": _random(5, 6, 3, 3),
        "d": _random(6, 1, 3, 3), "long": _random(5, 24),
    }  # fmt: skip
    used = {name: array for name, array in constants.items() if f" {name})" in body}
    sizes = ",".join(map(str, shape))
    text = f"g (float[1,{sizes}] x) => (float[] y) {{ e = Neg(x) {body} }}"
    model = load(parse(text, 21, used))
    x = _random(400, *shape, seed=5)
    grams = {str(v.name): g for v, g in onward(model, open_dataset(x, input_specs(model))).items()}
    found = grams["e"]
    # Errors of unlike channels, independent in every place.
    mix = np.random.default_rng(7).standard_normal((6, 6)) * np.linspace(0.2, 2, 6)[:, None]
    axis = found.axis - 1
    noise = 1e-3 * _random(400, *shape, seed=8)
    noise = np.moveaxis(np.tensordot(noise, mix, (axis + 1, 0)), -1, axis + 1).astype(np.float32)
    runner = OrtRunner.from_model(model)
    answers, moved = (
        np.concatenate([runner.run({"x": row[None]})["y"] for row in rows]).astype(np.float64)
        for rows in (x, x - noise)
    )
    cost = ((moved - answers) ** 2).sum() / ((answers - answers.mean(axis=0)) ** 2).sum()
    places = np.moveaxis(noise, axis + 1, -1).reshape(-1, 6)
    told = np.einsum("pi,ij,pj->", places, found.matrix, places) / len(x)
    assert told == pytest.approx(cost, rel=tolerance + 0.1)
