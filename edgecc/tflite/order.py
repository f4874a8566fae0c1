"""Operators of a graph for TFLite Micro, in the order in which least memory is needed."""

from __future__ import annotations

from edgecc.analysis.memory import head_bytes
from edgecc.analysis.micro_kernels import Machine
from edgecc.analysis.schedule import lower_peak
from edgecc.tflite.flat import network_of
from edgecc.tflite.graph import Graph

# A 32-bit core; which kernels it has changes scratch buffers, and with them hardly ever which order is best.
_MACHINE = Machine(4, "reference")


def order_operators(graph: Graph) -> tuple[int, int] | None:
    """Orders the operators anew where that lowers the peak of the activations.

    Returns:
        Bytes before and after; None where the order stays.
    """
    network = network_of(graph)
    order = lower_peak(network, _MACHINE)
    if order is None:
        return None
    graph.operators = [graph.operators[i] for i in order]
    return head_bytes(network, _MACHINE), head_bytes(network.ordered(order), _MACHINE)
