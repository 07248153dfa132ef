"""Tensor trains (Oseledets 2011): factors of widths, decomposition in batches, refinement, and shapes of chains."""

from __future__ import annotations

from adaptzip.trains.chains import Half, Shape, chain_shape
from adaptzip.trains.decompose import spectra, tt_svd
from adaptzip.trains.modes import factorise
from adaptzip.trains.sweeps import contract, sweep

__all__ = ["Half", "Shape", "chain_shape", "contract", "factorise", "spectra", "sweep", "tt_svd"]
