"""pool_globally: a window over the whole image is a global pool."""

from typing import Any

import pytest

from edgecc.passes.pool_globally import PoolGlobally


def _pool(parse: Any, nodes: str, image: str = "6, 5") -> Any:
    return parse(f"g (float[N, 4, {image}] x) => (float[] y) {{ {nodes} }}", 17)


@pytest.mark.parametrize("kind", ["AveragePool", "MaxPool"])
@pytest.mark.parametrize("strides", ["", ", strides = [6, 5]", ", ceil_mode = 1"])
def test_a_window_over_all(parse: Any, rewrite: Any, kind: str, strides: str) -> None:
    result = rewrite(_pool(parse, f"y = {kind}<kernel_shape = [6, 5]{strides}>(x)"), PoolGlobally())
    assert result.lines == [f"y = Global{kind} (x)"]


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ("y = AveragePool<kernel_shape = [5, 5]>(x)", None),
        ("y = AveragePool<kernel_shape = [6, 5], pads = [1, 1, 1, 1]>(x)", "padded"),
        ("y = MaxPool<kernel_shape = [6, 5], auto_pad = \"SAME_UPPER\">(x)", "padded"),
        ("m, p = MaxPool<kernel_shape = [6, 5]>(x) c = Cast<to = 1>(p) y = Add(m, c)", "places"),
    ],
)  # fmt: skip
def test_near_misses(parse: Any, rewrite: Any, nodes: str, reason: str | None) -> None:
    result = rewrite(_pool(parse, nodes), PoolGlobally())
    assert result.counts == [0]
    if reason is not None:
        assert reason in result.reasons[0]
