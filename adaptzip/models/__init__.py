"""Base models on disk: weights by name, the names adapters use for them, and how they lie in memory."""
