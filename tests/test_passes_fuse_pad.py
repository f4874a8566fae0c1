"""fuse_pad: padding moves into the convolution or pool that reads it, where that is the same."""

from typing import Any

import numpy as np
import pytest

from edgecc.passes.fuse_pad import FusePad

CONSTANTS = {
    "w": np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32),
    "even": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "uneven": np.array([0, 0, 0, 0, 0, 0, 1, 2]),
    "channels": np.array([0, 1, 0, 0, 0, 0, 0, 0]),
    "crop": np.array([0, 0, -1, 0, 0, 0, 0, 0]),
    "wide": np.array([0, 0, 3, 3, 0, 0, 3, 3]),
    "two": np.array([1, 2]),
    "axes": np.array([-1]),
    "nought": np.zeros((), np.float32),
    "one": np.ones((), np.float32),
    "lowest": np.full((), -np.inf, np.float32),
}


def _parse(parse: Any, body: str) -> Any:
    used = {name: array for name, array in CONSTANTS.items() if f" {name}" in body}
    return parse(f"g (float[N,3,8,8] x) => (float[] y) {{ {body} }}", 21, used)


@pytest.mark.parametrize(
    ("body", "after"),
    [
        ("p = Pad(x, even) y = Conv(p, w)", "y = Conv <pads: ints = [1, 1, 1, 1]> (x, w)"),
        ("p = Pad(x, uneven, nought) y = Conv<pads = [1, 1, 1, 1]>(p, w)",
         "y = Conv <pads: ints = [1, 1, 2, 3]> (x, w)"),
        ("p = Pad(x, two, nought, axes) y = Conv(p, w)", "y = Conv <pads: ints = [0, 1, 0, 2]> (x, w)"),
        ("p = Pad(x, even) y = AveragePool<kernel_shape = [3, 3]>(p)",
         "y = AveragePool <kernel_shape: ints = [3, 3], pads: ints = [1, 1, 1, 1],"
         " count_include_pad: int = 1> (x)"),
        ("p = Pad(x, even, lowest) y = MaxPool<kernel_shape = [3, 3]>(p)",
         "y = MaxPool <kernel_shape: ints = [3, 3], pads: ints = [1, 1, 1, 1]> (x)"),
    ],
)  # fmt: skip
def test_padding_is_fused(parse: Any, rewrite: Any, body: str, after: str) -> None:
    result = rewrite(_parse(parse, body), FusePad())
    assert result.lines == [after]
    assert result.counts == [1]


def test_zeros_before_a_max_pool_after_relu(parse: Any, rewrite: Any) -> None:
    body = "r = Relu(x) p = Pad(r, even) y = MaxPool<kernel_shape = [3, 3], strides = [2, 2]>(p)"
    assert rewrite(_parse(parse, body), FusePad()).counts == [1]


def test_every_reader_takes_the_padding(parse: Any, rewrite: Any) -> None:
    body = "p = Pad(x, even) a = Conv(p, w) b = Conv(p, w) y = Add(a, b)"
    assert len(rewrite(_parse(parse, body), FusePad()).lines) == 3


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(
    "node",
    [
        "Conv<KEY>(x, w)",
        "MaxPool<kernel_shape = [3, 2], KEY>(x)",
        "AveragePool<kernel_shape = [2, 3], KEY>(x)",
    ],
)
def test_auto_pad_is_written_out(parse: Any, rewrite: Any, mode: str, stride: int, node: str) -> None:
    node = node.replace("KEY", f'auto_pad = "{mode}", strides = [{stride}, 2]')
    result = rewrite(_parse(parse, f"y = {node}"), FusePad())
    assert result.counts == [1]
    assert "auto_pad" not in result.lines[0]


NEAR_MISSES: dict[str, tuple[str, str]] = {
    "reflect": ('p = Pad<mode = "reflect">(x, even) y = Conv(p, w)', "mode reflect repeats values"),
    "value": ("p = Pad(x, even, one) y = Conv(p, w)", "it pads with 1, a convolution with 0"),
    "channels": ("p = Pad(x, channels) y = Relu(p)", "it pads axis 1, which is not spatial"),
    "crop": ("p = Pad(x, crop) y = Conv(p, w)", "a negative pad crops"),
    "reader": ("p = Pad(x, even) a = Conv(p, w) y = Relu(p)", "Relu, which reads it, does not pad"),
    "zeros may win": (
        "p = Pad(x, even) y = MaxPool<kernel_shape = [3, 3]>(p)",
        "can be the largest in a window",
    ),
    "wide": ("p = Pad(x, wide) y = AveragePool<kernel_shape = [3, 3]>(p)", "as much as its kernel or more"),
    "own pads": (
        "p = Pad(x, even) y = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(p)",
        "the pool counts the zeros of the Pad, but not its own",
    ),
    "ceil": ("p = Pad(x, even) y = AveragePool<kernel_shape = [3, 3], ceil_mode = 1>(p)", "with ceil_mode"),
}


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_near_misses_are_refused_with_a_reason(parse: Any, rewrite: Any, case: str) -> None:
    body, reason = NEAR_MISSES[case]
    result = rewrite(_parse(parse, body), FusePad())
    assert result.counts == [0]
    assert any(reason in given for given in result.reasons), result.reasons
