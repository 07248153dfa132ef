"""Checks that the documentation says what the code does; `make docs` runs them."""
