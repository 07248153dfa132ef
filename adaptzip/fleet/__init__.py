"""Jobs over many adapters, and the stores that hold what comes of them."""
