"""One vector whose numbers stand in the factors of all modules: where, and what is fitted."""
