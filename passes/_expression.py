"""Reads arithmetic on one value as a product or a polynomial, whatever the order it is written in."""

from __future__ import annotations

from dataclasses import dataclass

from edgecc import ir
from edgecc.passes import _rewrite as rw

_MAX_FACTORS = 4  # formulas of activations have fewer
_MAX_DEPTH = 6


@dataclass(frozen=True)
class Product:
    """factor * the product of `factors`, which are no products themselves."""

    factor: float
    factors: tuple[ir.Value, ...]


def product(node: ir.Node) -> Product:
    """What a Mul or Div computes; products inside are opened where only this one reads them."""
    factor = 1.0
    factors: list[ir.Value] = []
    pending: list[tuple[ir.Node, int]] = [(node, 0)]
    while pending:
        current, depth = pending.pop()
        for position, value in enumerate(current.inputs):
            number = rw.scalar(value)
            inner = None if value is None else value.producer()
            if number is not None and not (position == 1 and current.op_type == "Div" and number == 0):
                factor = factor / number if position == 1 and current.op_type == "Div" else factor * number
            elif value is None or (position == 1 and current.op_type == "Div"):
                return Product(1.0, ())  # divides by what is computed: no product
            elif inner is not None and _opens(inner, value) and depth < _MAX_DEPTH:
                pending.append((inner, depth + 1))
            else:
                factors.append(value)
        if len(factors) > _MAX_FACTORS:
            return Product(1.0, ())
    return Product(factor, tuple(factors))


def _opens(node: ir.Node, value: ir.Value) -> bool:
    if not rw.is_op(node, "Mul", "Div") or ir.single_consumer(value) is None:
        return False
    return node.op_type == "Mul" or rw.scalar(node.inputs[1]) is not None


def polynomial(value: ir.Value | None, x: ir.Value, depth: int = 0) -> dict[int, float] | None:
    """`value` as a polynomial in `x`: power to coefficient, without zeros; None if it is none."""
    number = rw.scalar(value)
    if number is not None:
        return {0: number} if number else {}
    if value is x:
        return {1: 1.0}
    node = None if value is None else value.producer()
    if node is None or depth > _MAX_DEPTH or not rw.is_op(node, "Add", "Sub", "Mul", "Div", "Pow"):
        return None
    if len(node.inputs) != 2:
        return None
    left, right = (polynomial(v, x, depth + 1) for v in node.inputs)
    if left is None or right is None:
        return None
    if node.op_type in {"Add", "Sub"}:
        sign = 1.0 if node.op_type == "Add" else -1.0
        terms = {k: left.get(k, 0.0) + sign * right.get(k, 0.0) for k in left.keys() | right.keys()}
    elif node.op_type == "Mul":
        terms = _multiply(left, right)
    elif right.keys() != {0}:
        return None
    elif node.op_type == "Div":
        terms = {k: v / right[0] for k, v in left.items()}
    else:
        if right[0] not in {1.0, 2.0, 3.0}:
            return None
        terms = left
        for _ in range(int(right[0]) - 1):
            terms = _multiply(terms, left)
    return {k: v for k, v in terms.items() if v}


def _multiply(left: dict[int, float], right: dict[int, float]) -> dict[int, float]:
    terms: dict[int, float] = {}
    for i, a in left.items():
        for j, b in right.items():
            terms[i + j] = terms.get(i + j, 0.0) + a * b
    return terms
