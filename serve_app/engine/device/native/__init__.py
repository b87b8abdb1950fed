"""Compiled code for x86 CPUs with AVX2, where torch is slow. Optional; decides nothing.

The C files are compiled when the package is installed, if there is a compiler.
"""
