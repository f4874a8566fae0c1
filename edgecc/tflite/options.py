"""Numbers of the schema's enumerations that lowerings name."""

from __future__ import annotations

# schema.fbs: enum ActivationFunctionType
ACTIVATIONS = {"NONE": 0, "RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3}
