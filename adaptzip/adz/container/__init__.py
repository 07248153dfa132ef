"""The `.adz` file: a safetensors file with one stream per role and one metadata key (formats/adz-1.md).

The JSON schema of the metadata is the resource `metadata.schema.json` of this package:
`importlib.resources.files("adaptzip.adz.container") / "metadata.schema.json"`.
"""
