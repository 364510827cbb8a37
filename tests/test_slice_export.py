"""A data set written as slice folders and read again."""

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from strokect.cli_slices import slices
from strokect.core.clinical import Clinical
from strokect.core.colours import colour_coded
from strokect.core.errors import OutputExistsError, ScanError, SettingsError
from strokect.core.quantities import QUANTITIES
from strokect.core.types import CTSeries, Grid
from strokect.io import nifti
from strokect.io.datasets import OwnDataset, SliceDataset, is_virtual
from strokect.io.layouts import OwnLayout
from strokect.learn.map_inputs import MapInputOptions
from strokect.map_input import computed_maps
from strokect.slice_export import MAPS, ExportOptions, export_slices
from strokect.virtual import VirtualOptions, make_patients

SHAPE = (2, 8, 6)
TRUTH = np.zeros(SHAPE, np.uint8)
TRUTH[:, 2:7, 1:5] = 1
TRUTH[1, 3, 2:4] = 2, 3
GROUPS = {"1": "non-LVO", "2": "LVO", "3": "LVO", "4": "n/a"}
#: Maps take less time so.
QUICK = ExportOptions(
    computed=MapInputOptions(estimator="bsvd", denoise="none", motion_correction=False)
)


def grid(pixel):
    return Grid(SHAPE, np.diag([-pixel, -pixel, 8.0, 1.0]))


def scan(number):
    data = np.random.default_rng(number).integers(-900, 900, (4, *SHAPE)).astype(np.float32)
    return CTSeries(data, np.arange(4) * (1.0 + number), grid(1.0 + number / 10))


def values(name):
    high = QUANTITIES[name].display_range[1]
    return np.linspace(0, high, TRUTH.size, dtype=np.float32).reshape(SHAPE)


@pytest.fixture
def data(tmp_path):
    """Four patients of the own layout, each of its own sizes, with maps beside them."""
    root = tmp_path / "data"
    rows = ["participant_id\tgroup\tsplit\tnihss\tage\tsex"]
    for label, group in GROUPS.items():
        layout, series = OwnLayout(root, label), scan(int(label))
        nifti.write_ctp(layout.scan("ctp"), series)
        for name, mask in (("brain", TRUTH > 0), ("penumbra", TRUTH == 2), ("core", TRUTH == 3)):
            nifti.write_volume(layout.truth_mask(name), mask, series.grid)
        folder = root / "derivatives" / "perfusion" / f"sub-{label}_ses-01"
        for name in MAPS:
            nifti.write_volume(folder / "maps" / f"{name}.nii.gz", values(name), series.grid)
        nifti.write_volume(folder / "masks" / "brain.nii.gz", TRUTH > 0, series.grid)
        rows.append(f"sub-{label}\t{group}\ttest\t{0 if label == '1' else 20.5}\tn/a\tF")
    (root / "participants.tsv").write_text("\n".join(rows))
    return root


def names(found):
    return [(e.name, e.source) for e in found]


def test_patients_are_numbered_by_group_and_read_back(data, tmp_path):
    out = tmp_path / "out"
    found = list(export_slices(data, out))
    assert all(e.new and e.failure is None for e in found)
    assert names(found) == [
        ("00_001", "sub-4_ses-01"), ("01_001", "sub-2_ses-01"), ("01_002", "sub-3_ses-01"),
        ("02_001", "sub-1_ses-01"),
    ]  # fmt: skip
    assert not is_virtual(out)
    layout = SliceDataset()  # nothing of it is known but the folder
    cases = layout.cases(out)
    assert [(c.name, c.group) for c in cases] == [
        ("00_001", ""), ("01_001", "LVO"), ("01_002", "LVO"), ("02_001", "non-LVO"),
    ]  # fmt: skip
    assert cases[-1].clinical == Clinical(nihss=0, sex="F")
    assert cases[0].clinical == Clinical(nihss=20.5, sex="F")
    assert {c.split for c in cases} == {"test"}
    for case, number in zip(cases, (4, 2, 3, 1), strict=True):
        series, back = scan(number), layout.scan(case)
        assert np.array_equal(back.data_hu, series.data_hu)
        assert np.allclose(back.times_s, series.times_s)
        assert back.grid.spacing_mm == pytest.approx(series.grid.spacing_mm)
        assert np.array_equal(layout.labels(case, back.grid), TRUTH)
        maps = layout.maps(case, MAPS)
        assert maps.grid.spacing_mm == pytest.approx(series.grid.spacing_mm)
        for name, colours in maps.maps.items():
            shown = None if name == "mip" else TRUTH > 0
            expected = colour_coded(values(name), QUANTITIES[name], shown)
            assert np.array_equal(colours, expected), name


def test_only_maps(data, tmp_path):
    (data / "sub-1" / "ses-01" / "sub-1_ses-01_ctp.nii.gz").write_bytes(b"not needed")
    out = tmp_path / "out"
    assert all(e.failure is None for e in export_slices(data, out, ExportOptions(scans=False)))
    assert not (out / "CTP").exists()
    layout = SliceDataset()
    case = layout.cases(out)[-1]
    found = layout.maps(case, ["cbf"])
    assert found.grid.spacing_mm == pytest.approx((8, 1.1, 1.1))
    assert np.array_equal(layout.labels(case, found.grid), TRUTH)
    with pytest.raises(SettingsError, match="neither"):
        ExportOptions(scans=False, maps=False)


