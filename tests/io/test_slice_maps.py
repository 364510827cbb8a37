"""Colour maps in slice folders: written, found in every place, read, refused."""

import numpy as np
import pytest
from PIL import Image

from strokect.core.clinical import Clinical
from strokect.core.colours import colour_coded
from strokect.core.errors import (
    GeometryError,
    InputError,
    OutputExistsError,
    ScanError,
    SettingsError,
)
from strokect.core.mapset import MapSet
from strokect.core.quantities import QUANTITIES
from strokect.core.types import CTSeries, Grid
from strokect.io.datasets import (
    SliceDataset,
    SliceFolderOptions,
    guess_layout,
    write_map_slices,
    write_slices,
)

SHAPE = (3, 8, 6)
GRID = Grid(SHAPE, np.array([[-2.0, 0, 0, 10], [0, -2, 0, 8], [0, 0, 10, -20], [0, 0, 0, 1.0]]))
OPTIONS = SliceFolderOptions(slice_mm=10, pixel_mm=2, interval_s=2, bits=16)
BRAIN = np.zeros(SHAPE, bool)
BRAIN[:, 2:7, 1:5] = True
LABELS = np.where(BRAIN, 1, 0).astype(np.uint8)
LABELS[1, 3, 2:4] = 2, 3


def mapset(names=("cbf", "tmax", "mip"), grid=GRID):
    rng = np.random.default_rng(0)
    tops = {n: 1.2 * QUANTITIES[n].display_range[1] for n in names}
    maps = {n: rng.uniform(0, tops[n], grid.shape).astype(np.float32) for n in names}
    return MapSet(grid, maps, BRAIN if grid is GRID else None)


def expected(name):
    shown = None if name == "mip" else BRAIN
    return colour_coded(mapset().maps[name], QUANTITIES[name], shown)


@pytest.fixture
def root(tmp_path):
    """Two patients of maps and truth alone."""
    for name in ("02_010", "01_002"):
        write_map_slices(tmp_path, name, mapset(), LABELS, OPTIONS)
    return tmp_path


def first(root, options=OPTIONS):
    layout = SliceDataset(options)
    return layout, layout.cases(root)[0]


class TestMapsAlone:
    def test_cases_maps_and_truth(self, root):
        layout = SliceDataset(OPTIONS)
        assert guess_layout(root) == "slices"
        case, other = layout.cases(root)
        assert (case.name, case.patient, case.group) == ("01_002", "01_002", "LVO")
        assert (other.name, other.group) == ("02_010", "non-LVO")
        found = layout.maps(case, ["tmax", "mip", "cbf"])
        assert list(found.maps) == ["tmax", "mip", "cbf"]
        for name, colours in found.maps.items():
            assert colours.dtype == np.uint8
            assert np.array_equal(colours, expected(name)), name
        assert not found.maps["cbf"][~BRAIN].any()
        assert found.grid.spacing_mm == pytest.approx((10, 2, 2))
        assert np.array_equal(layout.labels(case, found.grid), LABELS)

    def test_there_is_no_scan_and_it_is_said(self, root):
        layout, case = first(root)
        with pytest.raises(ScanError, match=r"maps only, no scan.*01_002.*input\.source to files"):
            layout.scan(case)

    def test_finding_opens_nothing(self, root):
        layout, case = first(root)
        before = layout.map_files(case, ["cbf", "ttp", "mip"])
        for path in root.rglob("*.png"):
            path.write_bytes(b"")
        assert layout.cases(root)[0] == case
        assert layout.map_files(case, ["cbf", "ttp", "mip"]) == before
        assert [p.name for p in before] == ["CBF", "MIP"]

    def test_truth_of_other_slices_than_the_maps(self, root):
        layout, case = first(root)
        grid = layout.maps(case, ["cbf"]).grid
        (case.labels / "02.png").rename(case.labels / "9.png")
        with pytest.raises(ScanError, match=r"truth image is missing.*02\.png"):
            layout.labels(case, grid)


@pytest.mark.parametrize(
    "place",
    [
        "Parametric_Maps/CTP_01_002/Tmax",
        "Parametric_Maps/Tmax/01_002",
        "Parametric_Maps/T_MAX/CTP_01_002",
        "01_002/tmax",
        "CTP_01_002/TMax",
    ],
)
def test_maps_in_every_place_and_name(root, place):
    kept = root / "Parametric_Maps" / "01_002" / "TMAX"
    away = root / "away"
    kept.rename(away)
    for other in kept.parent.iterdir():
        for path in other.iterdir():
            path.unlink()
        other.rmdir()
    kept.parent.rmdir()
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    away.rename(root / place)
    for path in (root / place).iterdir():
        path.rename(path.with_name(f"slice{int(path.stem)}.png"))
    layout = SliceDataset(OPTIONS)
    case = {c.patient: c for c in layout.cases(root)}["01_002"]
    found = layout.maps(case, ["tmax"])
    assert np.array_equal(found.maps["tmax"], expected("tmax"))
    assert np.array_equal(layout.labels(case, found.grid), LABELS)
    assert layout.map_files(case, ["tmax"]) == [root / place]


