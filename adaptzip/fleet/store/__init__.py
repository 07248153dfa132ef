"""A store of many adapters: a folder or bucket, with an index of one row for each."""
