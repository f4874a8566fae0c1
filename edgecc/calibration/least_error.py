"""Ranges of activations that make the error of 8 bits least, each channel's measured by its own variance.

Layers that follow weigh channels by how much they vary: a channel of small values, read with large weights,
suffers from a coarse step as much as a wide one from being cut off. So the error of a channel counts relative
to its variance. On MobileNetV2 this ranks ranges as the network's answers do; the plain mean squared error
does not (it wants 3.3 for the stem's activations, the answers 1.6).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgecc import ir
from edgecc.calibration.extremes import Extremes
from edgecc.calibration.picked import add_index, add_picked, places

Range = tuple[float, float]

BINS = 512
# Columns (one value a channel) taken of each sample: of 7x7 values most, of 112x112 a sprinkle.
COLUMNS = 24
# Samples that are counted at once.
_BATCH = 8
# Channels whose histograms are worked on at once: some values have 100000 (normalized over all but the batch).
_CHANNELS = 4096
# The variance of a channel counts as at least this share of the channels' mean: dead channels have none.
_LEAST_VARIANCE = 1e-3
# Fractions of the extremes that are tried as ends of the range.
_FRACTIONS = np.linspace(0.1, 1.0, 37)
_STEPS = 255.0
# What is cut off counts so many times. Rounding errors are independent, so sums average them out; those of
# cutting off have one sign and come together. SQNR on other images at 8 and 16 times: MobileNetV2 (five sets of
# calibration images) 23.7, 23.6 dB; EfficientNet-Lite0 25.2, 25.2; ResNet-20 29.6, 30.0; ResNet-56 27.7, 28.1;
# ic_resnet8 28.4, 28.6; at 1 time MobileNetV2 has 22.6, ResNet-20 25.0. Beyond 32 MobileNetV2 loses half a decibel.
_CUT_OFF = 16.0


@dataclass
class _Seen:
    """What was seen of one value: extremes a sample, and a histogram a channel over [-limit, limit].

    `counts`: (channels, bins), of the smallest type that holds `count`.
    `held`: columns (channels, any) not counted yet.
    """

    counts: ir.Array = field(default_factory=lambda: np.zeros((0, BINS), np.uint8))
    limit: float = 0.0
    lows: list[float] = field(default_factory=list)
    highs: list[float] = field(default_factory=list)
    count: int = 0
    total: ir.Array | float = 0.0
    squares: ir.Array | float = 0.0
    held: list[ir.Array] = field(default_factory=list)

    def add(self, columns: ir.Array) -> None:
        """Takes columns (channels, any)."""
        self.held.append(columns)
        if len(self.held) == _BATCH:
            self.flush()

    def flush(self) -> None:
        """Counts what is held; zeros, which every range stores exactly, are left out."""
        if not self.held:
            return
        columns = np.concatenate(self.held, axis=1)
        self.held.clear()
        if not len(self.counts):
            self.counts = np.zeros((len(columns), BINS), np.uint8)
        bins = BINS
        peak = float(np.abs(columns).max(initial=0.0))
        self.limit = self.limit or peak or 1e-30
        while self.limit < peak:
            self.limit *= 2
            merged = self.counts.reshape(len(columns), bins // 2, 2).sum(axis=2, dtype=self.counts.dtype)
            self.counts[:] = 0
            self.counts[:, bins // 4 : -bins // 4] = merged
        self.count += columns.shape[1]
        if self.count > np.iinfo(self.counts.dtype).max:
            self.counts = self.counts.astype(np.min_scalar_type(self.count))
        for start in range(0, len(columns), _CHANNELS):
            some = slice(start, start + _CHANNELS)
            self.counts[some] += _counted(columns[some], self.limit).astype(self.counts.dtype)
        self.total = self.total + columns.sum(axis=1, dtype=np.float64)
        self.squares = self.squares + np.square(columns, dtype=np.float64).sum(axis=1)

    def weighted(self, *, relative: bool) -> ir.Array:
        """One histogram (bins,) of all channels; `relative`: each divided by its variance."""
        if not relative:
            return np.asarray(self.counts.sum(axis=0, dtype=np.float64))
        mean = np.asarray(self.total) / self.count
        variance = np.maximum(np.asarray(self.squares) / self.count - mean**2, 0.0)
        least = _LEAST_VARIANCE * float(variance.mean()) + 1e-30
        each = 1 / np.maximum(variance, least)
        parts = [slice(at, at + _CHANNELS) for at in range(0, len(each), _CHANNELS)]
        return np.asarray(sum(each[some] @ self.counts[some].astype(np.float64) for some in parts))


def _counted(columns: ir.Array, limit: float) -> ir.Array:
    """A histogram (channels, bins) over [-limit, limit] of columns (channels, any), without zeros."""
    bins, channels = BINS, len(columns)
    shift, scale = np.float32(limit), np.float32(bins / 2 / limit)
    index = ((columns + shift) * scale).astype(np.int32)
    flat = np.minimum(index, bins - 1) + (np.arange(channels, dtype=np.int32) * bins)[:, None]
    found = np.bincount(flat.reshape(-1), minlength=channels * bins).reshape(channels, bins)
    zero = min(int(shift * scale), bins - 1)  # rounded: perhaps one below the middle
    found[:, zero] -= (columns == 0).sum(axis=1)
    return found


class LeastError:
    """Watches a network's activations and proposes ranges; one pass over the data, in bounded memory.

    Args:
        names: of the values.
        whole: values that keep their extremes.
        fence: ends lie at most so many times beyond the upper quartile of each sample's extremes; None: anywhere.
        relative: measure the error of a channel by its variance.
        rectified: values that are never negative.
        seed: of the places taken of each sample.
    """

    def __init__(
        self,
        names: Sequence[str],
        whole: Collection[str],
        *,
        fence: float | None,
        relative: bool,
        rectified: Collection[str] = (),
        seed: int = 0,
    ) -> None:
        self.names = list(names)
        self._whole = whole
        self._fence = fence
        self._relative = relative
        self._rectified = frozenset(rectified)
        self._seen: dict[str, _Seen] = {}
        self._rng = np.random.default_rng(seed)
        self._ends: Extremes | None = None
        self._picked: dict[str, tuple[str, int]] = {}  # value -> output with its columns, places it has
        self._index: dict[int, str] = {}  # places -> input that takes the chosen ones
        self._chosen: dict[int, ir.Array] = {}  # the same places of all values of one size

    def augmented(self, model: ir.Model, values: Sequence[ir.Value]) -> tuple[ir.Model, list[str]]:
        """The network with outputs for what is watched: extremes, and of images no more than the columns taken.

        The names are of the values that are needed whole besides.

        Args:
            model: the network.
            values: of it, those that are watched.
        """
        self._ends = Extremes(values, None, ())
        copy = self._ends.augmented(model)
        graph = copy.graph
        by_name = {str(out.name): out for node in graph for out in node.outputs}
        inputs: dict[int, ir.Value] = {}
        whole = []
        for name in self.names:
            value = by_name.get(name)
            if value is None or name in self._whole:
                continue
            size = places(graph, value) if len(value.shape or ()) >= 4 else None
            if size is None or size <= COLUMNS:
                whole.append(name)
                continue
            if size not in inputs:
                inputs[size] = add_index(graph, f"edgecc_places_{size}", COLUMNS)
                self._index[size] = str(inputs[size].name)
            self._picked[name] = (add_picked(graph, value, inputs[size]), size)
        return copy, whole

    def places(self) -> dict[str, ir.Array]:
        """Chooses the places that are taken of the next sample: what the network of `augmented` is fed besides it."""
        for name in self.names:
            if name in self._picked:
                self._choose(self._picked[name][1])
        return {name: self._chosen[size] for size, name in self._index.items()}

    def _choose(self, size: int) -> ir.Array:
        if size not in self._chosen:
            self._chosen[size] = np.sort(self._rng.choice(size, COLUMNS, replace=False))
        return self._chosen[size]

    def add(self, answers: Mapping[str, ir.Array], sample: Mapping[str, ir.Array]) -> None:
        """Takes one sample's values."""
        ends: Mapping[str, Range] = {}
        if self._ends is not None:
            self._ends.add(answers, sample)
            ends = self._ends.last()
        for name in self.names:
            array = sample[name] if name in sample else answers.get(self._picked.get(name, (name,))[0])
            if name in ends:
                low, high = min(ends[name][0], 0.0), max(ends[name][1], 0.0)
            else:
                assert array is not None
                low = 0.0 if name in self._rectified else float(array.min(initial=0))
                high = float(array.max(initial=0))
            seen = self._seen.setdefault(name, _Seen())
            seen.lows.append(low)
            seen.highs.append(high)
            if name in self._whole or not np.isfinite(high - low):
                continue
            assert array is not None
            columns = array if name in self._picked else _columns(array)
            if columns.shape[1] > COLUMNS:
                columns = columns[:, self._choose(columns.shape[1])]
            seen.add(np.asarray(columns, np.float32))
        self._chosen.clear()

    def extremes(self) -> dict[str, Range]:
        """Over all samples."""
        return {name: (min(seen.lows), max(seen.highs)) for name, seen in self._seen.items()}

    def ranges(self) -> dict[str, Range]:
        """Those of least error, within the fence."""
        found = {}
        for name, seen in self._seen.items():
            low, high = min(seen.lows), max(seen.highs)
            if name not in self._whole and np.isfinite(high - low) and high > low:
                if self._fence is not None:
                    low = max(low, self._fence * float(np.quantile(seen.lows, 0.25)))
                    high = min(high, self._fence * float(np.quantile(seen.highs, 0.75)))
                seen.flush()
                weights = seen.weighted(relative=self._relative)
                low, high = least_error(weights, seen.limit, low, high, _CUT_OFF if self._relative else 1.0)
            found[name] = (low, high)
        return found


