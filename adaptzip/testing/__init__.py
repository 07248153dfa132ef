"""Conformance suites for plug-ins: their authors inherit the tests that the package's own pass."""
