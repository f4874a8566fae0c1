"""Elementwise functions that have no kernel, composed of kernels that exist."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from edgecc.analysis.sites import Site
from edgecc.tflite import long_integers, lowers
from edgecc.tflite.builder import Builder
from edgecc.tflite.compose import Term
from edgecc.tflite.elementwise import Elementwise, served

Function = Callable[[Elementwise, Term], Term]


def _sinh(m: Elementwise, x: Term) -> Term:
    """(e^x - e^-x) / 2; near 0, where that cancels, its series."""
    series = x * m.polynomial(x * x, [1 / math.factorial(n) for n in (1, 3, 5, 7)])
    direct = (m.one("EXP", x) - m.one("EXP", m.one("NEG", x))) * 0.5
    return m.select(m.binary("LESS", m.one("ABS", x), 1.0), series, direct)


def _cosh(m: Elementwise, x: Term) -> Term:
    return (m.one("EXP", x) + m.one("EXP", m.one("NEG", x))) * 0.5


_HUGE = 1e9  # from here on 1 added to the square is lost in float32


def _asinh(m: Elementwise, x: Term) -> Term:
    """log1p(|x| + x^2 / (1 + sqrt(x^2 + 1))), with the sign of x."""
    size = m.one("ABS", x)
    some = m.binary("MINIMUM", size, _HUGE)
    square = some * some
    near = m.log1p(some + square / (m.one("SQRT", square + 1.0) + 1.0))
    far = m.one("LOG", size) + math.log(2)
    return m.one("SIGN", x) * m.select(m.binary("LESS", size, _HUGE), near, far)


def _acosh(m: Elementwise, x: Term) -> Term:
    """log1p(t + sqrt(2 t + t^2)) with t = x - 1."""
    t = m.binary("MINIMUM", x, _HUGE) - 1.0
    near = m.log1p(t + m.one("SQRT", t * 2.0 + t * t))
    return m.select(m.binary("LESS", x, _HUGE), near, m.one("LOG", x) + math.log(2))


def _atanh(m: Elementwise, x: Term) -> Term:
    size = m.one("ABS", x)
    return m.one("SIGN", x) * (m.log1p(size) - m.log1p(m.one("NEG", size))) * 0.5


def _asin(m: Elementwise, x: Term) -> Term:
    return m.atan(x / m.one("SQRT", (m.number(1) - x) * (x + 1.0)))


def _acos(m: Elementwise, x: Term) -> Term:
    return m.atan(m.one("SQRT", (m.number(1) - x) / (x + 1.0))) * 2.0


# erf near 0: 2/sqrt(pi) sum of (-1)^n x^(2n+1) / (n! (2n+1)); elsewhere Abramowitz and Stegun 7.1.26, 1.5e-7.
_ERF_SERIES = [2 / math.sqrt(math.pi) * (-1) ** n / (math.factorial(n) * (2 * n + 1)) for n in range(6)]
_ERF_P = 0.3275911
_ERF = (0.0, 0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


def _erf(m: Elementwise, x: Term) -> Term:
    return m.one("SIGN", x) * _erf_of_size(m, m.one("ABS", x))


def _erf_of_size(m: Elementwise, size: Term) -> Term:
    """erf of what is not negative."""
    t = m.number(1) / (size * _ERF_P + 1.0)
    far = m.number(1) - m.polynomial(t, _ERF) * m.one("EXP", m.one("NEG", size * size))
    near = size * m.polynomial(size * size, _ERF_SERIES)
    return m.select(m.binary("LESS", size, 0.5), near, far)


@lowers("Gelu", int8=True)
def gelu(site: Site, b: Builder) -> None:
    """GELU, in the error-function or the tanh form; composed for TFLite Micro, which lacks it."""
    bent = site.attribute("approximate", "none") == "tanh"
    if b.quantized or served(site, b, "GELU"):
        b.operator("GELU", [b.input(0, b.order(site.outputs[0].value))], [b.output()], {"approximate": bent})
        return
    make = Elementwise(site, b)
    x = make.terms[0]
    if bent:
        inner = (x + x * x * x * 0.044715) * float(np.sqrt(2 / np.pi))
        make.give(x * (make.one("TANH", inner) + 1.0) * 0.5)
    else:  # x * erf(x) = |x| * erf(|x|)
        size = make.one("ABS", x)
        make.give((x + size * _erf_of_size(make, size * float(np.sqrt(0.5)))) * 0.5)


_FUNCTIONS: dict[str, Function] = {
    "Acos": _acos,
    "Acosh": _acosh,
    "Asin": _asin,
    "Asinh": _asinh,
    "Atan": lambda m, x: m.atan(x),
    "Atanh": _atanh,
    "Cosh": _cosh,
    "Erf": _erf,
    "Mish": lambda m, x: x * m.one("TANH", m.softplus(x)),
    "Sinh": _sinh,
    "Softplus": lambda m, x: m.softplus(x),
    "Softsign": lambda m, x: x / (m.one("ABS", x) + 1.0),
    "Tan": lambda m, x: m.one("SIN", x) / m.one("COS", x),
}


@lowers(*_FUNCTIONS)
def function(site: Site, b: Builder) -> None:
    """A function of one real number."""
    make = Elementwise(site, b)
    make.give(_FUNCTIONS[site.op_type](make, make.terms[0]))


def _attribute(site: Site, name: str, default: float) -> float:
    return float(site.attribute(name, default))  # type: ignore[arg-type]


@lowers("Selu")
def selu(site: Site, b: Builder) -> None:
    """gamma times the exponential below 0."""
    make = Elementwise(site, b)
    alpha = _attribute(site, "alpha", 1.67326319217681884765625)
    gamma = _attribute(site, "gamma", 1.05070102214813232421875)
    make.give(make.exponential_below(make.terms[0], alpha) * gamma)


@lowers("Celu")
def celu(site: Site, b: Builder) -> None:
    """max(0, x) + min(0, alpha (exp(x / alpha) - 1))."""
    make = Elementwise(site, b)
    alpha = _attribute(site, "alpha", 1.0)
    make.give(make.exponential_below(make.terms[0], alpha, alpha))


@lowers("Swish")
def swish(site: Site, b: Builder) -> None:
    """x sigmoid(alpha x)."""
    make = Elementwise(site, b)
    x, alpha = make.terms[0], _attribute(site, "alpha", 1.0)
    make.give(x * make.one("LOGISTIC", x if alpha == 1.0 else x * alpha))


@lowers("ThresholdedRelu")
def thresholded_relu(site: Site, b: Builder) -> None:
    """x where it is above alpha, else 0."""
    make = Elementwise(site, b)
    x = make.terms[0]
    make.give(make.select(make.binary("GREATER", x, _attribute(site, "alpha", 1.0)), x, make.number(0)))


@lowers("Mean")
def mean(site: Site, b: Builder) -> None:
    """The sum of the operands times 1 over their count."""
    make = Elementwise(site, b)
    total = make.terms[0]
    for term in make.terms[1:]:
        total = total + term
    make.give(total * (1 / len(make.terms)) if len(make.terms) > 1 else total)


@lowers("IsNaN")
def is_nan(site: Site, b: Builder) -> None:
    """Only what is not a number differs from itself."""
    make = Elementwise(site, b)
    make.give(make.binary("NOT_EQUAL", make.terms[0], make.terms[0]))


@lowers("IsInf")
def is_inf(site: Site, b: Builder) -> None:
    """Equal to infinity of the signs asked for."""
    make = Elementwise(site, b)
    x = make.terms[0]
    above, below = site.attribute("detect_positive", 1), site.attribute("detect_negative", 1)
    if above and below:
        x = make.one("ABS", x)
    elif below:
        x = make.one("NEG", x)
    infinite = make.binary("EQUAL", x, float("inf"))
    make.give(infinite if above or below else make.binary("LOGICAL_AND", infinite, np.array(False)))


@lowers("Mod")
def modulo(site: Site, b: Builder) -> None:
    """FLOOR_MOD, whose result has the divisor's sign; with fmod the dividend's."""
    make = Elementwise(site, b)
    codes = ("FLOOR_MOD", "SIGN", "ABS") if site.attribute("fmod", 0) else ("FLOOR_MOD",)
    x, y = (make.wide(t, codes) for t in make.terms)
    if x.dtype == "int64" and site.attribute("fmod", 0):
        make.give(long_integers.remainder(make, x, y))
    elif site.attribute("fmod", 0):
        make.give(make.one("SIGN", x) * (make.one("ABS", x) % make.one("ABS", y)))
    else:
        make.give(x % y)


@lowers("Pow")
def power(site: Site, b: Builder) -> None:
    """POW in the type of the base, or in float32 where the exponent is none; a square is a product.

    64-bit integers are multiplied; a power whose exponent is computed in real numbers has the digits of float32.
    """
    make = Elementwise(site, b)
    x, y = make.terms
    if y.array is not None and y.array.size == 1 and y.array.item() == 2:
        x = make.wide(x, ("MUL",))
        make.give(x * x)
        return
    whole = y.array is None and y.dtype != "float32"
    if y.array is not None:
        whole = bool((y.array == np.trunc(y.array)).all() and ((y.array >= 0).all() or x.dtype == "int64"))
    if whole and x.dtype == "int64":
        make.give(long_integers.power(make, x, y))
        return
    kind = make.wide(x, ("POW",)).dtype if whole else "float32"
    make.give(make.binary("POW", make.cast(x, kind), make.cast(y, kind)))
