"""Why a pass left an operator alone that nothing else serves, kept with the node for whoever reports it."""

from __future__ import annotations

from edgecc import ir

_KEY = "edgecc.refused"
_CONTROL = "export the network for the one case that the device needs, or take this part out of it"
_SEQUENCE = "TFLite has tensors only: stack or split the tensors with Concat and Split instead"
_RECURRENT = "export it with a fixed sequence length, or raise max_steps of the pass unroll_recurrent"
# Of a recurrent layer, with a remedy of its own.
UNKNOWN_BATCH = "its batch is not known when compiling"
_BIND = "bind it with --input-shape"
# Operator -> reason where no pass gave a better one, and what can be done.
_KNOWN: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("If", "Loop", "Scan"), ("it runs a graph that the passes did not unfold", _CONTROL)),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), ("its steps are not unrolled", _RECURRENT)),
    **dict.fromkeys(
        (
            "ConcatFromSequence",
            "SequenceAt",
            "SequenceConstruct",
            "SequenceEmpty",
            "SequenceErase",
            "SequenceInsert",
            "SequenceLength",
            "SequenceMap",
            "SplitToSequence",
        ),
        ("it works on a sequence of tensors", _SEQUENCE),
    ),
    **dict.fromkeys(
        ("Unique", "Compress"),
        (
            "how many rows its result has depends on the data",
            "end the network before it, and do this in the application",
        ),
    ),
    **dict.fromkeys(
        ("Optional", "OptionalGetElement", "OptionalHasElement"),
        ("it works on a value that may be absent", "export the network without optional values"),
    ),
}


def note(node: ir.Node, reason: str) -> None:
    """Keeps the reason with the node."""
    node.meta[_KEY] = reason


# Operators whose result has as many rows as the data say, and what can be done.
_COUNTING = dict.fromkeys(
    ("NonMaxSuppression", "NonZero", "Unique", "Compress"),
    "end the network before it, and do this in the application",
)


def unknown_size(node: ir.Node) -> tuple[str, str]:
    """Why the shape of a result is not known, and what can be done."""
    if not node.domain and node.op_type in _COUNTING:
        return "how many rows its result has depends on the data", _COUNTING[node.op_type]
    return "its output shape is not known when compiling", _BIND


def reason_and_remedy(node: ir.Node) -> tuple[str, str]:
    """Why nothing serves this operator, and what can be done."""
    reason, remedy = ("no TFLite kernel serves this operator", "replace it in the network")
    if not node.domain:
        reason, remedy = _KNOWN.get(node.op_type, (reason, remedy))
    reason = str(node.meta.get(_KEY, reason))
    return reason, _BIND if reason == UNKNOWN_BATCH else remedy
