"""What the emulated Arm machine showed, as tables."""

from __future__ import annotations

from collections.abc import Sequence

from edgecc.profile.by_instructions import CountedPrediction
from edgecc.profile.emulated import Difference, Emulated, LevelFound
from edgecc.report.predictions import PREDICTION_HEADINGS, spread
from edgecc.report.tables import milliseconds, percent
from edgecc.report.terminal import Table


def emulated_tables(found: Emulated, limit: int | None = 20, title: str = "") -> list[Table | str]:
    """A line a level, then for each level the functions that execute most."""
    whose = [d.against for d in found.levels[0].differences]
    headings = ("level", *(f"against {name}" for name in whose), ">instructions", ">int8 products", ">fmla")
    items: list[Table | str] = [Table(title, headings, [_row(each) for each in found.levels])]
    items.append(
        f"{found.runtime} {found.runtime_version}, {found.samples} sample{'s' * (found.samples != 1)}; {found.tier}"
    )
    if found.bit_identical is not None:
        items.append(
            "bit-identical on all levels" if found.bit_identical else "the levels do not answer alike"
        )
    items.extend(found.notes)
    if found.predictions:
        items.append(_predictions(found.predictions))
        items.extend(f"{p.target}: {_how(p)}" for p in found.predictions)
    for each in found.levels:
        if each.operators:
            counts = ", ".join(f"{n} {name}" for name, n in each.operators.items())
            items.append(f"{each.level}: executes {counts}")
        if each.count is not None:
            items.append(_functions(each, limit))
    return items


def _predictions(found: Sequence[CountedPrediction]) -> Table:
    rows = [[p.target, p.runtime, p.precision, milliseconds(p.ms), spread(p), p.tier, p.grade] for p in found]
    return Table("not measured, and not emulated: predicted for targets", PREDICTION_HEADINGS, rows)


def _how(found: CountedPrediction) -> str:
    return (
        f"1 thread at {found.ghz:g} GHz, {found.per_cycle:g} instructions a cycle, counted on {found.level}; "
        f"{found.source}"
    )


def _row(found: LevelFound) -> list[str]:
    cells = [found.level, *map(difference, found.differences)]
    if found.count is None:
        return [*cells, "-", "-", "-"]
    kinds = {"smlal": "mlal", "sdot": "dot", "smmla": "mmla"}
    products = [f"{found.count.products[k]:,} {name}" for name, k in kinds.items() if found.count.products[k]]
    return [
        *cells,
        f"{found.count.instructions:,}",
        ", ".join(products) or "0",
        f"{found.count.products['fmla']:,}",
    ]


def difference(found: Difference) -> str:
    """`identical`, or how much differs."""
    if not found.differing:
        return "identical"
    far = f"{found.largest:.2g}" if found.steps is None else f"{found.steps} step{'s' * (found.steps != 1)}"
    return f"{found.differing:,} of {found.compared:,} differ, by {far} at most"


def _functions(found: LevelFound, limit: int | None) -> Table:
    assert found.count is not None
    chosen = found.count.functions[:limit]
    rows = [
        [
            f.name,
            f"{f.instructions:,}",
            percent(f.share),
            *(f"{n:,}" if n else "" for n in f.products.values()),
        ]
        for f in chosen
    ]
    headings = ("function", ">instructions", ">share", *(f">{name}" for name in found.count.products))
    count = len(found.count.functions)
    which = "all" if len(chosen) == count else f"the {len(chosen)} of"
    return Table(
        f"{found.level}: {which} {count} functions of the runtime's library, those that execute most first",
        headings,
        rows,
    )
