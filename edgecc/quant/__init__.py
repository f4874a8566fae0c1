"""What is quantized and how: parameters, the plan, and the rules of each runtime."""

from typing import Literal

# Of one node: mixed plans, and nodes pinned in others. fp16 and dynamic store the weights in float16 and int8.
NodePrecision = Literal["int8", "int16x8", "int4", "fp32", "fp16", "dynamic"]
