"""How alike two networks answer: the figures, and the sums from which they are made."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgecc.errors import FidelityError
from edgecc.ir import Array

MAX_SQNR_DB = 200.0
"""Stands for "equal": float32 rounding ends near 150 dB, so nothing that was computed lies above."""


@dataclass(frozen=True)
class OutputFidelity:
    """One output of the artifact against the same output of the reference, over all samples.

    Attributes:
        name: of the output.
        sqnr_db: 10 log10(sum reference^2 / sum (reference - answer)^2), within +-`MAX_SQNR_DB`.
        cosine: of the angle between all answers, taken as one vector each.
        max_abs_error: largest difference of one element.
        relative_error: that difference as a fraction of the reference's largest magnitude.
        agreement: share (0 to 1) of rows with the same argmax, of equal elements for integers; None: not
            classes.
        accuracy, reference_accuracy: share (0 to 1) of rows whose argmax is the label; None without labels.
        nonfinite: elements that are NaN or infinite where the reference is finite.
        integers: whether it holds integers or booleans, which are equal or not.
        rounding: the relative error (integers: share of elements) that float32 rounding alone makes in the
            reference; measured only where a float32 artifact errs more than is allowed.
    """

    name: str
    sqnr_db: float
    cosine: float
    max_abs_error: float
    relative_error: float
    agreement: float | None = None
    accuracy: float | None = None
    reference_accuracy: float | None = None
    nonfinite: int = 0
    integers: bool = False
    rounding: float | None = None


@dataclass(frozen=True)
class LayerFidelity:
    """One intermediate value, as `OutputFidelity`.

    Attributes:
        op_type: what computes it in the original model.
        sqnr_db, max_abs_error, relative_error: with the error of all layers before it.
        own_sqnr_db: with the error of this layer alone: the original's operators on the artifact's own inputs.
        advice: why it loses much and what helps; None: no known trap.
    """

    name: str
    op_type: str
    sqnr_db: float
    max_abs_error: float
    relative_error: float
    own_sqnr_db: float
    advice: str | None = None


@dataclass(frozen=True)
class KernelAgreement:
    """A runtime's kernels against the simulator of TFLite's integer arithmetic.

    Attributes:
        kernels: which.
        samples: on how many they were compared.
        compared: numbers: of the outputs for fast kernels, of every tensor for reference kernels.
        differing: how many of them are not equal.
        largest: difference, in steps of the scale.
        verdict: "equal", "rounding", "defect", or "absent" where the kernels do not run the file.
        explanation: the verdict in words.
        operator: the one with the defect.
    """

    kernels: str
    samples: int
    compared: int
    differing: int
    largest: int
    verdict: str
    explanation: str
    operator: str | None = None


@dataclass(frozen=True)
class BitTrue:
    """What `verify --bit-true` found: the answers are the simulator's, and this is who differs from them."""

    kernels: tuple[KernelAgreement, ...]


