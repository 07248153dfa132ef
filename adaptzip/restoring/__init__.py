"""The way back: whatever holds an adapter is read, reconstructed, exported, or merged into its base model."""
