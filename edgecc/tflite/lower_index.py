"""Operators that find, pick and place elements by index."""

from __future__ import annotations

import numpy as np

from edgecc.analysis.sites import Site
from edgecc.ir import Array
from edgecc.tflite import lowers
from edgecc.tflite.arithmetic import BATCH
from edgecc.tflite.builder import Builder, Unservable
from edgecc.tflite.compose import Composer, Term

_DENSE = 2**22  # elements of a comparison of all positions with all indices


def number(site: Site, name: str, default: int) -> int:
    """An integer attribute."""
    return int(site.attribute(name, default))  # type: ignore[call-overload, no-any-return]


def strides(shape: tuple[int, ...]) -> list[int]:
    """How far apart neighbours along each axis are in the flat sequence."""
    return [int(np.prod(shape[a + 1 :])) for a in range(len(shape))]


def positions(shape: tuple[int, ...]) -> Array:
    """The place of each element in the flat sequence."""
    return np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)


def counted(k: Composer, indices: Term, extent: int) -> Term:
    """Indices counted from the front: int32, negative ones wrapped."""
    if indices.array is not None:
        wrong = (indices.array < -extent) | (indices.array >= extent)
        if wrong.any():
            raise Unservable(f"the index {indices.array[wrong][0]} is outside of an axis of {extent}")
    return k.cast(indices, "int32") % extent


@lowers("ArgMax", "ArgMin")
def arg_extremum(site: Site, b: Builder) -> None:
    """ARG_MAX or ARG_MIN; over the reversed axis where the last of equal ones counts."""
    k = Composer(site, b)
    code = "ARG_MAX" if site.op_type == "ArgMax" else "ARG_MIN"
    x = k.served(code, k.input(0))
    axis, last = number(site, "axis", 0) % len(x.shape), number(site, "select_last_index", 0)
    extent = x.shape[axis]
    if last:
        x = k.gather(x, np.arange(extent)[::-1], axis)
    if x.dtype == "int64":  # which has a kernel for the largest number, not for its place
        best = k.reduce(code.replace("ARG", "REDUCE"), x, [axis], keep=True)
        x, code = k.cast(k.binary("EQUAL", x, best), "int32"), "ARG_MAX"
    shape = (*x.shape[:axis], *x.shape[axis + 1 :])
    found = k.apply(code, [x, k.whole([axis])], shape, {"outputType": 2}, "int32")
    if last:
        found = k.binary("SUB", k.whole(extent - 1), found)
    k.finish(k.reshape(found, k.out_shape()))


@lowers("Hardmax")
def hardmax(site: Site, b: Builder) -> None:
    """One where the first largest element along the axis is, else zero."""
    k = Composer(site, b)
    x = k.input(0)
    axis = number(site, "axis", -1) % len(x.shape)
    shape = (*x.shape[:axis], *x.shape[axis + 1 :])
    found = k.apply("ARG_MAX", [x, k.whole([axis])], shape, {"outputType": 2}, "int32")
    found = k.reshape(found, (*x.shape[:axis], 1, *x.shape[axis + 1 :]))
    places = np.arange(x.shape[axis], dtype=np.int32).reshape(-1, *[1] * (len(x.shape) - axis - 1))
    k.finish(k.cast(k.binary("EQUAL", found, k.whole(places)), "float32"))


@lowers("TopK")
def top_k(site: Site, b: Builder) -> None:
    """TOPK_V2 along the last axis; of the negated numbers for the smallest. k follows from the declared shape too."""
    k = Composer(site, b, batch=True)
    x = k.input(0)
    given = x.dtype
    x = k.served("TOPK_V2", x)
    axis = number(site, "axis", -1) % len(x.shape)
    if x.batched and axis == 0:
        raise Unservable(*BATCH)
    count = k.out_shape()[axis]
    perm = [*(a for a in range(len(x.shape)) if a != axis), axis]
    x = k.transpose(x, perm)
    smallest = not number(site, "largest", 1)
    if smallest:  # -1 - x reverses integers without overflow
        x = k.one("NEG", x) if x.dtype == "float32" else _reversed(k, x)
    shape = (*x.shape[:-1], count)
    name = f"{k.name}/topk"
    values = b.tensor(f"{name}_values", shape, x.dtype, batched=x.batched)
    places = b.tensor(f"{name}_places", shape, "int32", batched=x.batched)
    b.operator("TOPK_V2", [k.tensor(x), k.tensor(k.whole(count))], [values, places], {})
    found = Term(k, None, values)
    if smallest:
        found = k.one("NEG", found) if x.dtype == "float32" else _reversed(k, found)
    back = np.argsort(perm).tolist()
    k.finish(k.transpose(k.cast(found, given), back), 0)
    k.finish(k.transpose(Term(k, None, places), back), 1)


def _reversed(k: Composer, x: Term) -> Term:
    wide = k.served("SUB", x)
    return k.cast(k.binary("SUB", Term(k, np.array(-1, wide.dtype)), wide), x.dtype)


