"""Maps that lie beside scans as NIfTI files, in the own layout and those of ISLES."""

import json

import nibabel as nib
import numpy as np
import pytest

from strokect.core.clinical import Clinical
from strokect.core.errors import GeometryError, ScanError
from strokect.io import nifti
from strokect.io.datasets import Isles18Dataset, Isles24Dataset, OwnDataset
from strokect.io.layouts import OwnLayout
from strokect.io.nifti_maps import read_result_maps

SHAPE = (2, 6, 5)
AFFINE = np.diag([-2.0, -2.0, 8.0, 1.0])
BRAIN = np.zeros(SHAPE, bool)
BRAIN[:, 1:5, 1:4] = True
NAMES = ("cbf", "cbv", "mtt", "tmax")


def values(name):
    """Values that differ from map to map, 0 outside of the brain and in one voxel of it in Tmax."""
    number = (*NAMES, "mip").index(name)
    found = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE) + 100 * number
    found = found if name == "mip" else np.where(BRAIN, found, 0)
    if name == "tmax":
        found[0, 2, 2] = 0
    return found.astype(np.float32)


def save(path, data, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(np.asarray(data, np.float32).T, affine)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)


def scan(path):
    save(path, np.zeros((4, *SHAPE)))


def own(root, within="perfusion/studies"):
    scan(OwnLayout(root, "1").scan("ctp"))
    folder = root / "derivatives" / within / "sub-1_ses-01"
    for name in (*NAMES, "mip"):
        save(folder / "maps" / f"{name}.nii.gz", values(name))
    save(folder / "masks" / "brain.nii.gz", BRAIN)
    return OwnDataset(), folder / "maps" / "tmax.nii.gz"


def isles18(root):
    case = root / "TRAINING" / "case_1"
    scan(case / "SMIR.Brain.XX.O.CT_4DPWI.1" / "SMIR.Brain.XX.O.CT_4DPWI.1.nii")
    for name, kind in zip(NAMES, ("CBF", "CBV", "MTT", "Tmax"), strict=True):
        stem = f"SMIR.Brain.XX.O.CT_{kind}.7"
        save(case / stem / f"{stem}.nii", values(name))
    return Isles18Dataset(), case / stem / f"{stem}.nii"


def isles24(root, session="ses-01", registered=True):
    patient = "sub-stroke0001"
    derived = root / "derivatives" / patient / session
    ours = derived if registered else root / "raw_data" / patient / session
    scan(ours / f"{patient}_{session}_{'space-ncct_' if registered else ''}ctp.nii.gz")
    for name in NAMES:
        path = derived / "perfusion-maps" / f"{patient}_{session}_space-ncct_{name}.nii.gz"
        save(path, values(name))
    return Isles24Dataset(), path


MAKERS = {
    "own": own,
    "own, one by one": lambda root: own(root, "perfusion"),
    "isles18": isles18,
    "isles24": isles24,
    "isles24, not registered": lambda root: isles24(root, "ses-0001", registered=False),
}


@pytest.mark.parametrize("name", MAKERS)
class TestEveryLayout:
    def test_maps_are_read_and_nan_where_nothing_was_mapped(self, name, tmp_path):
        layout, _ = MAKERS[name](tmp_path)
        (case,) = layout.cases(tmp_path)
        found = layout.maps(case, NAMES)
        assert list(found.maps) == list(NAMES)
        for key, data in found.maps.items():
            assert data.dtype == np.float32
            assert np.array_equal(np.isfinite(data), BRAIN)
            assert np.array_equal(data[BRAIN], values(key)[BRAIN])
        assert found.grid.spacing_mm == pytest.approx((8, 2, 2))
        assert found.source.startswith("files of")

    def test_only_what_is_asked_for(self, name, tmp_path):
        layout, _ = MAKERS[name](tmp_path)
        (case,) = layout.cases(tmp_path)
        assert list(layout.maps(case, ["tmax", "cbf"]).maps) == ["tmax", "cbf"]
        with pytest.raises(ScanError, match="no map is asked for"):
            layout.maps(case, [])

    def test_files_by_name_alone(self, name, tmp_path):
        layout, last = MAKERS[name](tmp_path)
        (case,) = layout.cases(tmp_path)
        for path in tmp_path.rglob("*.nii*"):
            path.write_bytes(b"")
        found = layout.map_files(case, [*NAMES, "ttp"])
        maps = [p for p in found if p.name != "brain.nii.gz"]
        assert len(maps) == 4
        assert last in maps

    def test_a_missing_map_is_named_with_what_to_do(self, name, tmp_path):
        layout, last = MAKERS[name](tmp_path)
        (case,) = layout.cases(tmp_path)
        last.unlink()
        assert last not in layout.map_files(case, NAMES)
        with pytest.raises(ScanError, match=r"no Tmax map.*(?i:tmax).*input\.source to computed"):
            layout.maps(case, NAMES)
        with pytest.raises(ScanError, match="no TTP map"):
            layout.maps(case, ["cbf", "ttp"])

    def test_maps_that_do_not_fit_together(self, name, tmp_path):
        layout, last = MAKERS[name](tmp_path)
        (case,) = layout.cases(tmp_path)
        shifted = AFFINE.copy()
        shifted[0, 3] = 3
        save(last, values("tmax"), shifted)
        with pytest.raises(GeometryError, match="lies elsewhere"):
            layout.maps(case, NAMES)
        save(last, np.zeros((2, 6, 6)))
        with pytest.raises(GeometryError, match=r"\(2, 6, 6\) beside others of \(2, 6, 5\)"):
            layout.maps(case, NAMES)


