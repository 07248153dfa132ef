"""Base models in memory: loading them, putting adapters on their layers, and running texts through them."""
