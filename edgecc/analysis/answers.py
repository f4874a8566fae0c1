"""How much of what a network answers becomes noise when something in it errs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from edgecc import ir

# Noise of an output that is nearly zero, as a share of it, is counted up to here.
_MOST = 1e6

Sample = Mapping[str, ir.Array]


class Answers:
    """What a network answers to some samples, with which other answers to them are compared."""

    def __init__(self, wanted: Sequence[Sample], names: Sequence[str]) -> None:
        """Keeps the answers.

        Args:
            wanted: to each sample; may hold other values, too.
            names: of the outputs that are compared.
        """
        self._wanted, self._names = wanted, names
        self._power = [sum(_power(answer[name]) for answer in wanted) for name in names]

    def noise(self, got: Iterable[Sample]) -> tuple[float, ...]:
        """The power of the error at each output, as a share of the output's own power.

        Args:
            got: in the place of each of the answers; an output that is missing does not err.
        """
        noise = np.zeros(len(self._names))
        for wanted, found in zip(self._wanted, got, strict=True):
            noise += [_power(_error(found.get(name, wanted[name]), wanted[name])) for name in self._names]
        return tuple(min(float(n) / max(p, 1e-30), _MOST) for n, p in zip(noise, self._power, strict=True))


class Changes:
    """The floats that a network answers, and the noise in them once its constants are others."""

    def __init__(self, model: ir.Model, samples: Sequence[Sample]) -> None:
        """Runs the network on the samples, in one thread."""
        self._samples = samples
        wanted = list(self._run(model))
        names = [name for name in (wanted[0] if wanted else {}) if wanted[0][name].dtype.kind == "f"]
        self._answers = Answers(wanted, names)

    def noise(self, model: ir.Model) -> tuple[float, ...]:
        """As `Answers.noise`, of a network with the same inputs and outputs."""
        return self._answers.noise(self._run(model))

    def _run(self, model: ir.Model) -> Iterable[Sample]:
        from edgecc.runtime.ort import OrtRunner

        runner = OrtRunner.from_model(model, threads=1)
        return (runner.run(sample) for sample in self._samples)


def _error(got: ir.Array, wanted: ir.Array) -> ir.Array:
    """Where a wrong value changes how many answers there are, all of them are wrong."""
    return wanted if got.shape != wanted.shape else got.astype(np.float64) - wanted.astype(np.float64)


def _power(array: ir.Array) -> float:
    flat = array.ravel().astype(np.float64)
    flat = flat[np.isfinite(flat)]
    return float(flat @ flat)
