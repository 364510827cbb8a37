from pathlib import Path

import numpy as np
import pytest

from strokect.core.errors import ScanError
from strokect.core.types import Grid
from strokect.perfusion.brain import brain_masks
from strokect.phantom.patient import PatientConfig, make_patient

TILTED = Path(__file__).parents[2].parent / "shared" / "data" / "ge_tilted_ncct"


def head(grid, rim_mm=3.0, gap=None):
    """Scalp, skull, a rim of CSF, brain with ventricles; HU and the true brain."""
    z, y, x = np.indices(grid.shape, dtype=float)
    px, py, pz = (grid.affine @ np.stack([x, y, z, np.ones_like(x)]).reshape(4, -1))[:3].reshape(
        3, *grid.shape
    )
    r = np.sqrt((px / 68) ** 2 + (py / 84) ** 2 + (pz / 75) ** 2)
    layer = 1 / 70  # about 1 mm
    image = np.full(grid.shape, -1000.0)
    image[r < 1 + (rim_mm + 12) * layer] = 30  # scalp
    skull = r < 1 + (rim_mm + 7) * layer
    image[skull] = 900
    image[r < 1 + rim_mm * layer] = 5  # subarachnoid CSF
    brain = r < 1
    image[brain] = 35
    image[((np.abs(px) - 12) / 7) ** 2 + (py / 25) ** 2 + (pz / 20) ** 2 < 1] = 4
    if gap is not None:  # a foramen or a craniectomy
        image[skull & (r > 1) & (np.abs(py) < gap) & (px > 0)] = 30
    noise = np.random.default_rng(0).normal(0, 1, grid.shape)
    return (image + noise).astype(np.float32), brain


def grid_of(shape=(16, 160, 140), spacing=(5.0, 1.3, 1.3), tilt=0.0):
    z, y, x = shape
    dz, dy, dx = spacing
    affine = np.diag([-dx, -dy, dz, 1.0])
    affine[1, 2] = tilt * dz
    affine[:3, 3] = -affine[:3, :3] @ [(x - 1) / 2, (y - 1) / 2, (z - 1) / 2]
    return Grid(shape, affine)


def dice(a, b):
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


@pytest.mark.parametrize(
    ("grid", "gap"),
    [
        (grid_of(), None),
        (grid_of((5, 320, 280), (8.0, 0.65, 0.65)), None),  # thin coverage, fine pixels
        (grid_of(tilt=0.33), None),
        (grid_of(), 6.0),
    ],
)
def test_brain_without_skull_and_rim(grid, gap):
    image, brain = head(grid, gap=gap)
    masks = brain_masks(image, grid)
    assert dice(masks.brain, brain) > 0.96
    assert not (masks.brain & (image > 300)).any()
    assert (masks.csf & brain).sum() > 0.6 * (brain & (image < 12)).sum()


def test_ventricles_belong_to_the_brain_and_are_csf():
    grid = grid_of()
    image, _ = head(grid)
    masks = brain_masks(image, grid)
    middle = tuple(n // 2 for n in grid.shape)
    ventricle = (middle[0], middle[1], middle[2] + round(12 / 1.3))
    assert masks.brain[ventricle]
    assert masks.csf[ventricle]


def test_the_field_may_cut_the_head():
    grid = grid_of()
    image, brain = head(grid)
    cut = Grid((16, 160, 85), grid.affine)
    masks = brain_masks(image[:, :, :85], cut)
    assert dice(masks.brain, brain[:, :, :85]) > 0.93


@pytest.mark.parametrize("value", [-1000.0, 40.0])
def test_no_head_is_refused(value):
    grid = grid_of((4, 64, 64))
    image = np.full(grid.shape, value, np.float32)
    if value > 0:
        image[:] = -1000
        image[:, 30:34, 30:34] = value  # a thing, but no head
    with pytest.raises(ScanError):
        brain_masks(image, grid)


def test_face_and_neck_below_the_brain_are_left_out():
    """A whole-head scan of a virtual patient, down to the foramen magnum."""
    config = PatientConfig(
        seed=4, shape=(32, 128, 128), spacing_mm=(5.0, 1.8, 1.8), centre_z_mm=10.0, n_times=1,
        noise_hu=2.0,
    )  # fmt: skip
    patient = make_patient(config)
    grid, brain = patient.ctp.grid, patient.masks["brain"].data
    found = brain_masks(patient.ctp.data_hu[0], grid)
    assert dice(found.brain, brain) > 0.93
    low = slice(0, 8)
    outside = (found.brain[low] & ~brain[low]).sum() * grid.voxel_ml
    assert outside < 0.2 * brain[low].sum() * grid.voxel_ml
    assert (found.brain[low] & brain[low]).sum() > 0.75 * brain[low].sum()


@pytest.mark.skipif(not TILTED.exists(), reason="shared/data/ge_tilted_ncct is not here")
def test_a_real_tilted_head():
    from strokect.io.dicom import read_ct_folder

    volume = read_ct_folder(TILTED)
    masks = brain_masks(volume.data, volume.grid)
    assert 1200 < np.count_nonzero(masks.brain) * volume.grid.voxel_ml < 1550
    assert (volume.data[masks.brain] > 250).mean() < 0.002
    # Symmetric within a few per cent: neither scalp nor orbit was caught on one side.
    _, _, x = np.nonzero(masks.brain)
    middle = np.median(x)
    assert np.count_nonzero(x < middle) / x.size == pytest.approx(0.5, abs=0.02)
