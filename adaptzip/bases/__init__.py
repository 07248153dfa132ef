"""Where frozen bases come from: base weights, updates, gradients, and the artefacts that hold one for many adapters."""
