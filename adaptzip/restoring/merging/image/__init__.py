"""Merging into image models: a pipeline's folder, one of its components, or a file in original names."""
