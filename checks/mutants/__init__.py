"""How many small mistakes in a room of the package its tests notice: `python -m checks.mutants ROOM`."""
