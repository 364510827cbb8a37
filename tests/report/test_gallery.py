"""The gallery shows what is there, where it is, and leaves out what is not."""

import base64
import io
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from strokect import virtual
from strokect.core.errors import OutputExistsError, ScanError
from strokect.core.types import CTSeries, Grid
from strokect.io import nifti
from strokect.io.layouts import OwnLayout
from strokect.io.outputs import write_json
from strokect.report.gallery import write_gallery
from strokect.report.text import PRIVATE_KEY

#: A box of brain: 120 x 150 x 60 mm about the origin; the three scans have grids of their own.
CTP = Grid(
    (6, 50, 40), np.array([[3, 0, 0, -58.5], [0, 3, 0, -73.5], [0, 0, 10, -25], [0, 0, 0, 1.0]])
)
CTA = Grid((60, 80, 70), np.array([[-2, 0, 0, 70], [0, 2, 0, -80], [0, 0, 2, -60], [0, 0, 0, 1.0]]))
NCCT = Grid(
    (20, 60, 50), np.array([[3, 0, 0, -75], [0, -3, 0, 90], [0, 0, 5, -50], [0, 0, 0, 1.0]])
)
LEFT_MM = -40.0  # RAS: the patient's left is negative


def positions(grid):
    index = np.stack(np.indices(grid.shape)[::-1]).reshape(3, -1)
    return (grid.affine[:3, :3] @ index + grid.affine[:3, 3:]).reshape(3, *grid.shape)


