import errno
import json

import numpy as np
import pytest

from strokect.core.errors import OutputError, OutputExistsError
from strokect.io.outputs import (
    DONE_FILE,
    atomic_file,
    check_output_folder,
    result_folder,
    to_json,
    write_json,
)


def test_a_finished_block_appears_whole(tmp_path):
    out = tmp_path / "deep" / "result"
    with result_folder(out) as folder:
        assert not out.exists()
        (folder / "maps").mkdir()
        write_json(folder / DONE_FILE, {"a": 1})
    assert json.loads((out / DONE_FILE).read_text()) == {"a": 1}
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_interrupted_block_leaves_nothing(tmp_path, error):
    with pytest.raises(error), result_folder(tmp_path / "r") as folder:
        (folder / "half").write_text("x")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_overwriting_keeps_the_old_result_until_the_new_one_is_whole(tmp_path):
    out = tmp_path / "r"
    with result_folder(out) as folder:
        write_json(folder / DONE_FILE, 1)
    with pytest.raises(OutputExistsError, match="--overwrite"):
        check_output_folder(out, overwrite=False)
    with pytest.raises(ValueError, match="boom"), result_folder(out, overwrite=True) as folder:
        write_json(folder / DONE_FILE, 2)
        raise ValueError("boom")
    assert (out / DONE_FILE).read_text().strip() == "1"
    with result_folder(out, overwrite=True) as folder:
        write_json(folder / DONE_FILE, 3)
    assert (out / DONE_FILE).read_text().strip() == "3"
    assert list(tmp_path.iterdir()) == [out]


def test_foreign_folders_are_never_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputExistsError, match="holds no strokect result"):
        check_output_folder(tmp_path, overwrite=True)
    with pytest.raises(OutputExistsError, match="file stands"):
        check_output_folder(tmp_path / "thesis.txt", overwrite=True)


@pytest.mark.parametrize(
    ("code", "words"), [(errno.ENOSPC, "disk is full"), (errno.EACCES, "Choose another")]
)
def test_file_system_errors_say_what_to_do(tmp_path, code, words):
    with pytest.raises(OutputError, match=words), atomic_file(tmp_path / "x.json"):
        raise OSError(code, "no")
    assert list(tmp_path.iterdir()) == []


def test_a_parent_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        check_output_folder(tmp_path / "file" / "out", overwrite=False)


def test_json_of_numpy_and_of_what_is_no_number():
    text = to_json({"a": np.float32(1.5), "b": np.array([1, 2]), "c": np.nan, "d": (np.int64(3),)})
    assert json.loads(text) == {"a": 1.5, "b": [1, 2], "c": None, "d": [3]}
