"""What machine this is, and what a figure measured on it depends on. Of the standard library alone: it travels, too."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

# CPU part -> core, of Arm's own (implementer 0x41): Linux, arch/arm64/include/asm/cputype.h.
_CORES = {
    "0xd03": "Cortex-A53", "0xd04": "Cortex-A35", "0xd05": "Cortex-A55", "0xd07": "Cortex-A57", "0xd08": "Cortex-A72",
    "0xd09": "Cortex-A73", "0xd0a": "Cortex-A75", "0xd0b": "Cortex-A76", "0xd0d": "Cortex-A77", "0xd41": "Cortex-A78",
    "0xd46": "Cortex-A510", "0xd47": "Cortex-A710", "0xd4d": "Cortex-A715", "0xd80": "Cortex-A520",
    "0xc07": "Cortex-A7", "0xc09": "Cortex-A9", "0xc0f": "Cortex-A15",
}  # fmt: skip


def machine() -> str:
    """Board and processor, as far as the system tells."""
    board = text("/proc/device-tree/model").rstrip("\0")
    names: dict[str, int] = {}
    for line in text("/proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        value = " ".join(value.split())
        if key.strip() == "model name":
            names[value] = names.get(value, 0) + 1
        elif key.strip() == "CPU part" and value in _CORES:
            names[_CORES[value]] = names.get(_CORES[value], 0) + 1
    if any(name in _CORES.values() for name in names):  # 32-bit kernels give a vague model name as well
        names = {name: count for name, count in names.items() if name in _CORES.values()}
    cores = " + ".join(f"{count} x {name}" for name, count in names.items())
    return ", ".join(
        part
        for part in (board, cores, platform.machine(), f"{platform.system()} {platform.release()}")
        if part
    )


def facts() -> dict[str, Any]:
    """What a measured figure depends on; what the system does not tell is left out."""
    cpu = "/sys/devices/system/cpu/cpu0/cpufreq/"
    found = {
        "governor": text(cpu + "scaling_governor"),
        "mhz": number(text(cpu + "scaling_cur_freq"), 1e-3),
        "most_mhz": number(text(cpu + "cpuinfo_max_freq"), 1e-3),
        "celsius": number(text("/sys/class/thermal/thermal_zone0/temp"), 1e-3),
        "load": number(text("/proc/loadavg").partition(" ")[0], 1.0),
        # Raspberry Pi, documentation of vcgencmd: bits of get_throttled.
        "throttled": text("/sys/devices/platform/soc/soc:firmware/get_throttled"),
    }
    return {name: value for name, value in found.items() if value not in ("", None)}


def text(path: str) -> str:
    """What a file of the system says; nothing where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def number(word: str, unit: float) -> float | None:
    """A number in another unit; None where it is none."""
    try:
        return float(word) * unit
    except ValueError:
        return None
