"""Reference against artifact, on data (`edgecc verify`)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from edgecc import ir
from edgecc.errors import UsageError
from edgecc.fidelity import (
    Accumulator,
    Fidelity,
    LayerFidelity,
    OutputFidelity,
)
from edgecc.ir import Array
from edgecc.layerwise import compare_layers, open_tflite, read_compiled
from edgecc.limits import FLOAT32, check_limits, class_outputs, float32_excess
from edgecc.rounding import rounding_noise
from edgecc.runtime import Runner

if TYPE_CHECKING:
    import onnx

    from edgecc.artifact import Artifact
    from edgecc.calibration.dataset import Dataset
    from edgecc.simulate.agreement import BitTrueRunner

__all__ = [
    "Fidelity",
    "LayerFidelity",
    "OutputFidelity",
    "check_limits",
    "class_outputs",
    "compare",
    "compare_all",
    "compare_layers",
    "open_candidate",
    "verify",
    "weigh_rounding",
]

RANDOM_SAMPLES = 16
"""Made up where there is no data: enough for an SQNR that is steady within about 0.5 dB."""

Answers = Mapping[str, Array]
Progress = Callable[[int], None]


def compare(
    reference: Runner | Iterable[Answers],
    candidate: Runner,
    dataset: Dataset,
    *,
    classes: Collection[str] = (),
    labels: Array | None = None,
    progress: Progress | None = None,
) -> Fidelity:
    """One candidate against the reference: see `compare_all`."""
    return compare_all(
        reference, {"": candidate}, dataset, classes=classes, labels=labels, progress=progress
    )[""]


def compare_all(
    reference: Runner | Iterable[Answers],
    candidates: Mapping[str, Runner],
    dataset: Dataset,
    *,
    classes: Collection[str] = (),
    labels: Array | None = None,
    progress: Progress | None = None,
) -> dict[str, Fidelity]:
    """Runs every candidate on every sample, once, in bounded memory; all of them at the same time.

    Args:
        reference: the original, or its answers to the samples of `dataset`, in order.
        candidates: by any key; one thread each is fastest where there are several.
        dataset: samples in the ONNX layout.
        classes: outputs whose argmax on the last axis is the answer (see `class_outputs`).
        labels: (rows,) integers, one a row of each sample's batch, in order; None: the dataset's, if any.
        progress: called with the number of samples done.

    Raises:
        UsageError: no samples, too few cached answers or labels, labels that are no classes, or a missing output.
        FidelityError: an output has another shape than the reference's.
    """
    labels = dataset.labels if labels is None else np.asarray(labels)
    if labels is not None and not classes:
        raise UsageError(
            "there are labels, but no output of the network is scores of classes",
            remedy="leave the labels out",
        )
    sums: dict[str, dict[str, Accumulator]] = {key: {} for key in candidates}
    cached = iter(reference) if isinstance(reference, Iterable) else None
    samples = rows = 0
    with ThreadPoolExecutor(max(1, len(candidates))) as pool:  # both runtimes let go of Python's lock
        for feeds in dataset:
            pending = [pool.submit(runner.run, feeds) for runner in candidates.values()]
            wanted = next(cached, None) if cached is not None else cast(Runner, reference).run(feeds)
            if wanted is None:
                raise UsageError("there are fewer answers of the reference than samples")
            own = _labels_of(labels, rows, wanted, classes)
            rows += 0 if own is None else len(own)
            for per_output, answer in zip(sums.values(), pending, strict=True):
                _add(per_output, wanted, answer.result(), classes, own)
            samples += 1
            if progress:
                progress(samples)
    if not samples:
        raise UsageError("there is no sample to compare the artifact on", node=dataset.description)
    return {
        key: Fidelity(tuple(s.result() for s in per_output.values()), samples, dataset.description)
        for key, per_output in sums.items()
    }


def _labels_of(labels: Array | None, start: int, wanted: Answers, classes: Collection[str]) -> Array | None:
    if labels is None:
        return None
    head = next((wanted[name] for name in wanted if name in classes), None)
    if head is None:
        return None
    count = len(head) if head.ndim else 1
    if start + count > len(labels):
        raise UsageError(f"there are {len(labels)} labels, fewer than samples", remedy="give one a sample")
    own = labels[start : start + count]
    if head.ndim and own.max(initial=0) >= head.shape[-1]:
        raise UsageError(
            f"there is a label {own.max()}, but the network tells {head.shape[-1]} classes apart",
            remedy="count classes from 0, in the order of the network's outputs",
        )
    return own


def _add(
    sums: dict[str, Accumulator],
    wanted: Answers,
    got: Answers,
    classes: Collection[str],
    labels: Array | None,
) -> None:
    first_classes = next((name for name in wanted if name in classes), None)
    for name, reference in wanted.items():
        if name not in got:
            raise UsageError(f"the compiled file has no such output; it has: {', '.join(got)}", node=name)
        entry = sums.setdefault(name, Accumulator(name, classes=name in classes))
        entry.add(reference, got[name], labels if name == first_classes else None)


def verify(
    original: str | Path | bytes | onnx.ModelProto | ir.Model,
    compiled: str | Path | Artifact,
    *,
    data: Any = None,
    labels: Any = None,
    layers: bool = False,
    bit_true: bool = False,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    input_shape: Mapping[str, Sequence[int]] | None = None,
    classes: Collection[str] | None = None,
    precision: str | None = None,
    min_agreement: float | None = None,
    min_sqnr: float | None = None,
    max_drop: float | None = None,
    threads: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Fidelity:
    """Measures how faithfully a compiled file answers like the original, per output and on request per layer.

    Args:
        original: the float ONNX model, in any form that `edgecc.load` takes.
        compiled: an .onnx or .tflite file, of edgecc or of another converter.
        data: any form that `open_dataset` takes, in the ONNX model's layout; None: seeded random samples.
        labels: one a sample; turns agreement into accuracy.
        layers: also compare every intermediate value that both have under one name.
        bit_true: the answers of a TFLite file are computed in integers as a device without floating point does,
            and the runtime's kernels are compared with them (`Fidelity.bit_true`).
        mean, std: normalisation of the data.
        input_shape: binds symbolic dimensions of the original.
        classes: names of the outputs that are scores of classes; None: found in the graph.
        precision: of the compiled file; None: what its metadata says.
        min_agreement, min_sqnr, max_drop: limits, as in `check_limits`.
        threads: of each of the two runtimes, which run at the same time; None: one.
        seed: of the random samples.
        progress: called with the number of samples done.

    Raises:
        ModelError: a file cannot be read.
        UsageError: the data does not fit, or the two files have different inputs and outputs.
        FidelityError: a limit is missed, or the compiled file answers NaN where the original does not.
    """
    from edgecc.calibration.dataset import input_specs, open_dataset, random_samples
    from edgecc.importer import load
    from edgecc.turns import reference_runner

    model = original if isinstance(original, ir.Model) else load(original, input_shape=input_shape)
    if data is None:
        dataset = random_samples(model, RANDOM_SAMPLES, seed)
    else:
        dataset = open_dataset(data, input_specs(model), labels=labels, mean=mean, std=std)
    threads = threads or 1  # the two run side by side
    reference = reference_runner(model, dataset, threads=threads)
    simulated = _bit_true(compiled, dataset, reference, threads) if bit_true else None
    candidate = simulated or open_candidate(compiled, like=reference, threads=threads)
    found = class_outputs(model) if classes is None else classes
    fidelity = compare(reference, candidate, dataset, classes=found, progress=progress)
    if simulated:
        fidelity = replace(fidelity, bit_true=simulated.findings())
    if layers:
        inner = compare_layers(model, compiled, dataset, like=reference, threads=threads)
        fidelity = replace(fidelity, layers=inner)
    name = str(compiled) if isinstance(compiled, (str, Path)) else None
    precision = precision or getattr(candidate, "precision", None)
    fidelity = weigh_rounding(fidelity, precision, model, dataset, threads=threads)
    check_limits(
        fidelity,
        precision=precision,
        min_agreement=min_agreement,
        min_sqnr=min_sqnr,
        max_drop=max_drop,
        artifact=name,
    )
    return fidelity


def weigh_rounding(
    fidelity: Fidelity,
    precision: str | None,
    model: ir.Model,
    dataset: Dataset,
    *,
    threads: int | None = None,
) -> Fidelity:
    """The same figures, with what rounding alone does to the original where a float32 artifact errs too much.

    Without it, outputs that are mostly rounding (the far tail of a Sigmoid) would be called unfaithful.
    """
    if precision not in FLOAT32 or not any(float32_excess(o) for o in fidelity.outputs):
        return fidelity
    noise = rounding_noise(model, islice(dataset, RANDOM_SAMPLES), threads=threads)
    outputs = tuple(replace(o, rounding=noise.get(o.name)) for o in fidelity.outputs)
    return replace(fidelity, outputs=outputs)


def _bit_true(compiled: str | Path | Artifact, dataset: Dataset, like: Runner, threads: int) -> BitTrueRunner:
    from edgecc.simulate.agreement import REFERENCE_SAMPLES, BitTrueRunner

    try:
        every = max(1, len(dataset) // REFERENCE_SAMPLES)
    except TypeError:
        every = 1
    return BitTrueRunner(read_compiled(compiled)[0], like=like, threads=threads, every=every)


def open_candidate(compiled: str | Path | Artifact, *, like: Runner, threads: int | None = None) -> Runner:
    """Loads a compiled file with the names and the layout of the original.

    Raises:
        UsageError: there is no such file, or its inputs and outputs are not those of the original.
        ModelError: the runtime cannot load it.
    """
    data, form = read_compiled(compiled)
    if form == "tflite":
        return open_tflite(data, like=like, threads=threads)
    from edgecc.runtime.ort import OrtRunner

    if isinstance(compiled, (str, Path)):  # external data lies beside the file
        return OrtRunner.from_file(compiled, threads=threads)
    return OrtRunner.from_bytes(data, threads=threads)
