"""Compiled code for x86 CPUs with AVX2: what torch is slow at there. Optional, and decides nothing.

The C files are compiled when the package is installed, where there is a compiler.
"""