def test_maps_beside_scans(root):
    rng = np.random.default_rng(1)
    data = rng.integers(0, 200, (4, *SHAPE)).astype(np.float32)
    scan = CTSeries(data, np.arange(4) * 2.0, GRID)
    write_slices(root, "02_010", scan, None, OPTIONS)
    write_slices(root, "03_001", scan, None, OPTIONS)
    layout = SliceDataset(OPTIONS)
    cases = {c.name: c for c in layout.cases(root)}
    assert list(cases) == ["01_002", "02_010", "03_001"]
    assert np.array_equal(layout.scan(cases["02_010"]).data_hu, scan.data_hu)
    assert np.array_equal(layout.maps(cases["02_010"], ["cbf"]).maps["cbf"], expected("cbf"))
    with pytest.raises(ScanError, match=r"no CBF map.*03_001.*input\.source to computed"):
        layout.maps(cases["03_001"], ["cbf"])


def test_maps_in_the_folder_of_a_scan_are_no_slices(tmp_path):
    scan = CTSeries(np.zeros((4, *SHAPE), np.float32), np.arange(4) * 2.0, GRID)
    write_slices(tmp_path, "01_002", scan, LABELS, OPTIONS)
    write_map_slices(tmp_path, "01_002", mapset(), None, OPTIONS)
    (tmp_path / "CTP" / "01_002").rename(tmp_path / "01_002")
    (tmp_path / "CTP").rmdir()
    for path in (tmp_path / "Parametric_Maps" / "01_002").iterdir():
        path.rename(tmp_path / "01_002" / path.name)
    layout, case = first(tmp_path)
    assert layout.scan(case).data_hu.shape == (4, *SHAPE)
    assert np.array_equal(layout.maps(case, ["cbf"]).maps["cbf"], expected("cbf"))
    assert np.array_equal(layout.labels(case, GRID), LABELS)


@pytest.mark.parametrize("table", ["clinical.tsv", "clinical.csv", "participants.tsv"])
def test_the_table_gives_scores_split_and_sizes(root, table):
    mark = "," if table.endswith("csv") else "\t"
    rows = ["participant_id nihss age sex group split slice_mm pixel_mm", "CTP_01_002 7 66 F WIS "
            "test 8 0.5", "02_010 n/a n/a n/a WIS train n/a n/a"]  # fmt: skip
    (root / table).write_text("\n".join(mark.join(r.split(" ")) for r in rows))
    layout = SliceDataset(OPTIONS)
    case, other = layout.cases(root)
    assert (case.clinical, case.split) == (Clinical(7, 66, "F"), "test")
    assert (case.group, other.group) == ("LVO", "non-LVO")  # the name goes first
    assert layout.maps(case, ["cbf"]).grid.spacing_mm == pytest.approx((8, 0.5, 0.5))
    assert layout.maps(other, ["cbf"]).grid.spacing_mm == pytest.approx((10, 2, 2))


