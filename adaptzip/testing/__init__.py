"""Tests that a plug-in's author inherits, and adapters to test with; needs the extra `adaptzip[testing]`.

`MethodTests` is for a `Method`, `FunctionMethodTests` for a `FunctionMethod`, and `DialectTests` for a `Dialect`;
`adaptzip.testing.adapters` makes adapters, one by one or as hypothesis strategies.
"""

from __future__ import annotations

import pytest

# Before they are imported, so that a failing `assert` of theirs is explained as one in a test file is.
_ASSERTING = ("_coding", "_files", "_layouts", "_limits", "_shapes", "dialects", "functions")
pytest.register_assert_rewrite(*(f"{__name__}.{name}" for name in _ASSERTING))

from adaptzip.testing.dialects import DialectTests  # noqa: E402
from adaptzip.testing.functions import FunctionMethodTests  # noqa: E402
from adaptzip.testing.methods import MethodTests  # noqa: E402

__all__ = ["DialectTests", "FunctionMethodTests", "MethodTests"]
