"""Low-rank factors whose rows are cut into pieces, each a convex mixture of a few vectors of one shared bank.

The parametrisation is VB-LoRA's (Li, Han and Ji 2024, arXiv:2405.15179): a piece is the sum of k bank vectors with
weights that are not negative and add up to 1. Here it is fitted to given updates instead of trained.
"""