def test_a_run_that_broke_off_goes_on(data, tmp_path):
    out = tmp_path / "out"
    run = export_slices(data, out)
    assert [next(run).name, next(run).name] == ["00_001", "01_001"]
    run.close()
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.*") if p.suffix in (".png", ".tiff")}
    left = out / "CTP" / "01_001"  # killed between maps and scan
    for path in left.rglob("*.tiff"):
        path.unlink()
        before.pop(path)
    for folder in left.iterdir():
        folder.rmdir()
    left.rmdir()
    found = list(export_slices(data, out))
    assert [e.new for e in found] == [False, True, True, True]
    assert all(p.stat().st_mtime_ns == time for p, time in before.items())
    assert not any(e.new for e in export_slices(data, out))
    assert [c.name for c in SliceDataset().cases(out)] == [e.name for e in found]


def test_a_data_set_that_grew_keeps_its_names(data, tmp_path):
    out = tmp_path / "out"
    table = (data / "participants.tsv").read_text()
    away = tmp_path / "sub-2"
    (data / "sub-2").rename(away)
    assert ("01_001", "sub-3_ses-01") in names(export_slices(data, out))
    away.rename(data / "sub-2")
    (data / "participants.tsv").write_text(table)
    found = names(export_slices(data, out))
    assert ("01_001", "sub-3_ses-01") in found
    assert ("01_002", "sub-2_ses-01") in found


def test_one_bad_patient_fails_alone(data, tmp_path):
    mask = OwnLayout(data, "2").truth_mask("core")
    kept = mask.read_bytes()
    mask.write_bytes(b"")
    found = list(export_slices(data, tmp_path / "out"))
    assert [e.failure is None for e in found] == [True, False, True, True]
    assert isinstance(found[1].failure, ScanError)
    assert "sub-2_ses-01" in str(found[1].failure)
    mask.write_bytes(kept)
    assert [e.new for e in export_slices(data, tmp_path / "out")] == [False, True, False, False]


def test_what_stands_in_the_way_is_refused(data, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").touch()
    with pytest.raises(OutputExistsError, match="did not make"):
        list(export_slices(data, other))
    with pytest.raises(OutputExistsError):
        list(export_slices(data, data))
    out = tmp_path / "out"
    list(export_slices(data, out))
    nifti.write_ctp(OwnLayout(data, "2").scan("ctp"), scan(7))  # another patient of that name
    found = list(export_slices(data, out))
    assert [e.failure is None for e in found] == [True, False, True, True]
    assert "01_001 was written from other files" in str(found[1].failure)
    with pytest.raises(ScanError):
        list(export_slices(tmp_path / "missing", out))


def test_a_second_scan_of_a_patient_is_left_out(data, tmp_path):
    nifti.write_ctp(OwnLayout(data, "2", "02").scan("ctp"), scan(2))
    found = names(export_slices(data, tmp_path / "out"))
    assert [source for _, source in found if "sub-2" in source] == ["sub-2_ses-01"]


def test_the_command(data, tmp_path):
    app = typer.Typer()
    app.command()(slices)
    out = tmp_path / "out"
    done = CliRunner().invoke(app, [str(data), "-o", str(out), "--no-scans"])
    assert done.exit_code == 0, done.output
    assert "01_001 (sub-2_ses-01)" in done.output
    assert "4 patients" in done.output
    assert "Research use only" in done.output
    OwnLayout(data, "3").truth_mask("core").unlink()
    again = CliRunner().invoke(app, [str(data), "-o", str(tmp_path / "b"), "--no-scans"])
    assert again.exit_code == 1
    assert "01_002: sub-3_ses-01: the mask file is missing" in again.output


@pytest.mark.slow
def test_a_virtual_patient_with_maps_of_its_own(tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    list(make_patients(data, VirtualOptions(1, 3, "small", "LVO", workers=1), lambda *_: None))
    (done,) = export_slices(data, out, QUICK)
    assert done.failure is None
    assert is_virtual(out)
    (virtual,), (case,) = OwnDataset().cases(data), SliceDataset().cases(out)
    assert (case.group, case.split, case.clinical) == ("LVO", virtual.split, virtual.clinical)
    assert case.clinical.nihss is not None
    series, back = OwnDataset().scan(virtual), SliceDataset().scan(case)
    assert np.array_equal(back.data_hu, series.data_hu)
    flips = np.sign(np.diag(series.grid.affine)[:2]) > 0  # the layout looks at patients from below
    turned = (slice(None), *(slice(None, None, -1 if f else 1) for f in flips[::-1]))
    labels = OwnDataset().labels(virtual, series.grid)
    assert {1, 2, 3} <= set(np.unique(labels))
    assert np.array_equal(SliceDataset().labels(case, back.grid), labels[turned])
    made = computed_maps(series, QUICK.computed)
    found = SliceDataset().maps(case, MAPS)
    for name in MAPS:
        shown = None if name == "mip" else made.brain
        expected = colour_coded(made.maps[name], QUANTITIES[name], shown)[turned]
        assert np.array_equal(found.maps[name], expected), name
