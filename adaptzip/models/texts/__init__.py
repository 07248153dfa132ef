"""Texts: files of them, what their fields are, labels, and the tokenisers that make numbers of them."""
