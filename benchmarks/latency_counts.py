"""Cycles that CMSIS-NN's int8 kernels need by their sources: the first guess of microcontrollers' rates.

Counted by hand in the innermost loops of https://github.com/ARM-software/CMSIS-NN, of what the published figures are
as old as (commit 8eb50178, December 2021), and of MVE's in commit 99f736a6 (July 2026), where the loops of
convolutions and matrix products are in assembly. No measured figure went into them. An instruction takes one cycle, a
load or a store two, a taken branch three (Cortex-M4 Technical Reference Manual, table 3-1: two to four; the speed of
each core is fitted, so that ratios matter); an instruction on a vector of 16 bytes takes two (Cortex-M55 and M85
execute two of its four beats a cycle).
"""

from __future__ import annotations

from collections.abc import Mapping


def _cycles(conv1x1: float, conv: float, depthwise: float, fc: float, written: float) -> dict[str, float]:
    convolutions = dict.fromkeys(("conv3x3", "conv3x3_odd", "conv", "grouped"), conv)
    return {"conv1x1": conv1x1, **convolutions, "depthwise": depthwise, "fc": fc, "written": written}


# Cores with the DSP extension; (loads, arithmetic, loop) cycles.
#   fc: arm_nn_vec_mat_mult_t_s8, 2 rows by 4 columns: 3 loads, 6 extensions, 4 SMLAD: (6 + 10 + 4) / 8.
#   conv1x1: arm_nn_mat_mult_nt_t_s8, 2 pixels by 2 filters by 16 channels: (32 + 64 + 5) / 64: what it loads and
#       extends is used twice, which a product of one vector cannot.
#   conv: arm_nn_mat_mult_kernel_s8_s16, 2 by 2 by 4: 6 loads, 8 extensions and packings, 8 SMLAD: (12 + 16 + 4) / 16.
#       An element of a patch is converted once (arm_q7_to_q15_with_offset: 14 cycles for 4), for 32 filters say: + 0.1.
#   depthwise: arm_depthwise_conv_3x3_s8, a row of 3 taps by 4 channels: 6 loads; 2 extensions and an MLA for each of
#       12: (12 + 36 + 11) / 12.
#   written: arm_nn_requantize 19, offset and limits 5, multiplier, shift, bias and the store 8.
DSP = _cycles(conv1x1=1.6, conv=2.1, depthwise=4.9, fc=2.5, written=32)

# Cores with MVE: arm_nn_mat_mult_nt_t_s8 and arm_nn_vec_mat_mult_t_s8 take 10 vector instructions for 64
# multiply-accumulates, arm_nn_depthwise_conv_nt_t_s8 14 for 16, rescaling 16 for 4 elements.
MVE = _cycles(conv1x1=20 / 64, conv=20 / 64, depthwise=28 / 16, fc=20 / 64, written=32 / 4)


def cycles(engine: str) -> Mapping[str, float]:
    """Those of an engine's multiply-accumulates and written elements; of closed sources the DSP kernels'."""
    return MVE if "MVE" in engine else DSP
