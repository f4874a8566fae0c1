"""Runs parts of the float network in which one value is replaced by its quantized form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from edgecc import ir
from edgecc.analysis.answers import Answers, Sample
from edgecc.quant import int4, rules
from edgecc.quant.params import QuantParams
from edgecc.runtime import Runner

if TYPE_CHECKING:
    from edgecc.quant.plan import QuantPlan


class Probe:
    """The float network, and what the outputs become when one of its values errs.

    Only what depends on the value is run again; everything else it needs was kept from the run before.
    """

    def __init__(
        self,
        model: ir.Model,
        rounded: ir.Model,
        plan: QuantPlan,
        makers: Mapping[ir.Value, ir.Node],
        *,
        threads: int | None = None,
    ) -> None:
        """Runs nothing yet.

        Args:
            model: the float network.
            rounded: the same network with the weights that units have, before they are stored in integers.
            plan: says how weights and activations are stored.
            makers: the unit with weights that makes a value, by that value.
            threads: of the runtime.
        """
        self._model, self._plan, self._makers, self._threads = model, plan, makers, threads
        self._constants = dict(rounded.graph.initializers.items())
        self._outputs = [str(v.name) for v in model.graph.outputs if v.dtype != ir.DataType.STRING]
        self._fed = {str(v.name) for v in model.graph.inputs}
        self._cuts = _cuts(model, nested=any(map(ir.holds_graph, model.graph)))

    def run(
        self, wave: Sequence[ir.Value], rounding: Mapping[ir.Value, QuantParams], samples: Sequence[Sample]
    ) -> Iterator[tuple[ir.Value, bool, tuple[float, ...]]]:
        """For each value, and each way in which it errs (from weights, or not): the noise at each output.

        Args:
            wave: values of the model.
            rounding: how those are stored that are rounded.
            samples: what is run.
        """
        names = [str(v.name) for v in wave]
        held = dict.fromkeys(chain(names, *(self._cuts[n].given for n in names)))
        reference, copies = self._reference([v for v in wave if v in self._makers], held)
        answers = [{**sample, **reference.run(sample)} for sample in samples]
        del reference
        wanted = Answers(answers, self._outputs)
        for value in wave:
            name = str(value.name)
            params = rounding.get(value)
            forms = {True: copies.get(name), False: None if params is None else name}
            runner = self._after(name)
            for weights, source in forms.items():
                if source is None:
                    continue
                wrong = (_rounded(kept[source], None if weights else params) for kept in answers)
                got = (_answered(name, *pair, runner) for pair in zip(wrong, answers, strict=True))
                yield value, weights, wanted.noise(got)

    def _reference(self, made: Sequence[ir.Value], held: Mapping[str, None]) -> tuple[Runner, dict[str, str]]:
        """The network that computes the values to keep, and beside them each value in `made` with stored weights."""
        from edgecc.runtime.ort import OrtRunner

        copy = self._model.clone()
        mirror = {out.name: out for node in copy.graph for out in node.outputs}
        copies: dict[str, str] = {}
        for value in made:
            node = self._makers[value]
            first = mirror[node.outputs[0].name].producer()
            last = mirror[value.name].producer()
            assert first is not None and last is not None
            result = self._with_stored_weights(copy.graph, first, node)
            if last is not first:
                inputs = [result if v is first.outputs[0] else v for v in last.inputs]
                result = _twin(copy.graph, last, inputs)
            copies[str(value.name)] = str(result.name)
        wanted = [n for n in held if n not in self._fed and n not in self._outputs]
        runner = OrtRunner.from_model(copy, threads=self._threads, extra_outputs=[*wanted, *copies.values()])
        return runner, copies

    def _with_stored_weights(self, graph: ir.Graph, node: ir.Node, original: ir.Node) -> ir.Value:
        rule, inputs = rules.RULES[node.op_type], list(node.inputs)
        weight = rules.weight_of(original)
        assert weight is not None and rule.weight is not None
        params = self._plan.tensors[str(weight.name)]
        array = ir.constant(self._constants[str(weight.name)])
        assert array is not None
        stored = params.dequantize(int4.quantized(params, array).astype(np.int8))
        inputs[rule.weight] = ir.add_initializer(graph, stored, ir.fresh_name(graph, f"{weight.name}_stored"))
        bias = rules.bias_of(original)
        if bias is not None and rule.bias is not None:
            array = ir.constant(self._constants[str(bias.name)])
            assert array is not None
            inputs[rule.bias] = ir.add_initializer(graph, array, ir.fresh_name(graph, f"{bias.name}_stored"))
        return _twin(graph, node, inputs)

    def _after(self, name: str) -> Runner | None:
        """What depends on a value, with it and what else is needed as inputs; None where nothing does."""
        from onnx_ir.passes.common import RemoveUnusedNodesPass

        from edgecc.runtime.ort import OrtRunner

        copy, cut = self._model.clone(), self._cuts[name]
        if not cut.outputs:
            return None
        graph = copy.graph
        values = {v.name: v for node in graph for v in node.outputs}
        graph.outputs[:] = [v for v in graph.outputs if v.name in cut.outputs]
        for value in [values[n] for n in (name, *cut.given) if n in values]:
            entry = ir.Value(name=value.name, shape=value.shape, type=value.type)
            value.name = ir.fresh_name(graph, f"{value.name}_computed")
            value.replace_all_uses_with(entry)
            graph.inputs.append(entry)
        RemoveUnusedNodesPass()(copy)
        graph.inputs[:] = [v for v in graph.inputs if v.uses()]
        return OrtRunner.from_model(copy, threads=self._threads)


def _rounded(array: ir.Array, params: QuantParams | None) -> ir.Array:
    return array if params is None else params.dequantize(params.quantize(array))


def _answered(name: str, wrong: ir.Array, kept: Sample, runner: Runner | None) -> dict[str, ir.Array]:
    """A wrong value, and what depends on it."""
    got = {name: wrong}
    if runner is not None:
        got |= runner.run({s.name: {**kept, **got}[s.name] for s in runner.inputs})
    return got


@dataclass(frozen=True)
class _Cut:
    """What a value decides.

    Attributes:
        given: other values that are needed to compute what depends on it; empty where that is not known.
        outputs: of the network, that depend on it; it itself is none of them.
    """

    given: tuple[str, ...]
    outputs: frozenset[str]


def _cuts(model: ir.Model, *, nested: bool) -> dict[str, _Cut]:
    """Of every value, by name. Graphs inside of nodes read values unseen: then nothing is taken as given."""
    found = {}
    nodes, outputs = list(model.graph), {v.name for v in model.graph.outputs}
    for value in chain(model.graph.inputs, (o for node in nodes for o in node.outputs)):
        if nested:
            found[str(value.name)] = _Cut((), frozenset(str(n) for n in outputs if n != value.name))
            continue
        tainted, given = {value}, dict[ir.Value, None]()
        for node in nodes:
            if not tainted.isdisjoint(node.inputs):
                tainted.update(node.outputs)
                given.update(dict.fromkeys(v for v in node.inputs if v is not None and v.const_value is None))
        after = {str(v.name) for v in tainted if v is not value}
        beside = tuple(str(v.name) for v in given if v not in tainted)
        found[str(value.name)] = _Cut(beside, frozenset(after & outputs))
    return found


def _twin(graph: ir.Graph, node: ir.Node, inputs: Sequence[ir.Value | None]) -> ir.Value:
    """Another node like `node`, of one output, on other inputs; returns what it makes."""
    (old,) = node.outputs
    out = ir.Value(name=ir.fresh_name(graph, f"{old.name}_stored"), shape=old.shape, type=old.type)
    twin = ir.Node(node.domain, node.op_type, inputs, list(node.attributes.values()), outputs=[out])
    graph.insert_after(node, twin)
    return out
