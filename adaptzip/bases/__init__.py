"""Where frozen bases come from: base weights, updates, gradients, and the artefact that holds one for many adapters."""
