"""An adapter in outline."""

from __future__ import annotations

import numpy as np

from adaptzip.core.compressed import Site
from adaptzip.core.survey import Survey


def test_the_energy_is_the_sum_of_squares_of_all_singular_values() -> None:
    singular = {"a": np.array([3.0, 2.0]), "b": np.array([1.0]), "zero": np.array([])}
    assert Survey(dict.fromkeys(singular, Site(4, 5)), singular).energy == 14
    assert Survey({}, {}).energy == 0
