"""Programs that measure the package; docs/benchmarks.md holds what they printed and how to run them again."""
