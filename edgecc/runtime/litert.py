"""Runs TFLite files in LiteRT, with the names, layout and real values of the ONNX model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from edgecc.errors import EdgeccError, ModelError, UsageError
from edgecc.ir import Array
from edgecc.runtime import Runner, TensorSpec
from edgecc.runtime.litert_ports import (
    Bound,
    bind,
    check_identifier,
    checked_feeds,
    own_port,
    read_metadata,
    spec_of,
)
from edgecc.runtime.stderr import held_stderr


@dataclass
class LiteRtRunner:
    """A TFLite file, loaded.

    Args:
        data: the file.
        threads: of XNNPACK; None: one for each processor that this process may use.
        layers: keep every intermediate tensor readable with `tensor` (slower: no XNNPACK).
        reference: the reference kernels instead of the optimized ones (no XNNPACK either).
        like: the ONNX model, for files that edgecc did not make: its names and layouts are used, matched by
            name, position and shape.

    Raises:
        ModelError: LiteRT does not load the file.
        UsageError: `like` has an input or output that matches no tensor of the file.
    """

    data: bytes = field(repr=False)
    threads: int | None = field(default=None, kw_only=True)
    layers: bool = field(default=False, kw_only=True)
    reference: bool = field(default=False, kw_only=True)
    like: Runner | None = field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        self._interpreter = _load(self.data, self.threads or _processors(), self.layers, self.reference)
        self._facts = read_metadata(self.data)
        self._in = bind(self._interpreter.get_input_details(), "inputs", self._facts, self.like)
        self._out = bind(self._interpreter.get_output_details(), "outputs", self._facts, self.like)
        self.inputs: tuple[TensorSpec, ...] = tuple(map(spec_of, self._in))
        self.outputs: tuple[TensorSpec, ...] = tuple(map(spec_of, self._out))

    @property
    def precision(self) -> str | None:
        """What edgecc recorded in the file; None for files that it did not make."""
        found = self._facts.get("precision")
        return None if found is None else str(found)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Runs once; resizes inputs whose fed shape differs from the current one (a symbolic batch).

        Args:
            feeds: an array for every input, in the ONNX layout, real values.

        Returns:
            Every output by name, in the ONNX layout: float32, or the tensor's own type if an integer.

        Raises:
            UsageError: an input is missing or its shape does not fit.
        """
        arrays = checked_feeds(self._in, feeds)
        stored = [(b.index, b.store(array)) for b, array in zip(self._in, arrays, strict=True)]
        shapes = {d["index"]: tuple(d["shape"]) for d in self._interpreter.get_input_details()}
        try:
            resized = [(index, array) for index, array in stored if array.shape != shapes[index]]
            if resized:
                for index, array in resized:
                    self._interpreter.resize_tensor_input(index, array.shape)
                self._interpreter.allocate_tensors()
            for index, array in stored:
                self._interpreter.set_tensor(index, array)
            self._interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise EdgeccError(f"LiteRT cannot run the network: {_line(error)}") from error
        return {b.port.name: b.real(self._interpreter.get_tensor(b.index)) for b in self._out}

    @cached_property
    def _tensors(self) -> dict[str, Bound]:
        layouts = self._facts.get("layouts", {})
        bound: dict[str, Bound] = {}
        for detail in self._interpreter.get_tensor_details():
            port = own_port(detail)
            order = layouts.get(port.name)
            if order is not None:
                port = replace(port, permutation=tuple(order))
            bound.setdefault(port.name, Bound(port, detail["index"], np.dtype(detail["dtype"])))
        bound.update({b.port.name: b for b in (*self._in, *self._out)})
        return bound

    @property
    def tensor_names(self) -> frozenset[str]:
        """Names that `tensor` knows."""
        return frozenset(self._tensors)

    def tensor(self, name: str) -> Array:
        """A tensor as the last run left it: real values, ONNX layout where the file records it.

        Raises:
            UsageError: the runner was made without `layers=True`, or no tensor has that name.
        """
        if not self.layers:
            raise UsageError("intermediate tensors are kept only with layers=True", node=name)
        if name not in self._tensors:
            raise UsageError("the file has no such tensor", node=name)
        bound = self._tensors[name]
        try:
            return bound.real(self._interpreter.get_tensor(bound.index))
        except ValueError as error:
            raise UsageError(f"LiteRT does not keep this tensor: {_line(error)}", node=name) from error

    def stored(self, index: int) -> Array:
        """What a tensor of the file holds after a run; intermediate ones only with `layers=True`."""
        return np.asarray(self._interpreter.get_tensor(index))


def run_stored(data: bytes, values: Sequence[Array], threads: int = 1) -> list[Array]:
    """Runs a file once on what its input tensors hold, in their order, and gives what its outputs hold.

    Raises:
        ModelError: LiteRT does not load the file.
        EdgeccError: it does not run it.
    """
    interpreter = _load(data, threads, layers=False)
    try:
        for detail, value in zip(interpreter.get_input_details(), values, strict=True):
            interpreter.set_tensor(detail["index"], value)
        interpreter.invoke()
    except (RuntimeError, ValueError) as error:
        raise EdgeccError(f"LiteRT cannot run the network: {_line(error)}") from error
    return [np.asarray(interpreter.get_tensor(d["index"])) for d in interpreter.get_output_details()]


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Drops the notices (INFO) that C++ code writes to standard error, and lets every other line through.

    LiteRT 2.3 has no setting for them: they are written to file descriptor 2 by its logger.
    """
    lines: list[str] = []
    try:
        with held_stderr() as lines:
            yield
    finally:
        kept = [f"{line}\n".encode() for line in lines if not line.startswith("INFO:")]
        if kept:
            os.write(2, b"".join(kept))


def _load(data: bytes, threads: int, layers: bool, reference: bool = False) -> Any:
    check_identifier(data)
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    # XNNPACK computes chains without their intermediate tensors, so a runner for layers goes without it.
    resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES if layers else OpResolverType.AUTO
    resolver = OpResolverType.BUILTIN_REF if reference else resolver
    try:
        with quiet_stderr():
            interpreter = Interpreter(
                model_content=data,
                num_threads=threads,
                experimental_op_resolver_type=resolver,
                experimental_preserve_all_tensors=layers,
            )
            interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"LiteRT does not load the file: {_line(error)}") from error
    return interpreter


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
