"""`MethodTests`: what every method must do, for its author to inherit.

    from adaptzip.testing import MethodTests
    from my_package import METHOD

    class TestMine(MethodTests):
        method = METHOD

pytest finds the class, and with it some sixty tests: of layouts against what is stored, of errors and predictions
against the dense update, of budgets, of files that come back, and of adapters of odd shapes. Nothing has to be
installed for it; where the method's package is, the tests run on what is.
"""

from __future__ import annotations

from adaptzip.testing._coding import CodingTests
from adaptzip.testing._files import FileTests
from adaptzip.testing._layouts import LayoutTests
from adaptzip.testing._limits import LimitTests
from adaptzip.testing._shapes import ShapeTests


class MethodTests(LayoutTests, CodingTests, LimitTests, FileTests, ShapeTests):
    """The conformance suite of a `Method`; a subclass names the one that it tests as `method`.

    Attributes:
        method: the object that its entry point names.
        prediction_factor: how far its predictions may be from what comes, either way, for a module of a thousand
            numbers; 2.5 unless a subclass says otherwise.
        scale_free: whether updates that are equal up to a factor are coded with equal relative errors; True unless a
            subclass says otherwise.
    """
