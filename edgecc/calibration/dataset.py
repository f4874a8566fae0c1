"""Calibration, evaluation and random data in one shape: a re-iterable sequence of samples in the ONNX layout.

Every form in which people have data (PRODUCT.md) becomes a `Dataset`. Nothing is held in memory but one sample: arrays
are sliced, archives are read row by row, what can be read only once goes to a temporary file while it is first read.
"""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgecc import ir
from edgecc.calibration import forms
from edgecc.errors import EdgeccError, UsageError
from edgecc.runtime import TensorSpec

InputSpec = TensorSpec
Sample = dict[str, ir.Array]


class Dataset:
    """Samples that can be read any number of times.

    Iterating gives a dict a sample: input name -> array with the batch dimension (1 where the batch is symbolic), of
    the input's own type. `len()` raises TypeError where the number is not known before everything was read.

    Attributes:
        labels: (samples,) int64, or None.
        description: what the data is, for the report.
        warnings: what looks wrong about it.
    """

    def __init__(
        self,
        read: Callable[[], Iterator[Sample]],
        *,
        description: str,
        count: int | Callable[[], int | None] | None = None,
        labels: ir.Array | None = None,
        warnings: Sequence[str] = (),
    ) -> None:
        self._read = read
        self._count = count
        self.description = description
        self.labels = labels
        self.warnings = list(warnings)

    def __iter__(self) -> Iterator[Sample]:
        return self._read()

    def __len__(self) -> int:
        count = self._count() if callable(self._count) else self._count
        if count is None:
            raise TypeError("the number of samples is known only after all were read")
        return count


def input_specs(model: ir.Model) -> tuple[TensorSpec, ...]:
    """Name, shape and type of every input that the user feeds (initializers are none)."""
    specs = []
    for value in model.graph.inputs:
        if value.name in model.graph.initializers:
            continue
        shape = ir.dims(value)
        if shape is None or value.dtype is None:
            raise UsageError(
                "the input has no known shape or type",
                node=value.name,
                remedy=f"--input-shape {value.name}=1x3x224x224",
            )
        specs.append(TensorSpec(str(value.name), shape, value.dtype.numpy().name))
    return tuple(specs)


def random_samples(model: ir.Model, count: int, seed: int) -> Dataset:
    """Seeded standard normal floats; integers are 0 or 1, which every table of indices has.

    Raises:
        UsageError: a dimension other than the batch is unknown, or an input is of text.
    """
    specs = input_specs(model)
    shapes = {spec.name: _static(spec) for spec in specs}

    def read() -> Iterator[Sample]:
        rng = np.random.default_rng(seed)
        for _ in range(count):
            yield {
                spec.name: np.asarray(
                    rng.standard_normal(shapes[spec.name])
                    if _is_float(spec)
                    else rng.integers(0, 2, shapes[spec.name]),
                    np.dtype(spec.dtype),
                )
                for spec in specs
            }

    return Dataset(read, description=f"{count} random samples, seed {seed}", count=count)


def open_dataset(
    data: Any,
    inputs: Sequence[TensorSpec],
    *,
    labels: Any = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
) -> Dataset:
    """Opens data in any of the forms of PRODUCT.md and checks its first sample.

    Args:
        data: a path (.npz, .npy, folder of images), `module:function`, an array (first axis: samples), an iterable or
            generator of arrays, sequences or dicts, a function that returns one, or an object with `get_next()`.
        inputs: what the model takes.
        labels: a path (.npy, .npz, .txt, .tsv, .csv), or integers, one a sample.
        mean, std: every value x of the (only) float input becomes (x - mean) / std; one number or one a channel.

    Raises:
        UsageError: the data cannot be read, or a sample does not fit an input.
    """
    if isinstance(data, Dataset):
        return data
    source = _source(data, inputs)
    scale = _normalisation(inputs, mean, std)

    def read() -> Iterator[Sample]:
        for index, item in enumerate(source.read()):
            yield from _samples(_by_name(item, inputs, index), inputs, scale, index)

    first = next(read(), None)
    if first is None:
        raise UsageError("the data holds no sample", node=source.description, remedy="give at least one")
    warnings = list(source.warnings)
    if scale is None:
        warnings += [text for spec in inputs if (text := _looks_unscaled(first[spec.name], spec))]
    rows = source.rows_per_sample
    found = source.labels if labels is None else forms.read_labels(labels, source.names)
    count: Any = source.count if source.spool is None else source.spool.count
    if found is not None and isinstance(count, int) and len(found) != count:
        raise UsageError(
            f"there are {len(found)} labels for {count} samples",
            node=source.description,
            remedy="give one a sample",
        )
    if isinstance(count, int) and rows > 1:
        count //= rows
    return Dataset(read, description=source.description, count=count, labels=found, warnings=warnings)


