"""What lies in every merged model's folder beside its weights and what its base brings."""

from __future__ import annotations

from adaptzip.restoring.merging.provenance import NAME

TOLD = {"README.md", NAME}
