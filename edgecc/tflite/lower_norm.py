"""Normalizations over the last axes, composed of real arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgecc.analysis.sites import Site
from edgecc.tflite import lowers
from edgecc.tflite.builder import Builder
from edgecc.tflite.compose import Composer, Term
from edgecc.tflite.lower_index import number


def _operand(k: Composer, position: int, rank: int, order: Sequence[int]) -> Term:
    """A factor or summand that broadcasts, with as many axes as the data, in their order."""
    term = k.input(position)
    if term.array is None:  # the layout left everything in ONNX's order
        return term
    full = k.reshape(term, (1,) * (rank - len(term.shape)) + term.shape)
    return k.reshape(term, ()) if int(np.prod(term.shape)) == 1 else k.transpose(full, order)


def _axes(site: Site, order: Sequence[int]) -> list[int]:
    """Where the axes from the attribute's to the last are stored."""
    first = number(site, "axis", -1) % len(order)
    return [place for place, axis in enumerate(order) if axis >= first]


def _inverse_deviation(k: Composer, centred: Term, axes: Sequence[int]) -> Term:
    """1 / sqrt(mean square + epsilon)."""
    squares = k.reduce("MEAN", centred * centred, axes, keep=True)
    return k.one("RSQRT", squares + float(k.site.attribute("epsilon", 1e-5)))  # type: ignore[arg-type]


@lowers("LayerNormalization")
def layer_normalization(site: Site, b: Builder) -> None:
    """(x - mean) / sqrt(variance + epsilon) * scale + shift."""
    k = Composer(site, b, batch=True)
    order = b.permutation(site.outputs[0].value)
    x, axes = k.input(0, order), _axes(site, order)
    mean = k.reduce("MEAN", x, axes, keep=True)
    centred = x - mean
    inverse = _inverse_deviation(k, centred, axes)
    result = centred * inverse * _operand(k, 1, len(order), order)
    if k.has(2):
        result = result + _operand(k, 2, len(order), order)
    k.finish(result, 0, order)
    for position, term in ((1, mean), (2, inverse)):
        if k.wanted(position):
            k.finish(term, position, order)


@lowers("RMSNormalization")
def rms_normalization(site: Site, b: Builder) -> None:
    """x / sqrt(mean square + epsilon) * scale."""
    k = Composer(site, b, batch=True)
    order = b.permutation(site.outputs[0].value)
    x = k.input(0, order)
    inverse = _inverse_deviation(k, x, _axes(site, order))
    k.finish(x * inverse * _operand(k, 1, len(order), order), 0, order)
