"""Tiny data sets of every layout: what is found, what is read, what is refused."""

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from strokect import catalog
from strokect.core.errors import (
    GeometryError,
    InputError,
    OutputExistsError,
    ScanError,
    SettingsError,
    TimingError,
)
from strokect.core.types import CTSeries, Grid
from strokect.io import nifti
from strokect.io.datasets import (
    Isles18Dataset,
    Isles24Dataset,
    OwnDataset,
    SliceDataset,
    SliceFolderOptions,
    UniToBrainDataset,
    guess_layout,
    write_slices,
    write_unitobrain,
)
from strokect.io.layouts import OwnLayout

SHAPE = (3, 8, 6)
GRID = Grid(SHAPE, np.array([[-2.0, 0, 0, 10], [0, -2, 0, 8], [0, 0, 10, -20], [0, 0, 0, 1.0]]))
CORE = np.zeros(SHAPE, bool)
CORE[1, 2:4, 3] = True


def series(grid=GRID, frames=4, interval_s=2.0, seed=0):
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 200, (frames, *grid.shape)).astype(np.float32)
    return CTSeries(data, np.arange(frames) * interval_s, grid)


def house_labels():
    labels = np.zeros(SHAPE, np.uint8)
    labels[:, 1:7, 1:5] = 1
    labels[1, 2:6, 2:5] = 2
    labels[CORE] = 3
    return labels


