"""Regular expressions that stand in files: what Python's `re` says of them, and never more than a bounded wait."""