@lowers("OneHot")
def one_hot(site: Site, b: Builder) -> None:
    """SELECT_V2 between the two values where the indices are equal to 0, 1, 2, ..."""
    k = Composer(site, b)
    indices, values = k.input(0), k.input(2)
    out = k.out_shape()
    axis = number(site, "axis", -1) % len(out)
    depth = out[axis]
    indices = indices if indices.dtype == "int64" else k.cast(indices, "int32")
    indices = k.select(k.binary("LESS", indices, 0), indices + depth, indices)
    indices = k.reshape(indices, (*indices.shape[:axis], 1, *indices.shape[axis:]))
    places = np.arange(depth).reshape(-1, *[1] * (len(out) - axis - 1))
    mask = k.binary("EQUAL", indices, Term(k, places.astype(indices.dtype)))
    off, on = (k.reshape(k.cut(values, 0, i, i + 1), ()) for i in (0, 1))
    k.finish(k.select(mask, on, off))


@lowers("GatherElements")
def gather_elements(site: Site, b: Builder) -> None:
    """GATHER from the flat sequence."""
    k = Composer(site, b)
    x = k.input(0)
    places = _element_places(k, x.shape, k.input(1), number(site, "axis", 0))
    k.finish(k.reshape(k.pick(x, places), k.out_shape()))


def _element_places(k: Composer, shape: tuple[int, ...], indices: Term, axis: int) -> Term:
    """Flat positions that (i, j, ..) with one coordinate replaced by `indices` means: int32, in one axis."""
    axis %= len(shape)
    step, count = strides(shape), int(np.prod(indices.shape))
    rest = np.zeros(indices.shape, np.int64)
    for a in range(len(shape)):
        if a != axis:
            rest += np.arange(indices.shape[a]).reshape(-1, *[1] * (len(shape) - a - 1)) * step[a]
    flat = counted(k, k.reshape(indices, (count,)), shape[axis])
    return flat * step[axis] + k.whole(rest.reshape(-1))


def _tuple_places(k: Composer, shape: tuple[int, ...], indices: Term) -> Term:
    """Which slice of x.reshape(-1, *shape[m:]) each m-tuple along the last axis of `indices` means, int32."""
    depth = indices.shape[-1]
    lead = shape[:depth]
    parts = k.cast(indices, "int32") % k.whole(lead)
    return k.reduce("SUM", parts * k.whole(strides(lead)), [-1])


@lowers("GatherND")
def gather_nd(site: Site, b: Builder) -> None:
    """GATHER of slices from the leading axes made one."""
    k = Composer(site, b)
    x, indices, batch = k.input(0), k.input(1), number(site, "batch_dims", 0)
    lead = x.shape[:batch]
    depth = indices.shape[-1]
    places = _tuple_places(k, x.shape[batch:], indices)
    cells = int(np.prod(x.shape[batch : batch + depth]))
    first = positions(lead).reshape(*lead, *[1] * (len(places.shape) - batch)) * cells
    places = places + k.whole(first) if batch else places
    tail = x.shape[batch + depth :]
    rows = k.reshape(x, (int(np.prod(lead)) * cells, *tail))
    flat = k.gather(rows, k.reshape(places, (int(np.prod(places.shape)),)))
    k.finish(k.reshape(flat, k.out_shape()))


@lowers("ScatterElements")
def scatter_elements(site: Site, b: Builder) -> None:
    """See `place`."""
    k = Composer(site, b)
    x, updates = k.input(0), k.input(2)
    places = _element_places(k, x.shape, k.input(1), number(site, "axis", 0))
    k.finish(place(k, x, places, updates, str(site.attribute("reduction", "none"))))


@lowers("ScatterND")
def scatter_nd(site: Site, b: Builder) -> None:
    """See `place`."""
    k = Composer(site, b)
    x, indices, updates = k.input(0), k.input(1), k.input(2)
    depth = indices.shape[-1]
    tail = x.shape[depth:]
    rows = _tuple_places(k, x.shape, indices)
    places = k.reshape(rows, (*rows.shape, *[1] * len(tail))) * int(np.prod(tail)) + k.whole(positions(tail))
    k.finish(place(k, x, places, updates, str(site.attribute("reduction", "none"))))


@lowers("TensorScatter")
def tensor_scatter(site: Site, b: Builder) -> None:
    """The update written at each batch's own place along one axis (a cache of keys or values)."""
    k = Composer(site, b)
    x, updates = k.input(0), k.input(1)
    axis = number(site, "axis", -2) % len(x.shape)
    extent, count = x.shape[axis], updates.shape[axis]
    start = k.input(2) if k.has(2) else k.whole(np.zeros(x.shape[0]))
    steps = np.arange(count).reshape(-1, *[1] * (len(x.shape) - axis - 1))
    start = k.reshape(k.cast(start, "int32"), (x.shape[0], *[1] * (len(x.shape) - 1)))
    along = start + k.whole(steps)
    if site.attribute("mode", "linear") == "circular":
        along = along % extent
    along = along + k.whole(np.zeros(updates.shape))
    k.finish(place(k, x, _element_places(k, x.shape, along, axis), updates, "none"))


