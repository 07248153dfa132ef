"""Files and folders on disk: which are read, how they are written, and what killed runs leave."""
