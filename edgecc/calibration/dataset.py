"""Calibration, evaluation and random data in one shape: a re-iterable sequence of samples in the ONNX layout.

Every form in which people have data (PRODUCT.md) becomes a `Dataset`. Nothing is held in memory but one
sample: arrays are sliced, archives are read row by row, what can be read only once goes to a temporary file
while it is first read.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgecc import ir
from edgecc.calibration import fit, forms
from edgecc.calibration.labels import read_labels
from edgecc.errors import EdgeccError, UsageError
from edgecc.runtime import TensorSpec

Sample = dict[str, ir.Array]


class Dataset:
    """Samples that can be read any number of times.

    Iterating gives a dict a sample: input name -> array with the batch dimension (1 where the batch is
    symbolic), of the input's own type. `len()` raises TypeError where the number is not known before
    everything was read.

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

    An integer that the network compares with a constant, to choose between branches, takes that constant.

    Raises:
        UsageError: a dimension other than the batch is unknown, or an input is of text.
    """
    specs = input_specs(model)
    shapes = {spec.name: _static(spec) for spec in specs}
    modes = _modes(model)

    def read() -> Iterator[Sample]:
        rng = np.random.default_rng(seed)
        for _ in range(count):
            yield {
                spec.name: np.asarray(
                    rng.standard_normal(shapes[spec.name])
                    if fit.is_float(spec)
                    else np.broadcast_to(modes[spec.name], shapes[spec.name])
                    if spec.name in modes
                    else rng.integers(0, 2, shapes[spec.name]),
                    np.dtype(spec.dtype),
                )
                for spec in specs
            }

    return Dataset(read, description=f"{count} random samples, seed {seed}", count=count)


def _modes(model: ir.Model) -> dict[str, int]:
    """Of each integer input that an Equal compares with one constant for an If: that constant."""
    found: dict[str, int] = {}
    for node in model.graph:
        decides = node.op_type == "Equal" and any(r.op_type == "If" for r in ir.consumers(node.outputs[0]))
        for value, other in (node.inputs, node.inputs[::-1]) if decides else ():
            array = ir.constant(other)
            if value is not None and value.is_graph_input() and array is not None and array.size == 1:
                found.setdefault(str(value.name), int(array.reshape(-1)[0]))
    return found


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
        data: a path (.npz, .npy, folder of images), `module:function`, an array (first axis: samples), an
            iterable or generator of arrays, sequences or dicts, a function that returns one, or an object
            with `get_next()`.
        inputs: what the model takes.
        labels: a path (.npy, .npz, .txt, .tsv, .csv), or integers, one a sample.
        mean, std: every value x of the (only) float input becomes (x - mean) / std; one number or one a
            channel.

    Raises:
        UsageError: the data cannot be read, or a sample does not fit an input.
    """
    if isinstance(data, Dataset):
        return data
    source = _source(data, inputs)
    scale = fit.normalisation(inputs, mean, std)

    def read() -> Iterator[Sample]:
        for index, item in enumerate(source.read()):
            yield from fit.fitted(fit.by_name(item, inputs, index), inputs, scale, index)

    first = next(read(), None)
    if first is None:
        raise UsageError("the data holds no sample", node=source.description, remedy="give at least one")
    warnings = list(source.warnings)
    if scale is None:
        warnings += [text for spec in inputs if (text := fit.looks_unscaled(first[spec.name], spec))]
    rows = source.rows_per_sample
    found = source.labels if labels is None else read_labels(labels, source.names)
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
    if callable(getattr(data, "input_gen", None)):  # tf.lite.RepresentativeDataset keeps the function so
        data = data.input_gen
    if isinstance(data, np.ndarray):
        return forms.open_arrays({fit.only(inputs).name: data}, inputs, "an array")
    if callable(getattr(data, "get_next", None)):
        return forms.spooled(iter(data.get_next, None), inputs, "a calibration data reader", fit.by_name)
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
        return forms.spooled(data, inputs, "a generator", fit.by_name)
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
        except Exception as error:  # wrapped: it is the user's code
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


def _static(spec: TensorSpec) -> tuple[int, ...]:
    shape = tuple(1 if i == 0 and d is None else d for i, d in enumerate(spec.shape))
    if any(d is None for d in shape):
        raise UsageError(
            f"the shape {fit.shape(spec.shape)} is not known",
            node=spec.name,
            remedy="bind it with --input-shape",
        )
    if np.dtype(spec.dtype).kind not in "fiubV":
        raise UsageError(f"inputs of type {spec.dtype} cannot be made up", node=spec.name, remedy="give data")
    return tuple(d for d in shape if d is not None)
