"""Makes samples as users give them fit the inputs of a model, or says why they do not."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from edgecc import ir
from edgecc.calibration.images import channel_axis
from edgecc.errors import UsageError
from edgecc.runtime import TensorSpec

Sample = dict[str, ir.Array]


def by_name(item: Any, inputs: Sequence[TensorSpec], index: int) -> Sample:
    """The arrays of one item by input name: a mapping, one array an input in their order, or a bare array.

    Raises:
        UsageError: an input has no array, or there are too many.
    """
    if isinstance(item, Mapping):
        missing = [spec.name for spec in inputs if spec.name not in item]
        if missing:
            raise UsageError(
                f"sample {index} has no array for it, only for {', '.join(map(str, item)) or 'nothing'}",
                node=missing[0],
                remedy="key each sample by the names of the model's inputs",
            )
        return {spec.name: np.asarray(item[spec.name]) for spec in inputs}
    if isinstance(item, (list, tuple)) and (len(inputs) > 1 or len(item) == 1) and len(item) == len(inputs):
        return {spec.name: np.asarray(array) for spec, array in zip(inputs, item, strict=True)}
    if isinstance(item, tuple) or len(inputs) > 1:
        given = len(item) if isinstance(item, (list, tuple)) else 1
        raise UsageError(
            f"sample {index} holds {given} array(s) for the input(s) {', '.join(s.name for s in inputs)}",
            remedy="give a dict, or one array an input in the model's order; labels go to `labels`",
        )
    return {only(inputs).name: np.asarray(item)}


def fitted(
    arrays: Sample, inputs: Sequence[TensorSpec], scale: tuple[ir.Array, ir.Array] | None, index: int
) -> Iterator[Sample]:
    """One sample, or one a row where several rows are given to a model that takes them singly.

    Raises:
        UsageError: an array does not fit its input.
    """
    parts = {spec.name: _fit(arrays[spec.name], spec, index) for spec in inputs}
    count = max(len(p) for p in parts.values())
    if any(len(p) not in (1, count) for p in parts.values()):
        raise UsageError(
            f"the inputs of sample {index} differ in batch size", remedy="give equally many rows to each"
        )
    for row in range(count):
        sample = {}
        for spec in inputs:
            array = parts[spec.name][row % len(parts[spec.name])]
            if scale is not None and is_float(spec):
                array = (array - scale[0]) / scale[1]
            sample[spec.name] = _cast(array, spec, index)
        yield sample


def _fit(array: ir.Array, spec: TensorSpec, index: int) -> list[ir.Array]:
    """The array cut into pieces of the input's batch; leading dimensions of 1 are added where they lack."""
    want = spec.shape
    if array.ndim < len(want):
        array = array.reshape((1,) * (len(want) - array.ndim) + array.shape)
    if array.ndim == len(want) and all(
        w in (None, g) for w, g in zip(want[1:], array.shape[1:], strict=True)
    ):
        batch = (want[0] if want and want[0] is not None else 1) if want else 1
        if not want or array.shape[0] == batch:
            return [array]
        if array.shape[0] and array.shape[0] % batch == 0:
            return [array[i : i + batch] for i in range(0, array.shape[0], batch)]
    raise UsageError(
        f"sample {index} has the shape {shape(array.shape)}, but the model takes {shape(want)}",
        node=spec.name,
        remedy=_layout_hint(array.shape, want)
        or "give samples of that shape, in the ONNX model's own layout",
    )


def _layout_hint(got: tuple[int, ...], want: tuple[int | None, ...]) -> str | None:
    """Names the transposition that would make `got` fit, the usual case being images with channels last."""
    if len(got) != len(want):
        return None
    for order in itertools.permutations(range(1, len(got))):
        if all(w in (None, got[axis]) for w, axis in zip(want[1:], order, strict=True)):
            return (
                "the axes are in another order than the ONNX model's (data is always given in its layout):"
                f" use x.transpose({', '.join(map(str, (0, *order)))})"
            )
    return None


def _cast(array: ir.Array, spec: TensorSpec, index: int) -> ir.Array:
    dtype = np.dtype(spec.dtype)
    if array.dtype.kind in "fV" and dtype.kind in "iu" and not np.array_equal(array, np.rint(array)):
        raise UsageError(f"sample {index} holds fractions, but the model takes {dtype.name}", node=spec.name)
    if array.dtype.kind not in "fiubV":
        raise UsageError(f"sample {index} holds {array.dtype}, not numbers", node=spec.name)
    result = np.ascontiguousarray(array, dtype)
    if array.ndim == 0:
        result = result.reshape(())
    if dtype.kind == "f" and not np.isfinite(result).all():
        raise UsageError(
            f"sample {index} holds infinite or undefined values", node=spec.name, remedy="clean the data"
        )
    return result


def normalisation(
    inputs: Sequence[TensorSpec], mean: float | Sequence[float] | None, std: float | Sequence[float] | None
) -> tuple[ir.Array, ir.Array] | None:
    """Mean and standard deviation, shaped to broadcast over the float input; None where neither is given.

    Raises:
        UsageError: there is not one float input, the numbers fit no axis, or std is 0.
    """
    if mean is None and std is None:
        return None
    floats = [spec for spec in inputs if is_float(spec)]
    if len(floats) != 1:
        raise UsageError(
            "mean and std need a model with one float input", remedy="normalise the arrays beforehand"
        )
    spec = floats[0]
    pair = []
    for name, given, default in (("mean", mean, 0.0), ("std", std, 1.0)):
        value = np.atleast_1d(np.asarray(default if given is None else given, np.float32))
        if value.size > 1:
            axis = channel_axis(spec, value.size)
            if axis is None:
                raise UsageError(
                    f"{name} has {value.size} numbers, no axis of {shape(spec.shape)} has as many channels",
                    node=spec.name,
                )
            value = value.reshape([-1 if i == axis else 1 for i in range(len(spec.shape))])
        if name == "std" and not (value != 0).all():
            raise UsageError("std may not be 0", node=spec.name)
        pair.append(value)
    return pair[0], pair[1]


def looks_unscaled(array: ir.Array, spec: TensorSpec) -> str | None:
    """A warning if floats look like an image file's bytes.

    Guessed: 0..255, some past 64; whole numbers, or resized images of 1, 3 or 4 channels, which are not whole.
    """
    if not is_float(spec) or array.ndim < 3 or array.min() < 0 or not 64 < array.max() <= 255:
        return None
    whole = np.array_equal(array, np.rint(array))
    if not whole and not (array.ndim == 4 and {array.shape[1], array.shape[3]} & {1, 3, 4}):
        return None
    return (
        f"input {spec.name!r} gets numbers from {array.min():g} to {array.max():g}, as image files hold;"
        " if the network was trained on normalised values, give --mean and --std or normalise the arrays"
    )


def is_float(spec: TensorSpec) -> bool:
    """Whether the input takes floats of any width."""
    return np.dtype(spec.dtype).kind in "fV"  # V: bfloat16


def only(inputs: Sequence[TensorSpec]) -> TensorSpec:
    """The only input.

    Raises:
        UsageError: there are several.
    """
    if len(inputs) != 1:
        raise UsageError(
            f"one array is given for the inputs {', '.join(spec.name for spec in inputs)}",
            remedy="give a dict (or an .npz) keyed by their names",
        )
    return inputs[0]


def shape(shape: Iterable[int | None]) -> str:
    """As messages show it: 1x3x224x224, ? where symbolic."""
    return "x".join("?" if d is None else str(d) for d in shape) or "a scalar"
