"""JSON files of settings: what is wrong is said with line and column."""

import pytest

from strokect.core.errors import SettingsError
from strokect.core.json_files import read_json_object

BROKEN = [
    ('{\n  "EXPERIMENT": 1,\n  "PATIENTS_TO_TEST": [""..."]\n}\n', (3, 25), '""..."'),
    ('{\n  "EXPERIMENT": 1,\n  "models": [{"name": "mJNet",}]\n}\n', (3, 31), "comma"),
    ('{\n  "EXPERIMENT": 1\n  "root_path": "x"\n}\n', (3, 3), "comma is missing"),
    ('{\n  "EXPERIMENT": 1,\n  "models": [\n', (4, 1), "ends too early"),
    ('{"EXPERIMENT": True}', (1, 16), "true, false"),
    ('{"EXPERIMENT": 1, // no\n}', (1, 19), "comments"),
]


@pytest.mark.parametrize(("text", "where", "hint"), BROKEN)
def test_broken_json_names_file_line_and_column(tmp_path, text, where, hint):
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(SettingsError) as error:
        read_json_object(path, "{}")
    found = str(error.value.where)
    line, column = (int(n) for n in found.removeprefix(f"{path}:").split(":"))
    # Newer Pythons point at a comma too many itself, older ones behind it.
    assert line == where[0] and abs(column - where[1]) <= 1, found
    assert hint in str(error.value.fix)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a": NaN}', "NaN"),
        (b"[1]", "no JSON object"),
        (b"\xff\xfe{", "UTF-8"),
        (b"", "ends too early"),
    ],
)
def test_other_files_that_cannot_be_read(tmp_path, raw, said):
    path = tmp_path / "bad.json"
    path.write_bytes(raw)
    with pytest.raises(SettingsError, match=said) as error:
        read_json_object(path, "{}")
    assert str(path) in str(error.value)


def test_a_mark_at_the_start_does_no_harm(tmp_path):
    path = tmp_path / "windows.json"
    path.write_bytes(b"\xef\xbb\xbf" + b'{"a": 1}')
    assert read_json_object(path, "{}") == {"a": 1}
