"""Runtime against simulator: which difference is rounding, and which is a defect.

Kernels that are written to the same arithmetic (LiteRT's reference kernels, TFLite Micro) are compared in every tensor:
the first operator that differs does so on equal inputs. Fast kernels (XNNPACK) keep no tensors, and each may round the
other way; where their outputs differ by more than that, every operator is run alone on the simulated integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from edgecc.errors import EdgeccError, UsageError
from edgecc.fidelity import BitTrue, KernelAgreement
from edgecc.ir import Array
from edgecc.runtime import Runner
from edgecc.runtime.litert import LiteRtRunner, run_stored
from edgecc.runtime.tflm import MicroRunner
from edgecc.simulate.isolate import Isolator
from edgecc.simulate.runner import SimulatedRunner
from edgecc.tflite.reader import Graph, Operator

REFERENCE_SAMPLES = 16
"""On how many samples, evenly spaced, every tensor is compared: reference kernels are slow."""

Tensors = Mapping[int, Array]


@dataclass
class _Tally:
    """Differences of one set of kernels so far; steps are those of a tensor's scale."""

    compared: int = 0
    differing: int = 0
    largest: int = 0

    def add(self, wanted: Array, got: Array, scale: float | None) -> int:
        """Takes one tensor; returns how many steps the largest difference has (1 where it has no scale)."""
        if wanted.shape != got.shape:
            got = got.reshape(wanted.shape) if got.size == wanted.size else np.full_like(wanted, -1)
        differ = ~((wanted == got) | (np.isnan(wanted) & np.isnan(got)))
        count = int(np.count_nonzero(differ))
        self.compared += wanted.size
        self.differing += count
        if not count:
            return 0
        gaps = np.abs(wanted[differ].astype(np.float64) - got[differ].astype(np.float64))
        steps = int(np.rint(np.nanmax(gaps / scale))) if scale else 1
        self.largest = max(self.largest, steps)
        return steps


@dataclass
class _Exact:
    """Kernels that should equal the simulator in every tensor."""

    name: str
    runner: LiteRtRunner | MicroRunner
    tally: _Tally = field(default_factory=_Tally)
    samples: int = 0
    first: Operator | None = None

    def compare(self, feeds: Mapping[str, Array], graph: Graph, tensors: Tensors) -> None:
        """Runs one sample."""
        self.runner.run(feeds)
        self.samples += 1
        for op in graph.operators:
            for tensor in op.outputs:
                wanted = tensors[tensor.index]
                steps = self.tally.add(wanted, self.runner.stored(tensor.index), _unit(wanted))
                if steps and (self.first is None or op.number < self.first.number):
                    self.first = op

    def result(self) -> KernelAgreement:
        """What was found."""
        t, op = self.tally, self.first
        if op is None:
            text = "equal in every tensor"
        else:
            text = f"a defect: {op.label} (operator {op.number}) differs, and it is the first"
        return KernelAgreement(
            self.name, self.samples, t.compared, t.differing, t.largest, "defect" if op else "equal",
            text, op.label if op else None,
        )  # fmt: skip


@dataclass
class _Fast:
    """Kernels that may round otherwise."""

    name: str
    runner: LiteRtRunner
    tally: _Tally = field(default_factory=_Tally)
    samples: int = 0
    worst: int = 0
    tensors: Tensors = field(default_factory=dict)

    def compare(
        self,
        feeds: Mapping[str, Array],
        answers: Mapping[str, Array],
        scales: Mapping[str, float | None],
        tensors: Tensors,
    ) -> None:
        """Runs one sample; keeps the tensors of the one that differs most."""
        got = self.runner.run(feeds)
        self.samples += 1
        steps = 0
        for name, wanted in answers.items():
            each = self.tally.add(wanted, got[name], scales[name])
            steps = max(steps, each if scales[name] else 2 * each)  # without a scale one step means nothing
        if steps > self.worst:
            self.worst, self.tensors = steps, tensors

    def result(self, data: bytes, graph: Graph) -> KernelAgreement:
        """What was found; where a step does not explain it, every operator is looked at alone."""
        op: Operator | None = None
        verdict, text = ("rounding", "rounding: one step") if self.worst else ("equal", "equal")
        if self.worst > 1:
            op, steps = _worst_alone(data, graph, self.tensors)
            text = "rounding that adds up: no operator differs by more than a step by itself"
            if op is not None:
                verdict = "defect"
                text = f"a defect: {op.label} (operator {op.number}) differs by {steps} steps by itself"
        t, label = self.tally, op.label if op else None
        return KernelAgreement(
            self.name, self.samples, t.compared, t.differing, t.largest, verdict, text, label
        )