_JOIN = {"add": "ADD", "mul": "MUL", "max": "MAXIMUM", "min": "MINIMUM"}
_JOIN_ALL = {"mul": "REDUCE_PROD", "max": "REDUCE_MAX", "min": "REDUCE_MIN"}


def place(k: Composer, x: Term, places: Term, updates: Term, reduction: str) -> Term:
    """`x` with `updates` written at flat positions, or joined to what is there.

    Constant positions become a GATHER from `x` and the updates: one for each time that a position occurs.
    """
    count = int(np.prod(x.shape))
    flat, new = k.reshape(x, (count,)), k.reshape(updates, (int(np.prod(updates.shape)),))
    where = k.reshape(places, (int(np.prod(places.shape)),))
    if reduction != "none" and reduction not in _JOIN:
        raise Unservable(f"scattering with {reduction!r} has no kernel")
    if where.array is None:
        return k.reshape(_place_computed(k, flat, where, new, reduction), x.shape)
    if reduction == "none":
        table = np.arange(count)
        table[where.array] = count + np.arange(where.array.size)
        return k.reshape(k.gather(k.concat([flat, new], 0), table), x.shape)
    return k.reshape(join_layers(k, flat, new, where.array, reduction), x.shape)


def join_layers(k: Composer, flat: Term, new: Term, where: Array, reduction: str) -> Term:
    """`flat` joined with `new` at constant positions, the n-th occurrences of each position at a time."""
    code = _JOIN[reduction]
    wide, more = k.served(code, flat), k.served(code, new)
    neutral = Term(k, np.array([_neutral(reduction, wide.dtype)], wide.dtype))
    order = np.argsort(where, kind="stable")
    ranked = where[order]
    first = np.searchsorted(ranked, ranked)
    turn = np.arange(ranked.size) - first
    if turn.size and turn.max() >= 256:
        raise Unservable("one position is written more than 256 times")
    source = k.concat([more, neutral], 0)
    for layer in range(int(turn.max(initial=-1)) + 1):
        table = np.full(flat.shape[0], where.size)
        table[ranked[turn == layer]] = order[turn == layer]
        wide = k.binary(code, wide, k.gather(source, table))
    return k.cast(wide, flat.dtype)


def _neutral(reduction: str, dtype: str) -> float | int:
    if reduction in ("add", "mul"):
        return int(reduction == "mul")
    if dtype == "float32":
        return -np.inf if reduction == "max" else np.inf
    facts = np.iinfo(dtype)
    return int(facts.min if reduction == "max" else facts.max)


def _place_computed(k: Composer, flat: Term, where: Term, new: Term, reduction: str) -> Term:
    count, many = flat.shape[0], new.shape[0]
    if reduction in _JOIN_ALL or flat.dtype not in ("float32", "int32", "int64"):
        return _place_dense(k, flat, where, new, reduction)
    where = k.reshape(where, (many, 1))
    shape = k.whole([count])
    summed = k.apply("SCATTER_ND", [where, new, shape], (count,), {}, new.dtype)
    if reduction == "add":
        return flat + summed
    ones = k.whole(np.ones(many))
    mask = k.apply("SCATTER_ND", [where, ones, shape], (count,), {}, "int32")
    return k.select(k.binary("GREATER", mask, 0), summed, flat)


def _place_dense(k: Composer, flat: Term, where: Term, new: Term, reduction: str) -> Term:
    """Every update compared with every position; for "none" the largest wins, as positions occur once."""
    count, many = flat.shape[0], new.shape[0]
    if count * many > _DENSE:
        raise Unservable("its indices are computed at run time", "make them an initializer")
    code = _JOIN.get(reduction, "MAXIMUM")
    wide, more = k.served("REDUCE_MAX", k.served(code, flat)), k.served("REDUCE_MAX", k.served(code, new))
    mask = k.binary("EQUAL", k.reshape(where, (many, 1)), k.whole(positions((count,))))
    kind = reduction if reduction != "none" else "max"
    low = Term(k, np.array(_neutral(kind, wide.dtype), wide.dtype))
    spread = k.select(mask, k.reshape(more, (many, 1)), low)
    if reduction == "add":
        return k.cast(wide + k.reduce("SUM", spread, [0]), flat.dtype)
    joined = k.reduce(_JOIN_ALL[kind], spread, [0])
    if reduction == "none":
        hit = k.reduce("REDUCE_MAX", k.cast(mask, "int32"), [0])
        return k.cast(k.select(k.binary("GREATER", hit, 0), joined, wide), flat.dtype)
    return k.cast(k.binary(code, wide, joined), flat.dtype)
