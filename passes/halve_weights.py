"""float16 weights: half the file, the same arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgecc import ir
from edgecc.passes._rewrite import Tally, new_node
from edgecc.pipeline import Pass, PassContext, PassResult

_LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True, kw_only=True)
class HalveWeights(Pass):
    """Stores float32 constants as float16 and casts them back where they are read (DESIGN §1: fp16 is a Cast)."""

    name: ClassVar[str] = "halve_weights"
    exact: ClassVar[bool] = False
    min_elements: int = 64

    def apply(self, model: ir.Model, ctx: PassContext) -> PassResult:
        """Puts a float16 initializer and a Cast in the place of each constant of at least `min_elements`."""
        tally = Tally()
        for value in list(model.graph.initializers.values()):
            array = ir.constant(value)
            uses = tuple(value.uses())
            if array is None or array.dtype != np.float32 or not uses or value.is_graph_output():
                continue
            user = uses[0].node
            if array.size < self.min_elements:
                tally.refuse(user, f"its constant is {array.size} numbers, fewer than {self.min_elements}")
                continue
            if np.abs(array).max() > _LARGEST:
                tally.refuse(user, "its constant exceeds the range of float16")
                continue
            _halve(model.graph, value, array)
            tally.rewritten += 1
        return tally.result()


def _halve(graph: ir.Graph, value: ir.Value, array: ir.Array) -> None:
    name = str(value.name)
    half = ir.add_initializer(graph, array.astype(np.float16), ir.fresh_name(graph, f"{name}_float16"))
    cast = new_node("Cast", [half], value, {"to": int(ir.DataType.FLOAT)}, name=f"{name}_cast")
    cast.outputs[0].name = ir.fresh_name(graph, f"{name}_float32")
    graph.insert_before(graph[0], [cast])  # sub-graphs may read it too
    ir.convenience.replace_all_uses_with(value, cast.outputs[0])