def save(path, data, affine=GRID.affine, interval=None):
    """A NIfTI file of (Z, Y, X) or (T, Z, Y, X), with its interval in s where given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(np.asarray(data, np.int16).T, affine)
    image.header.set_xyzt_units("mm", "sec" if interval is not None else "unknown")
    if data.ndim == 4:
        image.header["pixdim"][4] = interval or 0
    nib.save(image, path)
    return path


def own(root, people=("0001", "0002")):
    labels = house_labels()
    for label in people:
        layout = OwnLayout(root, label)
        nifti.write_ctp(layout.scan("ctp"), series())
        for name, mask in (
            ("brain", labels > 0),
            ("penumbra", labels == 2),
            ("core", labels == 3),
        ):
            nifti.write_volume(layout.truth_mask(name), mask, GRID)
    return root


def isles18(root, interval=1.0):
    for number in (10, 2):
        case = root / "TRAINING" / f"case_{number}"
        for kind in ("CT", "CT_4DPWI", "CT_CBF", "OT"):
            name = f"SMIR.Brain.XX.O.{kind}.{345000 + number}"
            data = series().data_hu if kind == "CT_4DPWI" else CORE
            save(case / name / f"{name}.nii", data, interval=interval)
    return root


def isles24(root, registered=True, session="ses-01", space="space-ncct_"):
    patient = "sub-stroke0001"
    coarse = series(Grid((2, 4, 3), np.diag([4.0, 4, 15, 1])))
    raw = root / "raw_data" / patient / session
    save(raw / f"{patient}_{session}_ctp.nii.gz", coarse.data_hu, coarse.grid.affine, 1.5)
    derived = root / "derivatives" / patient
    if registered:
        name = f"{patient}_{session}_space-ncct_ctp.nii.gz"
        save(derived / session / name, series().data_hu, interval=1.5)
    second = session.replace("1", "2")
    save(derived / second / f"{patient}_{second}_{space}lesion-msk.nii.gz", CORE)
    return root


def slices(root, **changes):
    options = SliceFolderOptions(interval_s=2, slice_mm=10, pixel_mm=2, bits=16, **changes)
    for name in ("02_010", "01_002"):
        write_slices(root, name, series(), house_labels(), options)
    return root, SliceDataset(options)


def unitobrain(root):
    for patient in ("MOL-010", "MOL-002"):
        write_unitobrain(root, patient, series(), {"cbf": CORE.astype(np.float32)})
    return root


MAKERS = {
    "own": lambda root: (own(root), OwnDataset()),
    "isles18": lambda root: (isles18(root), Isles18Dataset()),
    "isles24": lambda root: (isles24(root), Isles24Dataset()),
    "slices": slices,
    "unitobrain": lambda root: (unitobrain(root), UniToBrainDataset()),
}
WITHOUT_TRUTH = {"unitobrain"}


@pytest.mark.parametrize("name", sorted(catalog.LAYOUTS))
class TestEveryLayout:
    def test_it_reads_back_what_was_written(self, name, tmp_path):
        root, layout = MAKERS[name](tmp_path)
        assert isinstance(layout, catalog.load("layouts", name))
        for case in layout.cases(root):
            scan = layout.scan(case)
            assert np.array_equal(scan.data_hu, series().data_hu)
            assert bool(layout.truth_files(case)) == (name not in WITHOUT_TRUTH)
            if name in WITHOUT_TRUTH:
                continue
            labels = layout.labels(case, scan.grid)
            assert labels.dtype == np.uint8
            expected = house_labels()
            if layout.classes == (2,):
                expected = np.where(expected == 3, 3, 0)
            assert np.array_equal(labels, expected)

    def test_finding_cases_opens_nothing(self, name, tmp_path):
        root, layout = MAKERS[name](tmp_path)
        before = layout.cases(root)
        for path in root.rglob("*.*"):
            if path.is_file() and path.suffix != ".tsv":
                path.write_bytes(b"")
        assert layout.cases(root) == before
        assert len({case.name for case in before}) == len(before)

    def test_it_is_recognised_and_no_other_reads_it(self, name, tmp_path):
        root, _ = MAKERS[name](tmp_path)
        assert guess_layout(root) == name
        for other in catalog.LAYOUTS.keys() - {name}:
            with pytest.raises(ScanError, match=f"no case .*looks like the layout '{name}'"):
                catalog.load("layouts", other)().cases(root)

    def test_nothing_there_is_said(self, name, tmp_path):
        layout = catalog.load("layouts", name)()
        (tmp_path / "x").mkdir()
        with pytest.raises(ScanError, match=f"no case of the layout '{name}'"):
            layout.cases(tmp_path)
        with pytest.raises(ScanError, match="no such folder"):
            layout.cases(tmp_path / "missing")
        (tmp_path / "file").touch()
        with pytest.raises(ScanError, match="a file where"):
            layout.cases(tmp_path / "file")

    def test_a_case_without_truth_is_said(self, name, tmp_path):
        root, layout = MAKERS[name](tmp_path)
        case = layout.cases(root)[0]
        with pytest.raises(ScanError, match=f"no truth for the case '{case.name}'"):
            layout.labels(type(case)(case.name, case.patient, case.scan), GRID)

    def test_another_grid_names_both_shapes(self, name, tmp_path):
        if name in WITHOUT_TRUTH:
            pytest.skip("the layout has no truth")
        root, layout = MAKERS[name](tmp_path)
        case = layout.cases(root)[0]
        other = Grid((3, 8, 7), GRID.affine)
        with pytest.raises(GeometryError, match=r"8, 6\).*8, 7\)"):
            layout.labels(case, other)
        with pytest.raises(GeometryError):
            layout.labels(case, Grid((4, 8, 6), GRID.affine))


def test_own_takes_group_and_split_from_the_table(tmp_path):
    own(tmp_path)
    lines = ("participant_id\tsplit\tgroup", "sub-0001\ttest\tnon-lvo", "sub-0003\ttrain\tLVO")
    (tmp_path / "participants.tsv").write_text("\n".join(lines))
    first, second = OwnDataset().cases(tmp_path)
    assert (first.name, first.patient) == ("sub-0001_ses-01", "sub-0001")
    assert (first.group, first.split) == ("non-LVO", "test")
    assert (second.group, second.split) == ("", "")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["participant_id\tsplit", "sub-0001\ttraining"], "split 'training' in line 2"),
        (["participant_id\tsplit", "sub-0001\ttest", "sub-0001\ttrain"], "twice"),
        (["id\tsplit", "sub-0001\ttest"], "no participant_id in line 2"),
    ],
)
def test_own_refuses_a_table_that_could_leak_patients(tmp_path, lines, message):
    own(tmp_path)
    (tmp_path / "participants.tsv").write_text("\n".join(lines))
    with pytest.raises(ScanError, match=message):
        OwnDataset().cases(tmp_path)


def test_own_sessions_share_a_patient(tmp_path):
    own(tmp_path, ["0001"])
    nifti.write_ctp(OwnLayout(tmp_path, "0001", "02").scan("ctp"), series())
    first, second = OwnDataset().cases(tmp_path)
    assert first.patient == second.patient == "sub-0001"
    assert first.labels is not None
    assert second.labels is None


def test_own_truth_of_turned_axes_is_turned_back(tmp_path):
    layout = OwnLayout(own(tmp_path, ["0001"]), "0001")
    image = nib.load(layout.truth_mask("core"))
    turned = nib.as_closest_canonical(image)
    assert not np.allclose(turned.affine, image.affine)
    nib.save(turned, layout.truth_mask("core"))
    (case,) = OwnDataset().cases(tmp_path)
    assert np.array_equal(OwnDataset().labels(case, GRID), house_labels())


def test_own_empty_masks_are_truth(tmp_path):
    layout = OwnLayout(own(tmp_path, ["0001"]), "0001")
    for name in ("penumbra", "core"):
        nifti.write_volume(layout.truth_mask(name), np.zeros(SHAPE, bool), GRID)
    (case,) = OwnDataset().cases(tmp_path)
    assert set(np.unique(OwnDataset().labels(case, GRID))) == {0, 1}


def test_own_bad_truth_is_refused_by_name(tmp_path):
    layout = OwnLayout(own(tmp_path, ["0001"]), "0001")
    (case,) = OwnDataset().cases(tmp_path)
    path = layout.truth_mask("core")
    shifted = GRID.affine.copy()
    shifted[0, 3] += 5
    save(path, CORE, shifted)
    with pytest.raises(GeometryError, match=r"core_mask.*Resample"):
        OwnDataset().labels(case, GRID)
    save(path, CORE * 7)
    with pytest.raises(ScanError, match=r"label value 7 .*core_mask"):
        OwnDataset().labels(case, GRID)
    path.unlink()
    with pytest.raises(ScanError, match=r"mask file is missing.*core_mask"):
        OwnDataset().labels(case, GRID)


def test_own_3d_scan_is_refused(tmp_path):
    layout = OwnLayout(own(tmp_path, ["0001"]), "0001")
    save(layout.scan("ctp"), CORE)
    (case,) = OwnDataset().cases(tmp_path)
    with pytest.raises(ScanError, match=r"3D image.*sub-0001"):
        OwnDataset().scan(case)


def test_isles18_cases_patients_and_times(tmp_path):
    isles18(tmp_path, interval=1.5)
    cases = Isles18Dataset().cases(tmp_path)
    assert [c.name for c in cases] == ["case_2", "case_10"]
    assert [c.patient for c in cases] == ["case_2", "case_10"]
    assert cases == [
        type(c)(c.name, c.patient, c.scan, c.labels)
        for c in Isles18Dataset().cases(tmp_path / "TRAINING")
    ]
    assert Isles18Dataset().scan(cases[0]).interval_s == pytest.approx(1.5)
    (tmp_path / "patients.tsv").write_text("case\tpatient\ncase_2\tA\ncase_10\tA\n")
    assert {c.patient for c in Isles18Dataset().cases(tmp_path)} == {"A"}


@pytest.mark.parametrize("stated", [None, 0.0, 1000.0])
def test_isles18_assumed_interval_is_told(tmp_path, stated):
    isles18(tmp_path, interval=stated)
    layout = Isles18Dataset(default_interval_s=1.25)
    scan = layout.scan(layout.cases(tmp_path)[0])
    assert scan.interval_s == pytest.approx(1.25)
    assert "assumed" in scan.notes[0]
    with pytest.raises(SettingsError, match="default_interval_s"):
        Isles18Dataset(default_interval_s=0)


def test_isles18_two_scans_of_a_case_are_refused(tmp_path):
    isles18(tmp_path)
    case = tmp_path / "TRAINING" / "case_2"
    save(case / "SMIR.Brain.XX.O.CT_4DPWI.9" / "x.nii", series().data_hu)
    with pytest.raises(ScanError, match=r"2 files .*case_2"):
        Isles18Dataset().cases(tmp_path)


@pytest.mark.parametrize(("session", "space"), [("ses-01", "space-ncct_"), ("ses-0001", "")])
def test_isles24_takes_the_registered_scan(tmp_path, session, space):
    root = isles24(tmp_path / "train", session=session, space=space)
    for given in (tmp_path, root, root / "raw_data", root / "derivatives"):
        (case,) = Isles24Dataset().cases(given)
        assert case.name == case.patient == "sub-stroke0001"
        assert "space-ncct" in case.scan.name
        assert Isles24Dataset().labels(case, GRID).max() == 3
        assert Isles24Dataset().scan(case).interval_s == pytest.approx(1.5)


def test_isles24_lesion_on_the_scans_grid_goes_first(tmp_path):
    isles24(tmp_path)
    folder = tmp_path / "derivatives" / "sub-stroke0001" / "ses-02"
    save(folder / "sub-stroke0001_ses-02_lesion-msk.nii", np.ones((2, 2, 2)))
    (case,) = Isles24Dataset().cases(tmp_path)
    assert "space-ncct" in case.labels.name


def test_isles24_scan_on_its_own_grid_does_not_fit_the_lesion(tmp_path):
    isles24(tmp_path, registered=False)
    (case,) = Isles24Dataset().cases(tmp_path)
    scan = Isles24Dataset().scan(case)
    with pytest.raises(GeometryError, match=r"\(3, 8, 6\).*\(2, 4, 3\).*space-ncct_ctp"):
        Isles24Dataset().labels(case, scan.grid)


class TestSlices:
    def test_cases_by_name(self, tmp_path):
        root, layout = slices(tmp_path)
        first, second = layout.cases(root)
        assert (first.name, first.patient, first.group) == ("01_002", "01_002", "LVO")
        assert second.group == "non-LVO"
        (root / "CTP" / "01_002").rename(root / "CTP" / "CTP_03_002")
        (root / "GT" / "01_002").rename(root / "GT" / "03_002")
        case = {c.patient: c for c in layout.cases(root)}["03_002"]
        assert (case.name, case.group) == ("CTP_03_002", "WIS")
        assert case.labels == root / "GT" / "03_002"

    def test_patients_in_the_root_with_truth_inside(self, tmp_path):
        root, layout = slices(tmp_path)
        (root / "CTP" / "01_002").rename(root / "01_002")
        (root / "GT" / "01_002").rename(root / "01_002" / "GT")
        (root / "CTP").rename(root / "notes")
        (case,) = layout.cases(root)
        assert np.array_equal(layout.scan(case).data_hu, series().data_hu)
        assert np.array_equal(layout.labels(case, GRID), house_labels())

    def test_grid_and_times_are_those_written(self, tmp_path):
        root, layout = slices(tmp_path)
        scan = layout.scan(layout.cases(root)[0])
        assert scan.grid.spacing_mm == pytest.approx((10, 2, 2))
        assert np.allclose(scan.grid.affine[:3, :3], GRID.affine[:3, :3])
        assert np.array_equal(scan.times_s, series().times_s)

    def test_time_points_in_natural_order(self, tmp_path):
        options = SliceFolderOptions(interval_s=2, slice_mm=10, pixel_mm=2, bits=16)
        scan = series(frames=12)
        write_slices(tmp_path, "01_001", scan, None, options)
        for path in (tmp_path / "CTP").rglob("*.tiff"):
            path.rename(path.with_name(f"t{int(path.stem)}.tiff"))  # t2 before t10
        (case,) = SliceDataset(options).cases(tmp_path)
        assert case.labels is None
        assert np.array_equal(SliceDataset(options).scan(case).data_hu, scan.data_hu)

    @pytest.mark.parametrize("window", [(0.0, 255.0), (-50.0, 200.0)])
    def test_eight_bits_hold_the_window(self, tmp_path, window):
        options = SliceFolderOptions(interval_s=2, slice_mm=10, pixel_mm=2, window_hu=window)
        scan = series()
        scan.data_hu[0, 0, 0, :2] = -1000, 900
        write_slices(tmp_path, "01_001", scan, house_labels(), options)
        (case,) = SliceDataset(options).cases(tmp_path)
        found = SliceDataset(options).scan(case).data_hu
        step = (window[1] - window[0]) / 255
        assert np.abs(found - np.clip(scan.data_hu, *window)).max() <= step / 2 + 1e-4

    def test_any_orientation_is_turned_to_the_displayed_one(self, tmp_path):
        # Voxel axes: x to the front, y to the head, z to the right.
        affine = np.array([[0, 0, 2.0, 0], [2.0, 0, 0, 0], [0, 10.0, 0, 0], [0, 0, 0, 1]])
        scan = series(Grid((4, 3, 5), affine))
        labels = np.zeros((4, 3, 5), np.uint8)
        labels[3, 0, 4] = 3  # right, low, front
        options = SliceFolderOptions(bits=16).fitting(scan)
        assert (options.slice_mm, options.pixel_mm) == (10, 2)
        write_slices(tmp_path, "01_001", scan, labels, options)
        layout = SliceDataset(options)
        (case,) = layout.cases(tmp_path)
        found = layout.scan(case)
        assert found.grid.shape == (3, 5, 4)
        # Lowest slice, front row, the patient's right: the first column.
        assert np.argwhere(layout.labels(case, found.grid) == 3).tolist() == [[0, 0, 0]]
        assert found.data_hu[2, 0, 0, 0] == scan.data_hu[2, 3, 0, 4]

    def test_levels_within_ten_count_others_are_named(self, tmp_path):
        root, layout = slices(tmp_path)
        case = layout.cases(root)[0]
        path = case.labels / "02.png"
        grey = np.array(Image.open(path))
        near = np.clip(grey.astype(int) + 10, 0, 255).astype(np.uint8)
        Image.fromarray(np.dstack([near] * 3)).save(path)  # a grey image saved as colour
        assert np.array_equal(layout.labels(case, GRID), house_labels())
        grey[0, 0] = 40
        Image.fromarray(grey).save(path)
        with pytest.raises(ScanError, match=r"grey value 40 .*02\.png"):
            layout.labels(case, GRID)

    def test_missing_and_surplus_truth(self, tmp_path):
        root, layout = slices(tmp_path)
        case = layout.cases(root)[0]
        path = case.labels / "02.png"
        path.rename(case.labels / "09.png")
        with pytest.raises(ScanError, match=r"truth image is missing.*02\.png"):
            layout.labels(case, GRID)
        (case.labels / "09.png").rename(path)
        (case.labels / "4.png").write_bytes(path.read_bytes())
        with pytest.raises(GeometryError, match="4 slices for a scan of 3"):
            layout.labels(case, GRID)
        (case.labels / "2.png").write_bytes(path.read_bytes())
        with pytest.raises(ScanError, match="two truth images"):
            layout.labels(case, GRID)

    def test_bad_images_are_named(self, tmp_path):
        root, layout = slices(tmp_path)
        case = layout.cases(root)[0]
        path = case.scan / "02" / "03.tiff"
        blank = np.zeros(SHAPE[1:], np.uint8)
        for image, error, message in (
            (np.zeros((5, 5), np.uint16), GeometryError, r"\(5, 5\) among images of \(8, 6\)"),
            (blank, ScanError, "8 bits among images of 16"),
            (np.dstack([blank, blank + 9, blank]), ScanError, "a colour image"),
            (blank.astype(np.float32), ScanError, "no whole numbers"),
        ):
            Image.fromarray(image).save(path)
            with pytest.raises(error, match=rf"{message}.*03\.tiff"):
                layout.scan(case)
        path.write_bytes(b"no image")
        with pytest.raises(ScanError, match=r"not a readable image.*03\.tiff"):
            layout.scan(case)
        pages = [Image.fromarray(blank)] * 2
        pages[0].save(path, save_all=True, append_images=pages[1:])
        with pytest.raises(ScanError, match="several images"):
            layout.scan(case)
        path.unlink()
        with pytest.raises(ScanError, match=r"3 time points where other slices have 4.*02"):
            layout.scan(case)

    def test_one_image_per_slice_is_no_perfusion_scan(self, tmp_path):
        root, layout = slices(tmp_path)
        case = layout.cases(root)[0]
        for path in case.scan.rglob("*.tiff"):
            if path.stem != "01":
                path.unlink()
        with pytest.raises(ScanError, match="1 image per slice"):
            layout.scan(case)
        for folder in case.scan.iterdir():
            (folder / "01.tiff").rename(case.scan / f"{folder.name}.tiff")
        with pytest.raises(ScanError, match="no slice folders"):
            layout.scan(case)

    def test_writing_refuses_what_the_layout_cannot_hold(self, tmp_path):
        scan = series()
        options = SliceFolderOptions().fitting(scan)
        assert (options.interval_s, options.slice_mm, options.pixel_mm) == (2, 10, 2)
        with pytest.raises(GeometryError, match=r"10 x 2 x 2 mm.*fitting"):
            write_slices(tmp_path, "01_001", scan, None, SliceFolderOptions(interval_s=2))
        uneven = CTSeries(scan.data_hu, np.array([0.0, 2, 4, 9]), GRID)
        with pytest.raises(TimingError, match="resample"):
            write_slices(tmp_path, "01_001", uneven, None, options)
        with pytest.raises(InputError, match="label value 4"):
            write_slices(tmp_path, "01_001", scan, np.full(SHAPE, 4, np.uint8), options)
        with pytest.raises(GeometryError, match="labels of"):
            write_slices(tmp_path, "01_001", scan, np.zeros((1, 8, 6), np.uint8), options)
        with pytest.raises(SettingsError, match="case name"):
            write_slices(tmp_path, "../x", scan, None, options)
        assert not list(tmp_path.iterdir())
        write_slices(tmp_path, "01_001", scan, None, options)
        with pytest.raises(OutputExistsError):
            write_slices(tmp_path, "01_001", scan, house_labels(), options)
        assert not (tmp_path / "GT").exists()

    @pytest.mark.parametrize(
        "wrong",
        [{"interval_s": 0}, {"pixel_mm": -1}, {"window_hu": (5, 5)}, {"bits": 12}, {"truth": ""}],
    )
    def test_options_that_cannot_be(self, wrong):
        with pytest.raises(SettingsError):
            SliceFolderOptions(**wrong)


def test_a_thousand_patients_are_found_without_reading(tmp_path):
    """Structure only: the time (under half a second) is not asserted, shared machines vary."""
    for number in range(1000):
        layout = OwnLayout(tmp_path, f"{number:04d}")
        layout.scan_folder.mkdir(parents=True)
        layout.scan("ctp").touch()
        layout.truth_folder.mkdir(parents=True)
    rows = "".join(f"sub-{n:04d}\tLVO\ttrain\n" for n in range(1000))
    (tmp_path / "participants.tsv").write_text("participant_id\tgroup\tsplit\n" + rows)
    cases = OwnDataset().cases(tmp_path)
    assert len(cases) == 1000
    assert all(c.labels and c.split == "train" for c in cases)
