"""Training a compressed adapter to act like its teacher."""
