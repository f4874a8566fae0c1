"""The original's answers kept in a file, so that a large original and its artifact need not be loaded at once."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import IO

import numpy as np

from edgecc import ir
from edgecc.ir import Array
from edgecc.runtime import Runner, TensorSpec


class Recorded:
    """What a runner answered to the samples of a dataset, in order.

    Attributes:
        inputs, outputs: of the runner.
    """

    def __init__(self, runner: Runner, dataset: Iterable[Mapping[str, Array]]) -> None:
        """Runs every sample; the runner is not kept."""
        self.inputs: tuple[TensorSpec, ...] = runner.inputs
        self.outputs: tuple[TensorSpec, ...] = runner.outputs
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - ends with this object
        self._texts: list[Array] = []  # strings, which are objects to numpy, stay in memory
        self._samples = 0
        for feeds in dataset:
            answers = runner.run(feeds)
            for spec in self.outputs:
                if answers[spec.name].dtype == object:
                    self._texts.append(answers[spec.name])
                else:
                    np.save(self._file, answers[spec.name], allow_pickle=False)
            self._samples += 1

    def __iter__(self) -> Iterator[dict[str, Array]]:
        place, texts = 0, iter(self._texts)
        for _ in range(self._samples):
            self._file.seek(place)
            yield {
                spec.name: next(texts) if spec.dtype == "object" else np.load(self._file, allow_pickle=False)
                for spec in self.outputs
            }
            place = self._file.tell()

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Not possible: the network is gone."""
        raise NotImplementedError("answers to other samples were not recorded")


def reference_runner(
    model: ir.Model,
    dataset: Iterable[Mapping[str, Array]],
    *,
    threads: int | None = None,
    optimize: bool = True,
) -> Runner:
    """The original, loaded; of one whose weights are large only its answers to `dataset`, which `compare` takes too.

    Raises:
        ModelError: the runtime cannot load or run it.
    """
    from edgecc.runtime.ort import OrtRunner

    runner = OrtRunner.from_model(model, threads=threads, optimize=optimize)
    if ir.weight_bytes(model) < ir.LARGE_BYTES:
        return runner
    recorded = Recorded(runner, dataset)
    del runner
    ir.release(model)
    return recorded
