"""Runs CUDA kernels on the CPU, for tests on machines without a GPU.

``emulator`` compiles a kernel's text as C++ and runs its grid with checks of every access; ``cupy`` stands in for the parts of
CuPy that minidl uses, on top of it.
"""
