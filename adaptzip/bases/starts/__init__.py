"""Known starts: the random numbers that A began with, made again bit by bit, found, searched and recorded."""
