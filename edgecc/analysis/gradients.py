"""Derivatives of a network's answers with respect to inner values, as a network of their own: reverse mode in ONNX.

Every operator adds the nodes that turn the derivative of its result into those of what it read. Element-wise functions
without a rule of their own are differentiated by central differences inside the graph.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgecc import ir
from edgecc.analysis.gradient_rules import RULES
from edgecc.analysis.gradient_tape import Step, Tape
from edgecc.errors import UsageError

# Name of the input that takes the derivatives of an output.
SEED = "seed:"


def gradient_model(model: ir.Model, values: Sequence[str]) -> tuple[ir.Model, dict[str, str]]:
    """A network that also computes sum over outputs of seed . d output / d value, for each of the values.

    Args:
        model: float, with static shapes but for a leading batch of 1; stays as it is.
        values: names of inner values or inputs.

    Returns:
        The network, whose inputs are those of `model` and `SEED` + name, of the shape of each floating-point output,
        and name -> name of the output with the derivative (a value that no output depends on has none).

    Raises:
        UsageError: an operator between a value and the outputs has no rule.
    """
    copy = model.clone()
    tape = Tape(copy.graph, max(copy.opset_imports.get(d, 0) for d in ("", "ai.onnx")))
    inner = {str(v.name): v for node in copy.graph for v in node.outputs} | {
        str(v.name): v for v in copy.graph.inputs
    }
    active = _dependent(copy.graph, {inner[name] for name in values})
    for out in list(copy.graph.outputs):
        if out in active and out.dtype is not None and out.dtype.is_floating_point():
            seed = ir.Value(name=f"{SEED}{out.name}", shape=out.shape, type=out.type)
            copy.graph.inputs.append(seed)
            tape.add(out, seed)
    for node in reversed(list(copy.graph)):
        grads = [tape.total(out) for out in node.outputs]
        wanted = [v for v in node.inputs if v is not None and v in active]
        if wanted and any(g is not None for g in grads):
            rule = RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
            if rule is None:
                raise UsageError(f"{node.op_type} cannot be differentiated", node=ir.label(node))
            rule(Step(tape, node, active, grads))
    found = {name: tape.total(inner[name]) for name in values}
    copy.graph.extend(tape.nodes)
    results = {name: grad for name, grad in found.items() if grad is not None}
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(dict.fromkeys(results.values()))
    return copy, {name: str(grad.name) for name, grad in results.items()}


def _dependent(graph: ir.Graph, sources: set[ir.Value]) -> set[ir.Value]:
    """What depends on the sources, they included."""
    found = set(sources)
    for node in graph:
        if any(v in found for v in node.inputs if v is not None):
            found.update(node.outputs)
    return found
