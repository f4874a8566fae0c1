"""fuse_channel_shuffle: Reshape, Transpose, Reshape that permutes channels is a Gather."""

from typing import Any

import numpy as np
import pytest

from edgecc.passes.fuse_channel_shuffle import FuseChannelShuffle


def _parse(parse: Any, body: str, batch: str, **targets: list[int]) -> Any:
    constants = {name: np.array(target) for name, target in targets.items()}
    return parse(f"g (float[{batch},6,2,2] x) => (float[] y) {{ {body} }}", 21, constants)


SHUFFLE = "a = Reshape(x, t) b = Transpose<perm = [PERM]>(a) y = Reshape(b, u)"


@pytest.mark.parametrize("batch", ["N", "1", "3"])
def test_shuffle_of_two_groups(parse: Any, rewrite: Any, batch: str) -> None:
    body = SHUFFLE.replace("PERM", "0, 2, 1, 3, 4")
    result = rewrite(_parse(parse, body, batch, t=[-1, 2, 3, 2, 2], u=[-1, 6, 2, 2]), FuseChannelShuffle())
    assert result.lines == ["y = Gather <axis: int = 1> (x, y_channels)"]
    assert result.constant("y_channels").tolist() == [0, 3, 1, 4, 2, 5]


def test_shuffle_that_joins_the_spatial_axes(parse: Any, rewrite: Any) -> None:
    body = SHUFFLE.replace("PERM", "0, 2, 1, 3")
    result = rewrite(_parse(parse, body, "2", t=[2, 3, 2, 4], u=[2, 6, 2, 2]), FuseChannelShuffle())
    assert result.constant("y_channels").tolist() == [0, 2, 4, 1, 3, 5]


def test_shuffle_that_is_split_in_halves(parse: Any, rewrite: Any) -> None:
    body = SHUFFLE.replace("PERM", "1, 0, 2").replace("y =", "c =")
    body += " d = Gather<axis = 0>(c, zero) e = Gather<axis = 0>(c, one) y = Sub(d, e)"
    model = _parse(parse, body, "1", t=[3, 2, 4], u=[2, -1, 3, 2, 2], zero=[], one=[])
    for tensor, index in zip(model.graph.initializer[2:], (0, 1), strict=True):
        tensor.CopyFrom(__import__("onnx").numpy_helper.from_array(np.array(index), tensor.name))
    result = rewrite(model, FuseChannelShuffle())
    assert [line.split(" (")[0] for line in result.lines] == ["d = Slice", "e = Slice", "y = Sub"]
    assert result.constant("e_starts").tolist() == [1]
    assert result.constant("e_steps").tolist() == [2]
    assert result.counts == [1]


NEAR_MISSES = {
    "pixel shuffle": (
        "0, 3, 1, 4, 2, 5",
        [-1, 2, 1, 3, 2, 2],
        [-1, 6, 2, 2],
        "the transpose moves spatial axes",
    ),
    "spatial": ("0, 2, 1, 3", [-1, 6, 2, 2], [-1, 6, 2, 2], "the transpose moves spatial axes"),
    "samples mix": ("1, 0, 2, 3", [2, 6, 2, 2], [2, 6, 2, 2], "no choice of channels for each sample"),
    "other shape": ("0, 2, 1, 3, 4", [-1, 2, 3, 2, 2], [-1, 6, 4], "cut through the spatial axes"),
}


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_near_misses_are_refused_with_a_reason(parse: Any, rewrite: Any, case: str) -> None:
    perm, target, last, reason = NEAR_MISSES[case]
    result = rewrite(
        _parse(parse, SHUFFLE.replace("PERM", perm), "2", t=target, u=last), FuseChannelShuffle()
    )
    assert result.counts == [0]
    assert any(reason in given for given in result.reasons), result.reasons
