"""What the dialects of image and video models share: parts of a module, their algebra, names and spellings."""