def _worst_alone(data: bytes, graph: Graph, tensors: Tensors) -> tuple[Operator | None, int]:
    """The first operator whose fast kernel differs by more than one step on equal inputs, and by how many."""
    files = Isolator(data)
    for op in graph.operators:
        if not _once(op) or any(t.dtype != "int8" for t in op.outputs):
            continue
        found = run_stored(files.file(op, tensors), [tensors[i] for i in _once(op)])
        gaps = [np.abs(tensors[t.index].astype(int) - v) for t, v in zip(op.outputs, found, strict=True)]
        steps = max(int(g.max(initial=0)) for g in gaps)
        if steps > 1:
            return op, steps
    return None, 0


def _once(op: Operator) -> list[int]:
    """Computed inputs, each once, in order."""
    return list(dict.fromkeys(t.index for t in op.inputs if t is not None and t.data is None))


def _unit(values: Array) -> float | None:
    """Integers are their own steps."""
    return 1.0 if values.dtype.kind in "iu" else None


class BitTrueRunner:
    """Answers as the simulator does, and counts where the runtime of this machine answers otherwise.

    Args:
        data: a TFLite file.
        like: the ONNX model.
        threads: of the runtime's fast kernels.
        every: each `every`-th sample is compared in all tensors.

    Raises:
        UsageError: it is not a TFLite file, or its inputs and outputs are not those of `like`.
        UnsupportedError: an operator is not simulated; all of them are named.
    """

    def __init__(self, data: bytes, *, like: Runner, threads: int | None = None, every: int = 1) -> None:
        if data[4:8] != b"TFL3":
            raise UsageError(
                "only TFLite files are simulated bit for bit",
                node="--bit-true",
                remedy="give the .tflite file",
            )
        self._data, self._every, self._samples = data, every, 0
        self._simulated = SimulatedRunner(data, like=like)
        self.inputs, self.outputs = self._simulated.inputs, self._simulated.outputs
        self._exact: list[_Exact] = []
        self._fast: list[_Fast] = []
        self._absent: list[KernelAgreement] = []
        if self._simulated.micro:
            micro = MicroRunner(data, layers=True, like=like)
            self._exact.append(_Exact("TFLite Micro", micro))
            self.precision = micro.precision
        else:
            fast = LiteRtRunner(data, threads=threads, like=like)
            self._fast.append(_Fast("LiteRT, fast kernels", fast))
            self.precision = fast.precision
            self._open_reference(like)
        self._scales = _output_scales(self._simulated)

    def _open_reference(self, like: Runner) -> None:
        name = "LiteRT, reference kernels"
        try:
            runner = LiteRtRunner(self._data, threads=1, layers=True, reference=True, like=like)
        except EdgeccError as error:  # some operators have no reference kernel
            self._absent.append(KernelAgreement(name, 0, 0, 0, 0, "absent", str(error)))
        else:
            self._exact.append(_Exact(name, runner))

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Simulates one sample, and compares.

        Raises:
            UsageError: an input is missing or its shape does not fit.
        """
        if not self._simulated.micro:
            return self._run(feeds)
        # TFLite Micro resizes nothing: of a batch it would leave the tensors of the last row.
        free = [spec.name for spec in self.inputs if spec.shape[:1] == (None,) and spec.name in feeds]
        count = min((len(feeds[name]) for name in free), default=1)
        rows = [
            self._run({n: a[i : i + 1] if n in free else a for n, a in feeds.items()}) for i in range(count)
        ]
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]} if free else rows[0]

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        tensors = self._simulated.stored(feeds)

        def keep(op: Operator, found: list[Array]) -> None:
            tensors.update({t.index: v for t, v in zip(op.outputs, found, strict=True)})

        answers = self._simulated.run(feeds, keep)
        for fast in self._fast:
            fast.compare(feeds, answers, self._scales, tensors)
        for exact in self._exact if self._samples % self._every == 0 else ():
            exact.compare(feeds, self._simulated.graph, tensors)
        self._samples += 1
        return answers

    def findings(self) -> BitTrue:
        """What the samples so far have shown."""
        graph = self._simulated.graph
        fast = [each.result(self._data, graph) for each in self._fast]
        return BitTrue((*fast, *(each.result() for each in self._exact), *self._absent))


def _output_scales(runner: SimulatedRunner) -> dict[str, float | None]:
    """The step of each output: its own scale, or that of the integers of which it is the real value."""
    graph = runner.graph
    scales = {t.index: float(t.scales[0]) for t in graph.tensors if len(t.scales) == 1}
    for op in graph.operators:
        if op.code == "DEQUANTIZE" and op.given(0).index in scales:
            scales[op.outputs[0].index] = scales[op.given(0).index]
    return {name: scales.get(index) for name, index in runner.output_tensors.items()}