def _source(data: Any, inputs: Sequence[TensorSpec]) -> forms.Source:
    if isinstance(data, str) and ":" in data and not Path(data).exists():
        return _source_of_function(data, inputs)
    if isinstance(data, (str, Path)):
        return forms.open_path(Path(data), inputs)
    if isinstance(data, np.ndarray):
        return forms.open_arrays({_only(inputs).name: data}, inputs, "an array")
    if callable(getattr(data, "get_next", None)):
        return forms.spooled(iter(data.get_next, None), inputs, "a calibration data reader", _by_name)
    if callable(data):
        made = data()
        if not isinstance(made, Iterator):
            return _source(made, inputs)
        name = getattr(data, "__name__", "a function")
        # The generator just made serves the first reading, a fresh one each later reading.
        pending = [made]
        return forms.Source(lambda: iter(pending.pop() if pending else data()), f"samples of {name}")
    if isinstance(data, Mapping):
        arrays = {str(k): np.asarray(v) for k, v in data.items()}
        return forms.pick_arrays(arrays, inputs, "a dict of arrays")
    if isinstance(data, Iterator):
        return forms.spooled(data, inputs, "a generator", _by_name)
    if isinstance(data, Iterable):
        count = len(data) if isinstance(data, Sequence) else None
        return forms.Source(lambda: iter(data), f"a {type(data).__name__} of samples", count=count)
    raise UsageError(
        f"data of type {type(data).__name__} cannot be read",
        remedy="give a path, an array, an iterable of arrays or dicts, or a function that returns one",
    )


def _source_of_function(text: str, inputs: Sequence[TensorSpec]) -> forms.Source:
    """What `module:function` gives; whatever goes wrong in that code is told with its name."""
    found = _load_function(text)

    def guarded(step: Callable[[], Any]) -> Any:
        try:
            return step()
        except (EdgeccError, StopIteration):
            raise
        except Exception as error:
            raise UsageError(f"this function failed: {type(error).__name__}: {error}", node=text) from error

    def read() -> Iterator[Any]:
        items = iter(source.read())
        while True:
            try:
                yield guarded(lambda: next(items))
            except StopIteration:
                return

    source: forms.Source = guarded(lambda: _source(found, inputs))
    return replace(source, read=read, description=text)


def _load_function(text: str) -> Any:
    module, _, name = text.rpartition(":")
    path = list(sys.path)
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does: the user's own file lies here
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f"neither a file nor a function that can be imported ({error})",
            node=text,
            remedy="give an existing path or module:function",
        ) from error
    finally:
        sys.path[:] = path
    return found


def _by_name(item: Any, inputs: Sequence[TensorSpec], index: int) -> Sample:
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
            f"sample {index} holds {given} array(s) for {len(inputs)} input(s): {', '.join(s.name for s in inputs)}",
            remedy="give a dict, or one array an input in the model's order; labels go to `labels`",
        )
    return {_only(inputs).name: np.asarray(item)}


def _samples(
    arrays: Sample, inputs: Sequence[TensorSpec], scale: tuple[ir.Array, ir.Array] | None, index: int
) -> Iterator[Sample]:
    """One sample, or one a row where a batch of rows is given to a model that takes them singly."""
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
            if scale is not None and _is_float(spec):
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
        f"sample {index} has the shape {_shape(array.shape)}, but the model takes {_shape(want)}",
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


def _normalisation(
    inputs: Sequence[TensorSpec], mean: float | Sequence[float] | None, std: float | Sequence[float] | None
) -> tuple[ir.Array, ir.Array] | None:
    if mean is None and std is None:
        return None
    floats = [spec for spec in inputs if _is_float(spec)]
    if len(floats) != 1:
        raise UsageError(
            "mean and std need a model with one float input", remedy="normalise the arrays beforehand"
        )
    spec = floats[0]
    pair = []
    for name, given, default in (("mean", mean, 0.0), ("std", std, 1.0)):
        value = np.atleast_1d(np.asarray(default if given is None else given, np.float32))
        if value.size > 1:
            axis = forms.channel_axis(spec, value.size)
            if axis is None:
                raise UsageError(
                    f"{name} has {value.size} numbers, but no axis of {_shape(spec.shape)} has as many channels",
                    node=spec.name,
                )
            value = value.reshape([-1 if i == axis else 1 for i in range(len(spec.shape))])
        if name == "std" and not (value != 0).all():
            raise UsageError("std may not be 0", node=spec.name)
        pair.append(value)
    return pair[0], pair[1]


def _looks_unscaled(array: ir.Array, spec: TensorSpec) -> str | None:
    """Whether floats look like the bytes of an image file. Guessed: whole numbers in 0..255 that reach past 64."""
    if not _is_float(spec) or array.ndim < 3 or array.min() < 0 or not 64 < array.max() <= 255:
        return None
    if not np.array_equal(array, np.rint(array)):
        return None
    return (
        f"input {spec.name!r} is fed whole numbers from {array.min():g} to {array.max():g}, as they stand in an image"
        " file; if the network was trained on normalised values, give --mean and --std (or normalise the arrays)"
    )


def _static(spec: TensorSpec) -> tuple[int, ...]:
    shape = tuple(1 if i == 0 and d is None else d for i, d in enumerate(spec.shape))
    if any(d is None for d in shape):
        raise UsageError(
            f"the shape {_shape(spec.shape)} is not known",
            node=spec.name,
            remedy="bind it with --input-shape",
        )
    if np.dtype(spec.dtype).kind not in "fiubV":
        raise UsageError(f"inputs of type {spec.dtype} cannot be made up", node=spec.name, remedy="give data")
    return tuple(d for d in shape if d is not None)


def _is_float(spec: TensorSpec) -> bool:
    return np.dtype(spec.dtype).kind in "fV"  # V: bfloat16


def _only(inputs: Sequence[TensorSpec]) -> TensorSpec:
    if len(inputs) != 1:
        raise UsageError(
            f"one array is given for the inputs {', '.join(spec.name for spec in inputs)}",
            remedy="give a dict (or an .npz) keyed by their names",
        )
    return inputs[0]


def _shape(shape: Iterable[int | None]) -> str:
    return "x".join("?" if d is None else str(d) for d in shape) or "a scalar"
