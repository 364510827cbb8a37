"""Virtual patients through the command line."""

import hashlib
import json

import pytest

from .conftest import refused, strokect


def hashes(root):
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in root.rglob("*")
        if p.is_file()
    }


def test_the_same_seed_gives_the_same_bytes(patient, tmp_path):
    root = tmp_path / "elsewhere"
    assert (
        strokect("phantom", "-o", root, "--size", "small", "--seed", 3, "--dicom", "siemens").code
        == 0
    )
    one, two = hashes(patient.layout.root), hashes(root)
    assert one == two
    assert sum("ctp" in name and name.endswith(".dcm") for name in one) == 24 * 8


def test_the_layout_is_complete(patient):
    layout = patient.layout
    assert patient.made.out.strip() == str(layout.scan_folder)
    assert patient.made.err == ""
    for path in (
        layout.scan("ctp"),
        layout.scan("ctp").with_name(f"{layout.stem}_ctp.json"),
        *(layout.truth_map(m) for m in ("cbf", "cbv", "mtt", "delay", "tmax")),
        *(layout.truth_mask(m) for m in ("brain", "artery", "core", "hypoperfusion", "penumbra")),
        layout.scan("ncct"),
        layout.scan("cta"),
        layout.truth_mask("clot", "cta"),
        layout.truth_labels("vessels", "cta"),
        layout.truth_labels("tissue"),
        layout.truth_curves,
        layout.root / "README.md",
        layout.root / "dataset_description.json",
    ):
        assert path.exists(), path
    header, row = (layout.root / "participants.tsv").read_text().splitlines()
    info = json.loads((layout.truth_folder / f"{layout.stem}_truth.json").read_text())
    found = dict(zip(header.split("\t"), row.split("\t"), strict=True))
    assert found["participant_id"] == "sub-0001"
    assert found["side"] == info["side"]
    assert int(found["nihss"]) == info["nihss"]
    assert float(found["core_ml"]) == pytest.approx(info["volumes_ml"]["core"], abs=0.01)


class TestAgain:
    def make(self, root, *options):
        return strokect("phantom", "-o", root, "--size", "small", *options)

    def test_patients_are_kept_and_added(self, tmp_path):
        root = tmp_path / "p"
        assert self.make(root).code == 0
        before = {p: p.stat().st_mtime_ns for p in (root / "sub-0001").rglob("*") if p.is_file()}
        run = self.make(root, "-n", 2)
        assert run.code == 0
        first, second = run.out.splitlines()
        assert "was there already" in first
        assert "was there already" not in second
        assert {p: p.stat().st_mtime_ns for p in before} == before
        assert len((root / "participants.tsv").read_text().splitlines()) == 3

    def test_other_settings_need_overwrite(self, tmp_path):
        root = tmp_path / "p"
        assert self.make(root).code == 0
        before = hashes(root)
        refused(self.make(root, "--noise", 7), 2, "other settings", "--overwrite")
        assert hashes(root) == before
        assert self.make(root, "--noise", 7, "--overwrite").code == 0
        assert hashes(root) != before

    @pytest.mark.parametrize("options", [[], ["--overwrite"]])
    def test_a_real_patient_is_never_replaced(self, tmp_path, options):
        real = tmp_path / "sub-0001" / "ses-01" / "sub-0001_ses-01_ctp.nii.gz"
        real.parent.mkdir(parents=True)
        real.write_text("a real scan")
        refused(self.make(tmp_path, *options), 2, "did not make")
        assert real.read_text() == "a real scan"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--size", "tiny"], ["'tiny'", "small"]),
        (["--groups", "TIA"], ["'TIA'", "LVO"]),
        (["--dicom", "acme"], ["'acme'", "siemens"]),
        (["-n", "0"], ["-n"]),
        (["--noise", "-1"], ["--noise"]),
        (["--noise", "inf", "--size", "small"], ["--noise"]),
    ],
)
def test_impossible_patients(tmp_path, options, words):
    refused(strokect("phantom", "-o", tmp_path / "p", *options), 2, *words)
    assert list(tmp_path.iterdir()) == []
