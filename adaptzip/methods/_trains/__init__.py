"""Tensor trains (Oseledets 2011): factors of widths, decomposition in batches, refinement, and shapes of chains."""

from __future__ import annotations

from adaptzip.methods._trains.chains import Half, Shape, chain_shape
from adaptzip.methods._trains.decompose import spectra, tt_svd
from adaptzip.methods._trains.modes import factorise
from adaptzip.methods._trains.sweeps import contract, sweep

__all__ = ["Half", "Shape", "chain_shape", "contract", "factorise", "spectra", "sweep", "tt_svd"]
