"""Wheel and sdist: built, looked into, and installed where no repository is, at the lowest and the newest versions."""
