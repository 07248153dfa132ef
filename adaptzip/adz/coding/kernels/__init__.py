"""Kernels: what the files beside this folder say in numpy and torch, bit for bit, as loops for numba to compile."""
