import pytest

from strokect.core import errors
from strokect.core.flags import CODES, flag
from strokect.core.quantities import QUANTITIES

ALL = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception)]


@pytest.mark.parametrize("error", ALL)
def test_every_error_says_what_where_and_what_to_do(error):
    assert issubclass(error, errors.StrokeCTError)
    assert str(error("no scan", "a/b", "Give one")) == "no scan: a/b. Give one"
    assert str(error("no scan")) == "no scan"
    assert error.__name__ in errors.__doc__, "not drawn in the tree"


@pytest.mark.parametrize("error", ALL)
def test_bad_input_leaves_with_2_and_failure_with_1(error):
    assert error.exit_code == (2 if issubclass(error, errors.InputError) else 1)


def test_unknown_quality_codes_are_refused():
    assert flag("MOTION", "moved").code == "MOTION"
    with pytest.raises(KeyError, match="NO_SUCH"):
        flag("NO_SUCH", "x")


def test_codes_and_quantities_are_unambiguous():
    assert all(code == code.upper() for code in CODES)
    assert all(key == q.key for key, q in QUANTITIES.items())
    assert all(q.unit and q.ucum and q.display_range[0] < q.display_range[1]
               for q in QUANTITIES.values())  # fmt: skip
