"""Known traps of int8: each is found where it is, explained, and not seen where it is not."""

from typing import Any

import numpy as np
import pytest

from edgecc.analysis.traps import OUTLYING, UNLIKE, Spread, trap
from edgecc.importer import load

X = Spread(1.0, 0.5, np.ones(4))
WIDE = Spread(2 * UNLIKE, UNLIKE, np.full(4, 2 * UNLIKE))
SPIKY = Spread(2 * OUTLYING, 1.0, np.full(4, 2 * OUTLYING))
UNEVEN = Spread(1.0, 0.5, np.array([1.0, 0.01, 0.01, 0.02]))
KERNEL = {"w": np.ones((4, 1, 3, 3), np.float32)}
IMAGE = "float[1,4,5,5]"

CASES = [
    (f"g ({IMAGE} x, {IMAGE} z) => (float[1,8,5,5] y) {{ y = Concat<axis = 1>(x, z) }}", {"x": X, "z": WIDE}, "joins"),
    (f"g ({IMAGE} x, {IMAGE} z) => (float[1,8,5,5] y) {{ y = Concat<axis = 1>(x, z) }}", {"x": X, "z": X}, None),
    (f"g ({IMAGE} x, {IMAGE} z) => ({IMAGE} y) {{ y = Add(x, z) }}", {"x": X, "z": WIDE}, "z to 16"),
    (f"g ({IMAGE} x, {IMAGE} z) => ({IMAGE} y) {{ s = Add(x, z) y = Relu(s) }}", {"x": X, "z": WIDE}, "sums"),
    (f"g ({IMAGE} x, {IMAGE} z) => ({IMAGE} y) {{ y = Add(x, z) }}", {"x": X, "z": X, "y": SPIKY}, "48 times"),
    (f"g ({IMAGE} x, float[1,4,1,1] z) => ({IMAGE} y) {{ y = Mul(x, z) }}", {"x": X}, "squeeze-excite"),
    (f"g ({IMAGE} x) => ({IMAGE} y) {{ s = HardSigmoid(x) y = Mul(x, s) }}", {"x": X}, "hard-swish"),
    (f"g ({IMAGE} x, {IMAGE} z) => ({IMAGE} y) {{ y = Mul(x, z) }}", {"x": X, "z": X}, None),
    ("g (float[1,9] x) => (float[1,9] y) { y = Softmax(x) }", {}, "1/256"),
    (f"g ({IMAGE} x) => ({IMAGE} y) {{ y = Conv<group = 4, pads = [1,1,1,1]>(x, w) }}", {"y": UNEVEN}, "equalize"),
    (f"g ({IMAGE} x) => ({IMAGE} y) {{ y = Conv<group = 4, pads = [1,1,1,1]>(x, w) }}", {"y": X}, None),
    (f"g ({IMAGE} x) => ({IMAGE} y) {{ y = Neg(x) }}", {"x": WIDE, "y": WIDE}, None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "spreads", "said"), CASES)
def test_a_trap_is_told_from_graph_and_values(
    parse: Any, text: str, spreads: dict[str, Spread], said: str | None
) -> None:
    model = load(parse(text, constants=KERNEL if "w)" in text else {}))
    found = trap(model.graph.outputs[0], spreads)
    if said is None:
        assert found is None
    else:
        assert found is not None
        assert said in found
