"""The version of the package: in its metadata, in the files that it writes, and in `adaptzip --version`."""

__version__ = "0.1.0"
