"""merge_slices: a chain of Slices of different axes becomes one."""

from typing import Any

import numpy as np
import pytest

from edgecc.passes.merge_slices import MergeSlices

CONSTANTS = {f"c{i}": np.array([i]) for i in range(4)} | {"cm1": np.array([-1]), "end": np.array([2**63 - 1])}


def _parse(parse: Any, body: str, more: str = "") -> Any:
    used = {name: array for name, array in CONSTANTS.items() if f" {name}" in body}
    return parse(f"g (float[N,4,8,8] x{more}) => (float[] y) {{ {body} }}", 21, used)


def test_strided_slices_of_two_axes(parse: Any, rewrite: Any) -> None:
    body = "a = Slice(x, c0, end, c2, c2) y = Slice(a, c1, end, cm1, c2)"
    result = rewrite(_parse(parse, body), MergeSlices())
    assert result.lines == ["y = Slice (x, y_starts, y_ends, y_axes, y_steps)"]
    parts = [result.constant(f"y_{part}").tolist() for part in ("starts", "ends", "axes", "steps")]
    assert parts == [[0, 1], [2**63 - 1] * 2, [2, 3], [2, 2]]


def test_three_in_a_row(parse: Any, rewrite: Any) -> None:
    body = "a = Slice(x, c0, c3, c1) b = Slice(a, c0, end, c2, c2) y = Slice(b, c0, end, c3, c2)"
    result = rewrite(_parse(parse, body), MergeSlices())
    assert len(result.lines) == 1
    assert result.counts == [2]


NEAR_MISSES: dict[str, tuple[str, str]] = {
    "same axis": ("a = Slice(x, c1, end, c2) y = Slice(a, c1, end, c2)", "both slice the same axis"),
    "read elsewhere": (
        "a = Slice(x, c0, end, c2, c2) b = Slice(a, c0, c1, c3) y = Add(a, b)",
        "between the two is read elsewhere",
    ),
    "computed": ("a = Slice(x, c0, s, c2) y = Slice(a, c1, end, c3)", "a range is computed while running"),
}


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_near_misses_are_refused_with_a_reason(parse: Any, rewrite: Any, case: str) -> None:
    body, reason = NEAR_MISSES[case]
    more = ", int64[1] s" if case == "computed" else ""
    model = _parse(parse, body, more)
    result = rewrite(model, MergeSlices())
    assert result.counts == [0]
    assert any(reason in given for given in result.reasons), result.reasons
