"""Prepared scans on disk."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from strokect.core.errors import OutputError
from strokect.learn.cache import Example, read_example, write_example


def _example(labels=True, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(1, 4, 3, 6, 5)).astype(np.float32)
    truth = rng.integers(0, 4, (3, 6, 5)).astype(np.uint8) if labels else None
    return Example(image, truth, rng.random((3, 6, 5)) < 0.5)


def test_roundtrip_is_what_was_returned_at_once(tmp_path):
    made = _example()
    first = write_example(tmp_path / "case", made)
    again = read_example(tmp_path / "case")
    for found in (first, again):
        assert found.image.dtype == np.float16
        assert (found.image == made.image.astype(np.float16)).all()
        assert (found.labels == made.labels).all() and found.labels.dtype == np.uint8
        assert (found.brain == made.brain).all() and found.brain.dtype == bool
        assert isinstance(found.image, np.memmap)  # mapped, not read
    assert [p.name for p in tmp_path.iterdir()] == ["case"]


def test_a_scan_without_labels(tmp_path):
    assert write_example(tmp_path / "case", _example(labels=False)).labels is None


def test_nothing_there_is_nothing(tmp_path):
    assert read_example(tmp_path / "case") is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("image.npy", b""),
        ("image.npy", b"\x93NUMPY\x01\x00"),
        ("labels.npy", b"junk"),
        ("parts.json", b""),
        ("parts.json", b"{"),
        ("parts.json", b"3"),
        ("parts.json", b"null"),
        ("parts.json", b"[]"),
        ("parts.json", b'["image"]'),
        ("parts.json", b'{"image": 1}'),
    ],
)
def test_what_stands_there_broken_is_prepared_anew(tmp_path, name, content):
    folder = tmp_path / "case"
    write_example(folder, _example())
    (folder / name).write_bytes(content)
    assert read_example(folder) is None
    made = _example(seed=1)
    assert (write_example(folder, made).labels == made.labels).all()
    assert (read_example(folder).labels == made.labels).all()
    assert [p.name for p in tmp_path.iterdir()] == ["case"]


@pytest.mark.parametrize("name", ["image.npy", "brain.npy", "parts.json"])
def test_a_file_cut_short_or_gone(tmp_path, name):
    folder = tmp_path / "case"
    write_example(folder, _example())
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    assert read_example(folder) is None
    (folder / name).unlink()
    assert read_example(folder) is None


def test_pickles_are_not_read(tmp_path):
    folder = tmp_path / "case"
    write_example(folder, _example())
    np.save(folder / "image.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert read_example(folder) is None


def test_many_writers_at_once_leave_one_whole_scan(tmp_path):
    folder, made = tmp_path / "case", _example()
    folder.mkdir()
    (folder / "parts.json").write_text("broken")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: write_example(folder, made), range(32)))
    assert all((f.labels == made.labels).all() for f in found)
    assert [p.name for p in tmp_path.iterdir()] == ["case"]


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Choose --cache"):
        write_example(tmp_path / "file" / "case", _example())
