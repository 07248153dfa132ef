"""The `.adz` file: how numbers become bytes (coding) and bytes a file (container)."""