def ball(grid, centre, radius):
    offset = positions(grid) - np.reshape(centre, (3, 1, 1, 1))
    return np.sqrt((offset**2).sum(axis=0)) <= radius


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A patient with a bright ball on the left in all three scans, and one with CTP only."""
    root = tmp_path_factory.mktemp("gallery")
    for label in ("0001", "0002"):
        layout = OwnLayout(root, label)
        lesion = ball(CTP, (LEFT_MM, 0, 5), 15)
        frame = np.where(lesion, 75.0, 20.0).astype(np.float32)
        times = np.repeat(np.arange(3.0)[:, None], 6, axis=1)
        nifti.write_ctp(layout.scan("ctp"), CTSeries(np.stack([frame] * 3), times, CTP))
        nifti.write_volume(layout.truth_mask("hypoperfusion"), lesion, CTP)
        nifti.write_volume(layout.truth_mask("penumbra"), lesion, CTP)
        nifti.write_volume(layout.truth_mask("core"), ball(CTP, (LEFT_MM, 0, 5), 8), CTP)
        nifti.write_volume(layout.truth_mask("brain"), np.ones(CTP.shape, bool), CTP)
        tmax = np.where(lesion, 9.0, 1.0).astype(np.float32)
        nifti.write_volume(layout.truth_map("tmax"), tmax, CTP)
    layout = OwnLayout(root, "0001")
    for modality, grid in (("cta", CTA), ("ncct", NCCT)):
        clot = ball(grid, (LEFT_MM, 20, -12), 6)
        volume = np.where(clot, 400.0, 20.0).astype(np.float32)
        nifti.write_volume(layout.scan(modality), volume, grid)
        nifti.write_volume(layout.truth_mask("clot", modality), clot, grid)
    vessels = ball(CTA, (LEFT_MM, 20, -12), 10).astype(np.float32)
    nifti.write_volume(layout.truth_labels("vessels", "cta"), vessels, CTA)
    (root / "participants.tsv").write_text(
        "participant_id\tgroup\tsite\tage\tnihss\tonset_h\tcore_ml\n"
        "sub-0001\tLVO\tM1\t71\t14\t2.5\t12\nsub-0002\tWIS\tn/a\t60\t2\tn/a\t0\n"
    )
    out = root / "results" / "sub-0001_ses-01"
    for name in ("core", "penumbra", "hypoperfusion", "brain"):
        source = layout.truth_mask(name)
        (out / "masks").mkdir(parents=True, exist_ok=True)
        shutil.copy(source, out / "masks" / f"{name}.nii.gz")
    write_json(out / "summary.json", {"volumes_ml": {"core": 7.77, "penumbra": 8.88}})
    write_json(out / "agreement.json", {"agreement": {"core": {"dice": 0.654}}})
    return root


@pytest.fixture(scope="module")
def page(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "gallery.html"
    assert write_gallery(data, path, data / "results") == 2
    return path.read_text()


def patient(page, name):
    return page.split(f'id="{name}"')[1].split("</section>")[0]


def picture(section, title, caption=""):
    found = re.search(
        rf"<b>{re.escape(title)}</b><span>{caption}.*?src=\"data:image/png;base64,([^\"]+)\"",
        section, re.S,
    )  # fmt: skip
    assert found, title
    image = Image.open(io.BytesIO(base64.b64decode(found[1]))).convert("RGB")
    return np.asarray(image).astype(int)


def brightest(pixels):
    """Mean column and row of the brightest pixels, as shares of the picture."""
    bright = pixels.sum(axis=2)
    y, x = np.nonzero(bright == bright.max())
    return x.mean() / bright.shape[1], y.mean() / bright.shape[0]


def test_all_three_scans_show_the_same_place(page):
    section = patient(page, "sub-0001")
    expected_x = 0.5 - LEFT_MM / 176  # the patient's left is on the right
    for title in ("NCCT", "CTA, axial MIP", "CTA, coronal MIP"):
        assert brightest(picture(section, title))[0] == pytest.approx(expected_x, abs=0.02), title
    for title in ("NCCT", "CTA, axial MIP"):  # 20 mm in front of the middle
        assert brightest(picture(section, title))[1] == pytest.approx(0.5 - 20 / 212, abs=0.02)
    x, y = brightest(picture(section, "CTP, mean"))
    assert (x, y) == pytest.approx((expected_x, 0.5), abs=0.02)


def test_truth_is_outlined(page):
    section = patient(page, "sub-0001")
    truth = section.split("The truth")[1].split("Found by the analysis")[0]
    for style in ("core", "penumbra", "clot", "artery", "late"):
        assert re.search(rf'<path class="{style}" d="M\d', truth), style
    core = re.search(r'<path class="core" d="([^"]+)"', truth)[1]
    x = [float(n) for n in re.findall(r"M(\d+) ", core)]
    assert np.mean(x) / 176 == pytest.approx(0.5 - LEFT_MM / 176, abs=0.03)


def test_facts_and_volumes_side_by_side(page):
    section = patient(page, "sub-0001")
    for name, value in (("Group", "LVO"), ("Occlusion", "M1"), ("NIHSS", "14"), ("Age", "71"),
                        ("Onset, h", "2.5")):  # fmt: skip
        assert f"<dt>{name}</dt><dd>{value}</dd>" in section
    row = re.search(r"Core</th>(.*?)</tr>", section)[1]
    true, found, dice = re.findall(r"<td>(.*?)</td>", row)
    voxels = np.count_nonzero(ball(CTP, (LEFT_MM, 0, 5), 8))
    assert float(true) == pytest.approx(voxels * CTP.voxel_ml, abs=0.05)
    assert (found, dice) == ("7.8", "0.65")


def test_what_is_missing_is_left_out(page):
    section = patient(page, "sub-0002")
    assert "NCCT" not in section
    assert "CTA" not in section
    assert "Found by the analysis" not in section
    assert "CTP, mean" in section
    assert "Occlusion" not in section


def test_columns_that_may_name_a_patient_are_not_shown(data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data" / "participants.tsv").write_text(
        "participant_id\tpatient_name\tbirth_year\taccession\tonset_date\tsource_file\tscanner"
        "\tage\nsub-0001\tDOE JANE\t1950\tA123456\t2024-05-06\tward7\tAcme 64\t71\n"
    )
    write_gallery(tmp_path / "data", tmp_path / "a.html", n=1)
    page = (tmp_path / "a.html").read_text()
    facts = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", patient(page, "sub-0001"))
    assert facts == [("Age", "71"), ("Scanner", "Acme 64")]
    assert not re.search(r"DOE JANE|A123456|2024-05-06|ward7", page)


def test_facts_of_virtual_patients_are_all_shown():
    assert not [name for name in virtual._COLUMNS if PRIVATE_KEY.search(name)]


def test_one_file_that_asks_for_nothing_else(page):
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "research use only" in page.lower()
    assert "simulated" in page


def test_same_data_same_bytes_and_no_overwriting_unasked(data, tmp_path):
    path = tmp_path / "a.html"
    write_gallery(data, path, n=1)
    first = path.read_bytes()
    with pytest.raises(OutputExistsError):
        write_gallery(data, path)
    write_gallery(data, path, n=1, overwrite=True)
    assert path.read_bytes() == first
    assert b"Dice" not in first, "no results were given"


def test_nothing_to_show(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.dcm").write_bytes(b"x")
    with pytest.raises(ScanError):
        write_gallery(tmp_path, tmp_path / "a.html")
    assert not (tmp_path / "a.html").exists()
