"""adaptzip beside every peer: `python -m benchmarks.peers`."""
