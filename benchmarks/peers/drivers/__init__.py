"""What runs in a peer's own environment: a program a peer, which imports nothing of adaptzip."""
