"""How far float32 rounding alone moves a network's answers: what no comparison can be finer than."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from edgecc import ir
from edgecc.fidelity import Accumulator

# An exact rewrite rounds in every layer, a nudge of the inputs only in the first one.
SAFETY = 10.0


def rounding_noise(
    model: ir.Model, samples: Iterable[Mapping[str, ir.Array]], *, seed: int = 0, threads: int | None = None
) -> dict[str, float]:
    """The relative error of each output between runs that differ in rounding only.

    The network runs as it is written; as the runtime rearranges it; and as it is written with every number of
    the inputs moved by one unit in its last place. Ill-conditioned networks, and outputs that hold nothing but
    the tail of a Sigmoid, differ there by more than an exact rewrite may change sound ones.

    Args:
        model: the network.
        samples: in the ONNX layout; each is run three times.
        seed: of the directions in which the inputs move.
        threads: of the runtime.

    Returns:
        By output name, as `OutputFidelity.relative_error`; for integers the share of elements that differ.
    """
    from edgecc.runtime.ort import OrtRunner

    random = np.random.default_rng(seed)
    written = OrtRunner.from_model(model, optimize=False, threads=threads)
    arranged = OrtRunner.from_model(model, optimize=True, threads=threads)
    sums: dict[tuple[str, str], Accumulator] = {}
    for feeds in samples:
        reference = written.run(feeds)
        nudged = {name: _nudged(array, random) for name, array in feeds.items()}
        for way, answers in (("arranged", arranged.run(feeds)), ("nudged", written.run(nudged))):
            for name, wanted in reference.items():
                entry = sums.setdefault((name, way), Accumulator(name))
                entry.add(wanted, answers[name])
    found: dict[str, float] = {}
    for (name, _), entry in sums.items():
        moved = entry.relative_error if not entry.rows else 1 - entry.same / entry.rows
        found[name] = max(found.get(name, 0.0), moved)
    return found


def _nudged(array: ir.Array, random: np.random.Generator) -> ir.Array:
    if array.dtype.kind != "f":
        return array
    limits = np.where(random.integers(0, 2, array.shape, dtype=np.int8), np.inf, -np.inf).astype(array.dtype)
    return np.asarray(np.nextafter(array, limits), array.dtype)
