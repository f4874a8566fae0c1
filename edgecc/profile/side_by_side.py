"""What a file takes on several targets: each by the best there is for it, an NPU's compiler or a prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecc.errors import EdgeccError, UnsupportedError, UsageError
from edgecc.target import Target

if TYPE_CHECKING:
    from edgecc.micro import MemoryFacts
    from edgecc.profile.npu import NpuFigures
    from edgecc.profile.predict import Prediction
    from edgecc.report.terminal import Table


@dataclass(frozen=True)
class SideBySide:
    """The figures of one file, each with its tier.

    Attributes:
        computed: by the compiler of a target's NPU.
        predictions: for the other targets.
        missing: target -> why there is no figure.
        memory: target -> what TFLite Micro takes there, predicted; of .tflite files.
    """

    computed: tuple[NpuFigures, ...]
    predictions: tuple[Prediction, ...]
    missing: Mapping[str, str]
    memory: Mapping[str, MemoryFacts] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON takes it."""
        return {
            "computed": [f.to_dict() for f in self.computed],
            "predictions": [p.to_dict() for p in self.predictions],
            "missing": dict(self.missing),
            "memory": {name: asdict(facts) for name, facts in self.memory.items()},
        }

    def tables(self, limit: int | None = 20, title: str = "") -> list[Table | str]:
        """Targets side by side: those of one tier in a table, and why others have no figure."""
        from edgecc.micro import excess
        from edgecc.report.memory import fact_lines
        from edgecc.report.npu import npu_tables
        from edgecc.report.predictions import prediction_tables

        items: list[Table | str] = [] if not self.computed else npu_tables(self.computed, limit, title)
        items += [] if not self.predictions else prediction_tables(self.predictions, limit, title)
        items += [f"{name}: no figure: {reason}" for name, reason in self.missing.items()]
        for name, facts in self.memory.items():
            items += [f"{name}: {line}" for line in fact_lines(facts)]
            items += [f"{name}: does not fit: {line}" for line in excess(facts, name) if line]
        return items

    def page(self, title: str) -> str:
        """One self-contained HTML page."""
        from edgecc.report.page import figures_page

        return figures_page(self, title)


def side_by_side(
    path: Path,
    devices: Sequence[Target],
    *,
    precision: str | None = None,
    input_shape: dict[str, tuple[int, ...]] | None = None,
) -> SideBySide:
    """The figures of a file on targets; one that has none is told, if another has.

    Args:
        path: an int8 .tflite file for targets with an NPU; .tflite or .onnx for the others.
        devices: the targets.
        precision, input_shape: of a prediction.

    Raises:
        EdgeccError: no target has a figure; the first one's reason.
    """
    from edgecc.profile.predict import predict_file
    from edgecc.profile.vela import profile_with_vela

    computed: list[NpuFigures] = []
    predictions: list[Prediction] = []
    missing: dict[str, str] = {}
    first: EdgeccError | None = None
    for device in devices:
        try:
            if device.vela is not None:
                computed.append(profile_with_vela(path, device))
            else:
                predictions.append(predict_file(path, device, precision=precision, input_shape=input_shape))
        except (UnsupportedError, UsageError) as error:  # about this target; a damaged file concerns all
            missing[device.board or device.name] = str(error)
            first = first or error
    memory = _memory(path, devices)
    if first is not None and not (computed or predictions or memory):
        raise first
    return SideBySide(tuple(computed), tuple(predictions), missing, memory)


def _memory(path: Path, devices: Sequence[Target]) -> dict[str, MemoryFacts]:
    from edgecc.micro import file_facts, runs_in_micro

    chosen = [device for device in devices if runs_in_micro(device, "tflite")]
    if path.suffix != ".tflite" or not path.is_file() or not chosen:
        return {}
    data = path.read_bytes()
    return {device.board or device.name: file_facts(data, device) for device in chosen}
