"""Packed files: a lossless container of a compiled network, for storage, updates and devices that unpack at boot."""

from edgecc.pack.container import Packed, pack, unpack

__all__ = ["Packed", "pack", "unpack"]