def least_error(weights: ir.Array, limit: float, low: float, high: float, cut_off: float = 1.0) -> Range:
    """The range within low..high that loses least to rounding and to cutting off.

    Args:
        weights: (bins,) of a histogram over [-limit, limit] without the values that are 0.
        limit: of the histogram.
        low, high: ends of the widest range, of which fractions are tried.
        cut_off: so many times the error of what lies outside counts.

    A step d adds d^2/12 to the squared error of what lies inside (Bennett 1948).
    """
    bins = len(weights)
    centres = (np.arange(bins) + 0.5) * (2 * limit / bins) - limit
    above = np.array([np.square(np.maximum(centres - high * f, 0)) @ weights for f in _FRACTIONS])
    below = np.array([np.square(np.maximum(low * f - centres, 0)) @ weights for f in _FRACTIONS])
    step = (high * _FRACTIONS[None, :] - low * _FRACTIONS[:, None]) / _STEPS
    error = cut_off * (below[:, None] + above[None, :]) + weights.sum() * np.square(step) / 12
    # Of equal errors (one end is 0) the last: the whole range.
    at_low, at_high = np.argwhere(error <= error.min() * (1 + 1e-9))[-1]
    return float(low * _FRACTIONS[at_low]), float(high * _FRACTIONS[at_high])


def _columns(array: ir.Array) -> ir.Array:
    """(channels, everything else): axis 1 of images, the last axis of matrices and sequences."""
    if array.ndim >= 4:
        return np.moveaxis(array, 1, 0).reshape(array.shape[1], -1)
    if array.ndim >= 2:
        return array.reshape(-1, array.shape[-1]).T
    return array.reshape(1, -1)
