"""Measures of rows of outputs against labels or a teacher: tallies, metrics, and intervals of their differences."""
