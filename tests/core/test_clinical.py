"""What is known of the patient beside the images, and how tables say it."""

import math

import pytest

from strokect.core.clinical import UNKNOWN, Clinical, parse_clinical
from strokect.core.errors import InputError


@pytest.mark.parametrize(
    ("cells", "found"),
    [
        ({}, UNKNOWN),
        ({"nihss": "12", "age": "71.5", "sex": "F"}, Clinical(12, 71.5, "F")),
        ({" NIHSS ": " 0 ", "Age": "120", "Gender": "male"}, Clinical(0, 120, "M")),
        ({"nihss": "n/a", "age": "", "sex": "Unknown"}, UNKNOWN),
        ({"nihss": "NaN", "age": "NA", "gender": "n/a"}, UNKNOWN),
        ({"sex": "n/a", "gender": "Female"}, Clinical(sex="F")),
        ({"sex": "m", "gender": "F"}, Clinical(sex="M")),
        ({"group": "LVO", "nihss": "42"}, Clinical(42)),
        ({None: ["more", "cells"], "nihss": None}, UNKNOWN),  # as the csv module gives them
    ],
)
def test_cells_of_a_table(cells, found):
    assert parse_clinical(cells) == found


@pytest.mark.parametrize(
    ("cells", "name", "value"),
    [
        ({"nihss": "mild"}, "nihss", "'mild'"),
        ({"nihss": "43"}, "nihss", "43"),
        ({"nihss": "-1"}, "nihss", "-1"),
        ({"age": "inf"}, "age", "inf"),
        ({"age": "71,5"}, "age", "'71,5'"),
        ({"sex": "other"}, "sex", "'other'"),
        ({"sex": "1"}, "sex", "'1'"),
        ({"gender": "fatherland"}, "sex", "'fatherland'"),
    ],
)
def test_what_cannot_be_is_told(cells, name, value):
    with pytest.raises(InputError) as error:
        parse_clinical(cells)
    assert (error.value.where, error.value.fix[:4]) == (name, "Give")
    assert value in error.value.what


@pytest.mark.parametrize(
    "wrong", [{"nihss": 42.5}, {"age": -0.1}, {"age": math.nan}, {"sex": "f"}, {"sex": ""}]
)
def test_records_hold_nothing_that_cannot_be(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        Clinical(**wrong)
