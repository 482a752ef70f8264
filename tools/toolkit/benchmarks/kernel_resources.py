"""Registers and spills of CUDA kernels, as the tools of CUDA print them."""

import re


def read_ptxas(lines: list[str]) -> list[dict]:
    """Registers, and bytes stored and loaded by spills, of each kernel.

    Files compile side by side, but each assembler prints its lines together.
    """
    kernels = []
    name, spilled = None, 0
    for line in lines:
        if found := re.search(r"Compiling entry function '(\w+)'", line):
            name, spilled = found[1], 0
        elif found := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill", line):
            spilled = int(found[1]) + int(found[2])
        elif name and (found := re.search(r"Used (\d+) registers", line)):
            kernels.append(
                dict(kernel=name, registers=int(found[1]), spilled_bytes=spilled)
            )
            name = None
    return kernels


def read_cuobjdump(lines: list[str]) -> list[dict]:
    """The same from the library, where local memory stands for spills."""
    kernels, name = [], None
    for line in lines:
        if found := re.search(r"Function (\w+):", line):
            name = found[1]
        elif name and (found := re.search(r"REG:(\d+) .*?LOCAL:(\d+)", line)):
            kernels.append(
                dict(kernel=name, registers=int(found[1]), spilled_bytes=int(found[2]))
            )
            name = None
    return kernels
