"""Counts packed and scalar floating-point instructions in compiled numba kernels. It explains a speed-up, it does not prove one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

# x86: vaddps/vfmadd231ps/mulpd are packed, …ss/…sd scalar. AArch64: fmla v0.4s is packed, fmadd s0 scalar.
_X86_SCALAR = re.compile(r"^\s*v?(?:add|sub|mul|div|fn?m(?:add|sub)\d*)s[sd]\b", re.M)
_X86_VECTOR = re.compile(
    r"^\s*v?(?:(?:add|sub|mul|div|fn?m(?:add|sub)\d*)p[sd]|pmaddwd|pdpbusd\w*|pdpwssd\w*|padd[bwdq]|pmull[wd])\b.*%([xyz])mm", re.M
)
_ARM_PACKED = re.compile(r"^\s*(?:f(?:add|sub|mul|div|mla|mls)|s(?:dot|mlal)|udot)\s+v\d+\.", re.M)
_ARM_SCALAR = re.compile(r"^\s*f(?:add|sub|mul|div|madd|msub)\s+[sd]\d+", re.M)
_REGISTER_BITS = {"x": 128, "y": 256, "z": 512}


def count_instructions(assembly: str) -> dict[str, int]:
    """Return `packed` and `scalar` arithmetic instruction counts and the widest vector register in bits (0 if none)."""
    widths = _X86_VECTOR.findall(assembly)
    arm = len(_ARM_PACKED.findall(assembly))
    bits = max((_REGISTER_BITS[width] for width in widths), default=128 if arm else 0)
    scalar = len(_X86_SCALAR.findall(assembly)) + len(_ARM_SCALAR.findall(assembly))
    return {"packed": len(widths) + arm, "scalar": scalar, "register_bits": bits}


def kernel_instructions(names: Iterable[tuple[str, Any]]) -> list[dict[str, Any]]:
    """For every compiled numba function among `names`: its name, signature, and instruction counts."""
    kernels = []
    for name, value in names:
        inspect_asm = getattr(value, "inspect_asm", None)
        if not callable(inspect_asm) or type(value).__module__.split(".")[0] != "numba":
            continue
        for signature, assembly in inspect_asm().items():
            kernels.append({"name": name, "signature": str(signature)[:200], **count_instructions(assembly)})
    return kernels
