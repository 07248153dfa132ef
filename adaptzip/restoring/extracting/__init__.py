"""Making an adapter out of a base model and what became of it."""

from adaptzip.restoring.extracting.extraction import Extraction, extract, extraction

__all__ = ["Extraction", "extract", "extraction"]
