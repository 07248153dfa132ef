"""Kernels: what the files beside this folder say in torch, bit for bit, as loops for numba to compile."""
