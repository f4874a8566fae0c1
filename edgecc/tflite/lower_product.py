"""Products: vectors, Einsum."""

from __future__ import annotations

import string
from collections.abc import Sequence

import numpy as np

from edgecc.analysis.sites import Site
from edgecc.tflite import lowers
from edgecc.tflite.builder import Builder, NeedsFloat, Unservable
from edgecc.tflite.compose import Composer, Term


def vector_matmul(site: Site, b: Builder) -> None:
    """MatMul with a vector, as a matrix with one row or column."""
    if b.quantized:
        raise NeedsFloat
    k = Composer(site, b)
    x, y = k.input(0), k.input(1)
    x = k.reshape(x, (1, *x.shape)) if len(x.shape) == 1 else x
    y = k.reshape(y, (*y.shape, 1)) if len(y.shape) == 1 else y
    k.finish(k.reshape(k.matmul(x, y), k.out_shape()))


@lowers("Einsum")
def einsum(site: Site, b: Builder) -> None:
    """Operands joined from left to right: each pair transposed to matrices and multiplied by BATCH_MATMUL."""
    k = Composer(site, b, batch=True)
    terms = [k.input(i) for i in range(len(site.inputs))]
    inputs, result = _letters(str(site.attribute("equation", "")), [len(t.shape) for t in terms])
    labelled = [_diagonal(k, t, labels) for t, labels in zip(terms, inputs, strict=True)]
    left = labelled[0]
    for position, right in enumerate(labelled[1:], 2):
        later = set(result).union(*(labels for _, labels in labelled[position:]))
        left = _join(k, left, right, later)
    term, labels = _summed(k, *left, set(result))
    k.finish(k.transpose(term, [labels.index(c) for c in result]))


def _letters(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """The labels of each operand and of the result, an ellipsis spelt out."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    parts = left.split(",")
    free = [c for c in string.ascii_uppercase + string.ascii_lowercase if c not in equation]
    most = max(
        [r - len(p.replace("...", "")) for p, r in zip(parts, ranks, strict=True) if "..." in p], default=0
    )
    spelt = []
    for part, rank in zip(parts, ranks, strict=True):
        count = rank - len(part.replace("...", ""))
        spelt.append(part.replace("...", "".join(free[most - count : most])))
    if not arrow:
        letters = "".join(parts).replace(".", "")
        right = ("..." if "..." in left else "") + "".join(
            sorted(c for c in set(letters) if letters.count(c) == 1)
        )
    return spelt, right.replace("...", "".join(free[:most]))


def _diagonal(k: Composer, x: Term, labels: str) -> tuple[Term, str]:
    """`x` with each label once."""
    if len(set(labels)) == len(labels):
        return x, labels
    kept = "".join(dict.fromkeys(labels))
    places = np.arange(int(np.prod(x.shape))).reshape(x.shape)
    axes = [kept.index(c) for c in labels]
    return k.pick(x, np.asarray(np.einsum(places, axes, list(range(len(kept)))))), kept


def _summed(k: Composer, x: Term, labels: str, wanted: set[str]) -> tuple[Term, str]:
    """`x` summed over the axes that nothing wants."""
    gone = [i for i, c in enumerate(labels) if c not in wanted]
    return k.reduce("SUM", x, gone), "".join(c for c in labels if c in wanted)


def _join(k: Composer, left: tuple[Term, str], right: tuple[Term, str], later: set[str]) -> tuple[Term, str]:
    """The product of two operands, summed over what only they have."""
    (x, a), (y, c) = _summed(k, *left, later | set(right[1])), _summed(k, *right, later | set(left[1]))
    size = dict(zip(a, x.shape, strict=True))
    for label, extent in zip(c, y.shape, strict=True):
        size[label] = max(size.get(label, 1), extent)
    x, a = _narrowed(k, x, a, size)
    y, c = _narrowed(k, y, c, size)
    both = [s for s in a if s in c]
    batch, inner = [s for s in both if s in later], [s for s in both if s not in later]
    rows, columns = [s for s in a if s not in both], [s for s in c if s not in both]

    free = [s for s in batch[:1] if x.batched and y.batched and a[0] == c[0] == s]  # stays an axis of its own

    def matrix(term: Term, labels: str, groups: Sequence[Sequence[str]]) -> Term:
        groups = (*([free] if free else []), batch[len(free) :], *groups)
        moved = k.transpose(term, [labels.index(s) for group in groups for s in group])
        return k.reshape(moved, [int(np.prod([size[s] for s in group])) for group in groups])

    product = k.matmul(matrix(x, a, (rows, inner)), matrix(y, c, (inner, columns)))
    made = "".join((*batch, *rows, *columns))
    return k.reshape(product, [size[s] for s in made]), made


def _narrowed(k: Composer, x: Term, labels: str, size: dict[str, int]) -> tuple[Term, str]:
    """Without axes of length 1 that broadcast."""
    kept = "".join(s for s, d in zip(labels, x.shape, strict=True) if d == size[s])
    if any(d not in (1, size[s]) for s, d in zip(labels, x.shape, strict=True)):
        raise Unservable("its operands disagree about an extent")
    return k.reshape(x, [size[s] for s in kept]), kept
