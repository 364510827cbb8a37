import numpy as np
import pytest
from scipy import ndimage

from strokect.core.result import Motion
from strokect.core.types import CTSeries, Grid
from strokect.perfusion.motion import MotionOptions, always_seen, correct_motion, rigid_matrix
from strokect.perfusion.realign import resampled

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


def rough_scan(n=24, at=12, pose=(0, 0, 4, 2, 0, 0), noise=3.0):
    """A fine head averaged into slices after it moved: loss that no resampling undoes."""
    rng = np.random.default_rng(3)
    fine_grid = Grid((80, 64, 64), np.diag([3.0, 3.0, 1.25, 1.0]))
    z, y, x = np.indices(fine_grid.shape).astype(float)
    r = np.sqrt(((y - 32) / 28) ** 2 + ((x - 32) / 24) ** 2 + ((z - 40) / 80) ** 2)
    still = np.where(r < 1, 35.0, -1000.0)
    still[(r > 0.86) & (r < 0.97)] = 900
    folds = ndimage.gaussian_filter(rng.normal(size=r.shape), (2.0, 1.2, 1.2))
    brain = r < 0.84
    still[brain & (folds > 1.0 * folds[brain].std())] = 6  # CSF, thinner than a slice
    grey = brain & (still == 35)
    slow = grey & (x > 32)
    centre = fine_grid.affine @ [31.5, 31.5, 39.5, 1]
    p = np.asarray(pose, float)
    motion = rigid_matrix(np.r_[p[:3], np.deg2rad(p[3:])], centre[:3])
    index = np.linalg.inv(fine_grid.affine) @ np.linalg.inv(motion) @ fine_grid.affine
    flip = np.eye(4)[[2, 1, 0, 3]]
    m = flip @ index @ flip

    def slices(image, moves):
        if moves:
            image = ndimage.affine_transform(image, m[:3, :3], m[:3, 3], order=1, mode="nearest")
        return image[8:72].reshape(16, 4, 64, 64).mean(axis=1)

    truth, frames = [], []
    for t in range(n):
        fast, late = (10 * np.exp(-0.5 * ((t - top) / 3) ** 2) for top in (9, 13))
        frame = still + fast * (grey & ~slow) + late * slow
        grain = rng.normal(0, noise, (16, 64, 64))
        truth.append(slices(frame, False) + grain)
        frames.append(slices(frame, t >= at) + grain if t >= at else truth[-1])
    affine = fine_grid.affine @ np.diag([1, 1, 4, 1])
    affine[2, 3] = 1.25 * 9.5
    grid = Grid((16, 64, 64), affine)
    times = np.arange(n, dtype=float)
    inside = slices(brain.astype(float), False) > 0.99
    inside[[0, 1, -2, -1]] = False
    return CTSeries(np.stack(frames).astype(np.float32), times, grid), np.stack(truth), inside


def test_structure_thinner_than_a_slice_leaves_no_step():
    series, truth, inside = rough_scan()
    aligned, motion = correct_motion(series, MotionOptions())
    assert np.all(motion.displacement_mm[12:] > 3)
    assert np.all(motion.displacement_mm[:12] < 0.25)
    step = (aligned[12:] - truth[12:]).mean(axis=0)[inside]
    pose = np.linalg.inv(series.grid.affine) @ rigid_matrix(
        np.r_[motion.parameters[-1, :3], np.deg2rad(motion.parameters[-1, 3:])],
        np.array(motion.centre_mm),
    )
    simple = np.stack([resampled(f, pose @ series.grid.affine) for f in series.data_hu[12:]])
    lost = (simple - truth[12:]).mean(axis=0)[inside]
    assert step.std() < 0.5 * lost.std()
    assert abs(step.mean()) < 0.5


def test_frames_at_rest_are_not_resampled():
    series, _, _ = rough_scan()
    aligned, _ = correct_motion(series, MotionOptions())
    assert np.array_equal(aligned[:12], series.data_hu[:12])


def test_many_poses_are_brought_back():
    poses = [(0.4 * t, -0.5 * t, 0, 0, 0, 0.3 * t) for t in range(12)]
    aligned, motion = correct_motion(scan(poses, enhance=False), MotionOptions())
    still = scan([STILL] * 12, enhance=False).data_hu
    inside = ndimage.binary_erosion((head() > 0) & (head() < 100), np.ones((1, 9, 9)))
    noise = 5.0 * 2 / np.sqrt(np.pi)
    assert motion.displacement_mm[-1] > 4
    assert np.abs(aligned[-1] - still[-1])[inside].mean() < 1.3 * noise


def test_resampling_by_no_motion_returns_the_frame():
    frame = head().astype(np.float32)
    assert resampled(frame, np.eye(4)) == pytest.approx(frame, abs=0.05)
    turned = np.eye(4)
    turned[0, 3] = 1.0  # by a whole voxel
    assert resampled(frame, turned)[:, :, :-1] == pytest.approx(frame[:, :, 1:], abs=0.05)


def test_what_a_moved_frame_did_not_see_is_known():
    grid = Grid((6, 20, 20), np.diag([1.0, 1.0, 5.0, 1.0]))
    parameters = np.zeros((4, 6))
    parameters[2:, 2] = 5.0  # up by a slice: the top slice left the scan
    found = Motion(np.arange(4.0), parameters, np.abs(parameters[:, 2]))
    seen = always_seen(found, grid, MotionOptions())
    assert seen[:5].all() and not seen[5].any()
    still = Motion(np.arange(4.0), np.zeros((4, 6)), np.zeros(4))
    assert always_seen(still, grid, MotionOptions()).all()
