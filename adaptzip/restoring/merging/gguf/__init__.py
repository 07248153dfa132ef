"""Merging into a base model in GGUF: a file of llama.cpp's for another."""
