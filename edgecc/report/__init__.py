"""One `Report`, written as JSON, as a self-contained HTML page and as terminal tables."""

from __future__ import annotations

from edgecc.report.schema import (
    ArtifactFacts,
    Island,
    ModelFacts,
    Report,
    Transpose,
    artifact_facts,
    model_facts,
)

__all__ = [
    "ArtifactFacts",
    "Island",
    "ModelFacts",
    "Report",
    "Transpose",
    "artifact_facts",
    "model_facts",
]