class TestPixels:
    def test_palette_and_transparency(self, root):
        layout, case = first(root)
        path = root / "Parametric_Maps" / "01_002" / "CBF" / "02.png"
        colours = np.asarray(Image.open(path))
        image = Image.fromarray(colours)
        image.quantize(256).save(path)
        assert Image.open(path).mode == "P"
        found = layout.maps(case, ["cbf"]).maps["cbf"]
        assert np.abs(found[1].astype(int) - colours).max() <= 8
        see_through = np.dstack([colours, np.where(BRAIN[1], 255, 0).astype(np.uint8)])
        see_through[~BRAIN[1], :3] = 77
        Image.fromarray(see_through).save(path)
        assert np.array_equal(layout.maps(case, ["cbf"]).maps["cbf"], expected("cbf"))

    def test_the_colour_bar_becomes_black(self, root):
        bare = SliceFolderOptions(slice_mm=10, pixel_mm=2, colour_bar_px=2)
        layout, case = first(root, bare)
        found = layout.maps(case, ["cbf"]).maps["cbf"]
        assert not found[:, :, -2:].any()
        assert np.array_equal(found[:, :, :-2], expected("cbf")[:, :, :-2])

    @pytest.mark.parametrize("kind", [np.uint8, np.uint16])
    def test_a_grey_mip_is_in_hu(self, root, kind):
        grey = np.arange(48).reshape(8, 6)
        for z in (1, 2, 3):
            path = root / "Parametric_Maps" / "01_002" / "MIP" / f"{z:02d}.png"
            Image.fromarray((grey + (1024 if kind is np.uint16 else 0)).astype(kind)).save(path)
        layout, case = first(root, SliceFolderOptions(window_hu=(0, 510)))
        found = layout.maps(case, ["mip"]).maps["mip"]
        assert found.dtype == np.float32
        assert np.allclose(found, grey * (1 if kind is np.uint16 else 2))

    def test_images_that_are_no_colour_map(self, root):
        layout, case = first(root)
        path = root / "Parametric_Maps" / "01_002" / "CBF" / "02.png"
        Image.fromarray(np.zeros(SHAPE[1:], np.uint16)).save(path)
        with pytest.raises(ScanError, match=r"16 bits as CBF map.*02\.png.*colours"):
            layout.maps(case, ["cbf"])
        mip = root / "Parametric_Maps" / "01_002" / "MIP" / "02.png"
        Image.fromarray(np.zeros(SHAPE[1:], np.uint8)).save(mip)
        with pytest.raises(ScanError, match=r"grey and colour.*02\.png"):
            layout.maps(case, ["mip"])
        Image.fromarray(np.zeros(SHAPE[1:], np.float32)).save(path.with_suffix(".tiff"))
        path.unlink()
        with pytest.raises(ScanError, match=r"no whole numbers.*02\.tiff"):
            layout.maps(case, ["cbf"])
        path.with_suffix(".tiff").write_bytes(b"no image")
        with pytest.raises(ScanError, match=r"not a readable image.*02\.tiff"):
            layout.maps(case, ["cbf"])
        assert path.parent in layout.map_files(case, ["cbf"])

    def test_sizes_and_slices_must_agree(self, root):
        layout, case = first(root)
        path = root / "Parametric_Maps" / "01_002" / "TMAX" / "02.png"
        Image.fromarray(np.zeros((8, 7, 3), np.uint8)).save(path)
        with pytest.raises(GeometryError, match=r"\(8, 7\) among images of \(8, 6\).*02\.png"):
            layout.maps(case, ["cbf", "tmax"])
        path.unlink()
        with pytest.raises(ScanError, match=r"slice 2 of the Tmax map is missing.*TMAX"):
            layout.maps(case, ["cbf", "tmax"])
        (path.parent / "3.png").write_bytes((path.parent / "03.png").read_bytes())
        with pytest.raises(ScanError, match="two images of one slice"):
            layout.maps(case, ["tmax"])


class TestWriting:
    def test_any_orientation_is_turned_and_colours_stay(self, tmp_path):
        affine = np.array([[0, 0, 2.0, 0], [2.0, 0, 0, 0], [0, 10.0, 0, 0], [0, 0, 0, 1]])
        found = mapset(("cbf",), Grid((4, 3, 5), affine))
        options = SliceFolderOptions().of_grid(found.grid)
        write_map_slices(tmp_path, "01_001", found, None, options)
        layout, case = first(tmp_path, options)
        back = layout.maps(case, ["cbf"])
        assert back.grid.shape == (3, 5, 4)
        colours = colour_coded(found.maps["cbf"], QUANTITIES["cbf"])
        # Lowest slice, front row, the patient's right.
        assert np.array_equal(back.maps["cbf"][0, 0, 0], colours[3, 0, 4])
        write_map_slices(tmp_path, "01_002", back, None, options)  # colours again
        again = layout.maps(layout.cases(tmp_path)[1], ["cbf"])
        assert np.array_equal(again.maps["cbf"], back.maps["cbf"])

    def test_what_the_layout_cannot_hold(self, tmp_path):
        with pytest.raises(GeometryError, match="10 x 2 x 2 mm"):
            write_map_slices(tmp_path, "01_001", mapset())
        with pytest.raises(SettingsError, match="case name"):
            write_map_slices(tmp_path, "a/b", mapset(), None, OPTIONS)
        with pytest.raises(InputError, match="label value 27"):
            write_map_slices(tmp_path, "01_001", mapset(), LABELS * 9, OPTIONS)
        assert not list(tmp_path.iterdir())
        write_map_slices(tmp_path, "01_001", mapset(), None, OPTIONS)
        with pytest.raises(OutputExistsError):
            write_map_slices(tmp_path, "01_001", mapset(), LABELS, OPTIONS)
        assert not (tmp_path / "GT").exists()

    @pytest.mark.parametrize("wrong", [{"maps": "GT"}, {"maps": ""}, {"colour_bar_px": -1}])
    def test_options_that_cannot_be(self, wrong):
        with pytest.raises(SettingsError):
            SliceFolderOptions(**wrong)
