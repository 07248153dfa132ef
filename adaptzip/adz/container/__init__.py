"""The `.adz` file: a safetensors file with one stream per role and one metadata key (formats/adz-1.md)."""
