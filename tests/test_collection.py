"""Garbage is looked for seldom while a network is worked on, and as before afterwards."""

import gc

import pytest

from edgecc.collection import rare_collections


@pytest.mark.parametrize("before", [(700, 10, 10), (500_000, 5, 5), (0, 10, 10)])
def test_thresholds_are_raised_and_put_back(before: tuple[int, int, int]) -> None:
    own = gc.get_threshold()
    gc.set_threshold(*before)
    try:
        with pytest.raises(ValueError, match="stop"), rare_collections():  # noqa: PT012
            inside = gc.get_threshold()
            raise ValueError("stop")
        assert gc.get_threshold() == before
    finally:
        gc.set_threshold(*own)
    assert inside[1:] == before[1:]
    assert inside[0] == 0 if before[0] == 0 else inside[0] >= max(before[0], 100_000)
