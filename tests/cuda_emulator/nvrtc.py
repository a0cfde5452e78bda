"""CUDA's own compiler, which needs no GPU: whether it takes a text, and what it makes of the kernels."""

from __future__ import annotations

import re
from dataclasses import dataclass

from minidl.kernels.cuda._launch import Source

try:
    from cupy_backends.cuda.libs import nvrtc

    nvrtc.getVersion()
    MISSING = None
except Exception as error:  # CuPy raises its own errors where a library is missing
    MISSING = f"no NVRTC with CuPy: {type(error).__name__}"

CUPY_OPTIONS = "-ftz=true", "--device-as-default-execution-space"  # what CuPy adds to those of a RawModule

_PROPERTIES = re.compile(
    r"Function properties for (\w+)\s+ptxas\s+\.?\s*(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
    r"\s+ptxas info\s*: Used (\d+) registers(?:.*?(\d+) bytes smem)?"
)


@dataclass(frozen=True)
class Usage:
    """What a kernel takes of the GPU: registers of a thread, bytes of local memory and of spilled registers, shared bytes."""

    registers: int
    local: int
    spilled: int
    shared: int


class CompileError(AssertionError):
    """CUDA's compiler does not take the text."""


def usage(source: Source, dtype: str, architecture: str = "sm_90") -> dict[str, Usage]:
    """Compile a text for a dtype and a GPU; what each kernel of it takes."""
    program = nvrtc.createProgram(source.code, "kernels.cu", [], [])
    try:
        options = (*source.options(dtype), *CUPY_OPTIONS, f"-arch={architecture}", "--ptxas-options=-v")
        try:
            nvrtc.compileProgram(program, options)
        except nvrtc.NVRTCError as error:
            raise CompileError(f"{error}\n{nvrtc.getProgramLog(program)}") from error
        log = nvrtc.getProgramLog(program)
    finally:
        nvrtc.destroyProgram(program)
    return {
        name: Usage(int(registers), int(stack), int(stores) + int(loads), int(shared or 0))
        for name, stack, stores, loads, registers, shared in _PROPERTIES.findall(log)
    }
