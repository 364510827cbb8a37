import numpy as np
import pytest
from scipy import ndimage

from strokect.core.types import CTSeries, Grid
from strokect.perfusion.motion import MotionOptions, correct_motion, rigid_matrix

GRID = Grid(
    (8, 96, 96), np.array([[-2.0, 0, 0, 95], [0, -2.0, 0, 95], [0, 0, 6, -20], [0, 0, 0, 1]])
)
CENTRE = np.array([0.0, 0.0, 0.0])


def head():
    """An asymmetric skull with ventricles and texture, HU."""
    rng = np.random.default_rng(0)
    z, y, x = np.indices(GRID.shape).astype(float)
    r = np.sqrt(((y - 48) / 42) ** 2 + ((x - 48) / 33) ** 2 + ((z - 4) / 12) ** 2)
    image = np.where(r < 1, 35.0, -1000.0)
    image[(r > 0.86) & (r < 0.95)] = 900
    image += np.where(
        r < 0.86, 60 * ndimage.gaussian_filter(rng.normal(size=r.shape), (1, 3, 3)), 0
    )
    image[((y - 40) ** 2 + (x - 40) ** 2 < 40) & (r < 0.8)] = 5
    image[(x > 60) & (y > 60) & (r < 0.86)] += 8
    return image


def moved(image, parameters):
    """What a scanner sees of a head that moved by ``parameters`` (mm, degrees)."""
    p = np.asarray(parameters, float)
    motion = rigid_matrix(np.r_[p[:3], np.deg2rad(p[3:])], CENTRE)
    index = np.linalg.inv(GRID.affine) @ np.linalg.inv(motion) @ GRID.affine
    flip = np.eye(4)[[2, 1, 0, 3]]
    m = flip @ index @ flip
    return ndimage.affine_transform(image, m[:3, :3], m[:3, 3], order=1, mode="nearest")


def scan(poses, enhance=True):
    rng = np.random.default_rng(1)
    still = head()
    vessel = np.zeros_like(still)
    vessel[:, 44:50, 20:60:6] = 1
    frames = []
    for t, pose in enumerate(poses):
        bolus = 250 * np.exp(-0.5 * ((t - 6) / 2) ** 2) if enhance else 0.0
        brain = np.where((still > 0) & (still < 80), 8 * np.exp(-0.5 * ((t - 8) / 3) ** 2), 0)
        frames.append(
            moved(still + bolus * vessel + enhance * brain, pose) + rng.normal(0, 5, still.shape)
        )
    return CTSeries(np.stack(frames).astype(np.float32), np.arange(len(poses), dtype=float), GRID)


STILL = (0, 0, 0, 0, 0, 0)
JUMPS = (
    [STILL] * 5 + [(4, -3, 0, 0, 0, 5), (0, 3, 2, 2, 0, 0)] + [STILL] * 4 + [(1, 1, 0, 0, 0, -2)]
)


def pose_error_mm(motion, t, pose):
    """Mean distance between where the found and the true motion take points of the head."""
    p = motion.parameters[t]
    found = rigid_matrix(np.r_[p[:3], np.deg2rad(p[3:])], np.array(motion.centre_mm))
    pose = np.asarray(pose, float)
    true = rigid_matrix(np.r_[pose[:3], np.deg2rad(pose[3:])], CENTRE)
    points = np.random.default_rng(0).uniform((-60, -80, -15), (60, 80, 15), (200, 3))
    q = np.c_[points, np.ones(200)].T
    return float(np.linalg.norm(((found - true) @ q)[:3], axis=0).mean())


def test_known_jumps_are_undone_in_spite_of_the_bolus():
    series = scan(JUMPS)
    aligned, motion = correct_motion(series, MotionOptions())
    still = scan([STILL] * len(JUMPS)).data_hu
    inside = (head() > 0) & (head() < 100)
    # Away from the hard edge of the skull, where interpolation errors hide the rest.
    inside = ndimage.binary_erosion(inside, np.ones((1, 9, 9)), iterations=1)
    inside[[0, 1, -2, -1]] = False  # slices that moved out of the field cannot be restored
    noise = 5.0 * np.sqrt(2) * np.sqrt(2 / np.pi)  # mean |difference| of two still frames
    for t in (5, 6, 11):
        after = np.abs(aligned[t] - still[t])[inside].mean()
        assert after < 1.5 * noise
        assert pose_error_mm(motion, t, JUMPS[t]) < 0.6
    assert motion.displacement_mm[[0, 1, 2, 8, 9]].max() < 0.2
    assert motion.displacement_mm[5] > 4
    assert motion.replaced == ()


def test_a_still_head_is_left_untouched():
    series = scan([STILL] * 12)
    aligned, motion = correct_motion(series, MotionOptions())
    assert aligned is series.data_hu
    assert motion.displacement_mm.max() < 0.2


def test_a_ruined_frame_is_replaced_in_time():
    series = scan([STILL] * 12)
    data = series.data_hu.copy()
    data[9] = 0.5 * data[9] + 0.5 * np.roll(data[9], 15, axis=2)  # the head shook during the turn
    aligned, motion = correct_motion(CTSeries(data, series.times_s, GRID), MotionOptions())
    assert motion.replaced == (9,)
    assert aligned[9] == pytest.approx((aligned[8] + aligned[10]) / 2, abs=1e-2)


def test_the_input_is_not_changed():
    series = scan(JUMPS)
    before = series.data_hu.copy()
    correct_motion(series, MotionOptions())
    assert np.array_equal(series.data_hu, before)


def test_thin_coverage_stays_sane():
    thick = scan(JUMPS)
    grid = Grid((2, 96, 96), GRID.affine)
    thin = CTSeries(thick.data_hu[:, 3:5], thick.times_s[:, 3:5], grid)
    _, motion = correct_motion(thin, MotionOptions())
    assert motion.displacement_mm[:5].max() < 0.5
    assert motion.parameters[11, 5] == pytest.approx(-2, abs=0.7)
