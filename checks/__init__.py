"""Checks of the documentation, which `make docs` runs, and of the tests (`python -m checks.mutants`)."""
