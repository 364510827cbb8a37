"""Tables of people: what is read, what is refused."""

import pytest

from strokect.core.clinical import UNKNOWN, Clinical
from strokect.core.errors import ScanError
from strokect.io.people import read_people


def test_everything_of_a_table(tmp_path):
    path = tmp_path / "participants.tsv"
    path.write_text(
        "participant_id\tNIHSS\tage\tsex\tgroup\tsplit\tsite\n"
        "sub-1\t12\t71.5\tfemale\tnon-lvo\ttest\tM2\n"
        "sub-2\tn/a\t\tn/a\tother\tn/a\tn/a\n"
    )
    first, second = read_people(path).values()
    assert first.clinical == Clinical(12, 71.5, "F")
    assert (first.group, first.split, first.cells["site"]) == ("non-LVO", "test", "M2")
    assert (second.group, second.split, second.clinical) == ("", "", UNKNOWN)


@pytest.mark.parametrize("mark", [",", ";"])
def test_commas_and_semicolons(tmp_path, mark):
    path = tmp_path / "clinical.csv"
    path.write_text(f"patient{mark}gender{mark}nihss\n01_001{mark}M{mark}3\n", encoding="utf-8-sig")
    assert read_people(path)["01_001"].clinical == Clinical(nihss=3, sex="M")


def test_no_table_is_nobody(tmp_path):
    assert read_people(tmp_path / "participants.tsv") == {}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a\t99\ttest", r"nihss 99.* in line 2.*participants\.tsv"),
        ("a\thigh\ttest", r"nihss 'high' in line 2"),
        ("a\t3\ttesting", "split 'testing' in line 2"),
        ("\t3\ttest", "no participant_id in line 2"),
        ("a\t3\ttest\na\t3\ttest", "a stands there twice"),
    ],
)
def test_what_cannot_be_is_named(tmp_path, line, message):
    path = tmp_path / "participants.tsv"
    path.write_text(f"participant_id\tnihss\tsplit\n{line}\n")
    with pytest.raises(ScanError, match=message):
        read_people(path)
