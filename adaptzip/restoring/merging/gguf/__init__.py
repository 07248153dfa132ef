"""Merging into a base model in GGUF: a file of llama.cpp's for another."""

from adaptzip.restoring.merging.gguf.merging import check_file, merge_gguf, planned

__all__ = ["check_file", "merge_gguf", "planned"]