@dataclass(frozen=True)
class Fidelity:
    """How faithfully an artifact answers. The figures of the whole are the worst over the outputs.

    Attributes:
        outputs: one entry an output, in the reference's order.
        samples: how many were compared.
        data: what they are.
        layers: intermediate values in graph order, where they were asked for.
        bit_true: runtime against simulator, where the answers are the simulator's.
    """

    outputs: tuple[OutputFidelity, ...]
    samples: int
    data: str
    layers: tuple[LayerFidelity, ...] = ()
    bit_true: BitTrue | None = None

    @property
    def sqnr_db(self) -> float:
        """In dB, the worst output's."""
        return min(o.sqnr_db for o in self.outputs)

    @property
    def cosine(self) -> float:
        """The worst output's."""
        return min(o.cosine for o in self.outputs)

    @property
    def max_abs_error(self) -> float:
        """The worst output's."""
        return max(o.max_abs_error for o in self.outputs)

    @property
    def relative_error(self) -> float:
        """The worst output's."""
        return max(o.relative_error for o in self.outputs)

    @property
    def agreement(self) -> float | None:
        """Share of equal answers (0 to 1), the worst output's; None where no output is classes."""
        return min((o.agreement for o in self.outputs if o.agreement is not None), default=None)

    @property
    def accuracy(self) -> float | None:
        """Share of right answers (0 to 1) of the artifact; None without labels."""
        return next((o.accuracy for o in self.outputs if o.accuracy is not None), None)

    @property
    def reference_accuracy(self) -> float | None:
        """Share of right answers (0 to 1) of the reference; None without labels."""
        return next((o.reference_accuracy for o in self.outputs if o.reference_accuracy is not None), None)

    @property
    def drop(self) -> float | None:
        """Points lost: of accuracy where labels were given, else 100 minus agreement in percent."""
        if self.accuracy is not None and self.reference_accuracy is not None:
            return 100 * (self.reference_accuracy - self.accuracy)
        return None if self.agreement is None else 100 * (1 - self.agreement)

    @property
    def nonfinite(self) -> int:
        """Elements that are NaN or infinite where the reference is finite."""
        return sum(o.nonfinite for o in self.outputs)

    def worst_layers(self, count: int = 10) -> tuple[LayerFidelity, ...]:
        """The layers that lose most by themselves, the worst first; layers that lose nothing are none."""
        losing = [layer for layer in self.layers if layer.own_sqnr_db < MAX_SQNR_DB]
        return tuple(sorted(losing, key=lambda layer: layer.own_sqnr_db)[:count])

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON takes it."""
        whole = ("sqnr_db", "cosine", "max_abs_error", "relative_error", "agreement", "accuracy")
        names = (*whole, "reference_accuracy", "drop", "nonfinite")
        plain = asdict(self) | {name: getattr(self, name) for name in names}
        if self.bit_true is None:  # reports of `compile` have none
            del plain["bit_true"]
        return plain


@dataclass
class Accumulator:
    """Sums over samples of one output; holds no sample."""

    name: str
    classes: bool = False
    signal: float = 0.0
    power: float = 0.0
    noise: float = 0.0
    product: float = 0.0
    max_error: float = 0.0
    max_reference: float = 0.0
    nonfinite: int = 0
    integers: bool = False
    samples: int = 0
    rows: int = 0
    same: int = 0
    labelled: int = 0
    right: int = 0
    reference_right: int = 0

    def add(self, reference: Array, answer: Array, labels: Array | None = None) -> None:
        """Takes one sample.

        Raises:
            FidelityError: the shapes differ.
        """
        reference, answer = np.asarray(reference), np.asarray(answer)
        if reference.shape != answer.shape:
            raise FidelityError(
                f"the output has shape {answer.shape} where the original has {reference.shape}",
                node=self.name,
            )
        self.samples += 1
        self._errors(reference, answer)
        if reference.dtype.kind in "iub":
            self.integers = True
            self.rows += reference.size
            self.same += int(np.count_nonzero(reference == answer))
        elif self.classes and reference.ndim:
            best, got = reference.argmax(-1).ravel(), answer.argmax(-1).ravel()
            self.rows += best.size
            self.same += int(np.count_nonzero(best == got))
            if labels is not None and labels.size == best.size:
                self.labelled += labels.size
                self.right += int(np.count_nonzero(got == labels.ravel()))
                self.reference_right += int(np.count_nonzero(best == labels.ravel()))

    def _errors(self, reference: Array, answer: Array) -> None:
        a, b = reference.ravel().astype(np.float64), answer.ravel().astype(np.float64)
        finite = np.isfinite(a)
        if not finite.all():  # what the original cannot say is not compared
            a, b = a[finite], b[finite]
        bad = ~np.isfinite(b)
        if bad.any():
            self.nonfinite += int(np.count_nonzero(bad))
            a, b = a[~bad], b[~bad]
        if not a.size:
            return
        gap = a - b
        self.signal += float(a @ a)
        self.power += float(b @ b)
        self.noise += float(gap @ gap)
        self.product += float(a @ b)
        self.max_error = max(self.max_error, float(np.abs(gap).max()))
        self.max_reference = max(self.max_reference, float(np.abs(a).max()))

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise, within +-`MAX_SQNR_DB`."""
        if self.noise == 0:
            return MAX_SQNR_DB
        ratio = 10 * np.log10(self.signal / self.noise) if self.signal else -MAX_SQNR_DB
        return float(np.clip(ratio, -MAX_SQNR_DB, MAX_SQNR_DB))

    @property
    def relative_error(self) -> float:
        """Largest difference as a fraction of the reference's largest magnitude (1e-30 where that is 0)."""
        return self.max_error / max(self.max_reference, 1e-30) if self.max_error else 0.0

    def result(self) -> OutputFidelity:
        """The figures."""
        norm = float(np.sqrt(self.signal) * np.sqrt(self.power))
        cosine = self.product / norm if norm else float(self.noise == 0)
        return OutputFidelity(
            name=self.name,
            sqnr_db=self.sqnr_db,
            cosine=min(1.0, max(-1.0, cosine)),
            max_abs_error=self.max_error,
            relative_error=self.relative_error,
            agreement=self.same / self.rows if self.rows else None,
            accuracy=self.right / self.labelled if self.labelled else None,
            reference_accuracy=self.reference_right / self.labelled if self.labelled else None,
            nonfinite=self.nonfinite,
            integers=self.integers,
        )