def test_own_has_the_brain_and_the_skull_in_the_mip(tmp_path):
    layout, _ = own(tmp_path)
    (case,) = layout.cases(tmp_path)
    found = layout.maps(case, ["cbf", "mip"])
    assert np.array_equal(found.brain, BRAIN)
    assert np.array_equal(found.maps["mip"], values("mip"))


def test_own_maps_of_a_dicom_patient_in_another_folder(tmp_path):
    dicom = tmp_path / "dicom" / "sub-1" / "ctp"
    dicom.mkdir(parents=True)
    (dicom / "1.dcm").touch()
    folder = tmp_path / "derivatives" / "other" / "studies" / "sub-1"
    save(folder / "maps" / "cbf.nii.gz", values("cbf"))
    (case,) = OwnDataset().cases(tmp_path)
    layout = OwnDataset(maps_folder="other")
    assert layout.maps(case, ["cbf"]).brain is None
    fix = rf"strokect cohort {tmp_path} -o {tmp_path}/derivatives/perfusion"
    with pytest.raises(ScanError, match=fix):
        OwnDataset().maps(case, ["cbf"])


def test_own_takes_clinical_scores_from_the_table(tmp_path):
    layout, _ = own(tmp_path)
    (tmp_path / "participants.tsv").write_text(
        "participant_id\tgroup\tsplit\tage\tsex\tnihss\nsub-1\tLVO\tval\t80\tM\t17\n"
    )
    (case,) = layout.cases(tmp_path)
    assert (case.group, case.split, case.clinical) == ("LVO", "val", Clinical(17, 80, "M"))


def test_what_strokect_writes_is_what_it_reads(tmp_path):
    """Names of maps and masks are those of ``pipeline.write_result``."""
    layout, last = own(tmp_path)
    (case,) = layout.cases(tmp_path)
    grid = layout.maps(case, ["tmax"]).grid
    nifti.write_volume(last, values("cbf"), grid, "Tmax [s], research use only")
    found = layout.maps(case, ["tmax"]).maps["tmax"]
    assert np.array_equal(found[BRAIN], values("cbf")[BRAIN])


class TestResultFolder:
    def _result(self, folder, summary=None):
        for name in ("cbf", "tmax"):
            save(folder / "maps" / f"{name}.nii.gz", values(name))
        save(folder / "masks" / "brain.nii.gz", BRAIN)
        if summary is not None:
            (folder / "summary.json").write_text(json.dumps(summary))
        return read_result_maps(folder, ("cbf", "tmax"))

    def test_method_and_findings_come_along(self, tmp_path):
        finding = {"code": "MOTION", "level": "warning", "message": "The head moved."}
        method = {"estimator": "bsvd", "denoise": "none"}
        found = self._result(tmp_path, {"method": method, "quality": [finding]})
        assert found.source == "computed by bsvd, none"
        assert [(f.code, f.level, f.message) for f in found.flags] == [tuple(finding.values())]
        assert (found.brain == BRAIN).all() and set(found.maps) == {"cbf", "tmax"}

    def test_without_a_summary_the_method_is_not_known(self, tmp_path):
        found = self._result(tmp_path)
        assert found.source == "of an unknown method" and not found.flags

    def test_another_summary_is_refused(self, tmp_path):
        with pytest.raises(ScanError, match=r"no summary of `strokect perfusion`.*summary\.json"):
            self._result(tmp_path, {"model": {}})
