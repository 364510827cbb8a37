"""Where an input function may lie, on geometry and motion that are known."""

import numpy as np
import pytest

from strokect.core.result import Motion
from strokect.core.types import Grid
from strokect.perfusion.motion import MotionOptions
from strokect.perfusion.prepare import steady_voxels

#: 2 x 1 mm in plane, so that mm are no voxels; slices of 5 mm.
GRID = Grid((6, 40, 60), np.diag([1.0, 2.0, 5.0, 1.0]))
#: Inside of the skull: 60 mm wide (rows 5 to 34), 40 mm long (columns 10 to 49); the lowest slice
#: has none, as below a skull base.
INSIDE = np.zeros(GRID.shape, bool)
INSIDE[1:, 5:35, 10:50] = True
OPTIONS = MotionOptions()
OFF_BONE_MM = 3.0


def moved_by(*shifts_mm, turn_deg=0.0):
    """Motion of a head held still for two frames, then shifted (x, y, z)."""
    parameters = np.zeros((2 + len(shifts_mm), 6))
    parameters[2:, :3] = np.reshape(shifts_mm, (-1, 3))
    parameters[2:, 5] = turn_deg
    return Motion(
        np.arange(len(parameters), dtype=float), parameters,
        np.linalg.norm(parameters[:, :3], axis=1) + turn_deg, centre_mm=(30.0, 40.0, 12.5),
    )  # fmt: skip


def further_in(distance_mm):
    """Voxels of INSIDE more than so far from the nearest voxel outside, in plane."""
    _, y, x = np.indices(GRID.shape)
    to_edge = np.minimum.reduce([2.0 * (y - 4), 2.0 * (35 - y), x - 9.0, 50.0 - x])
    return INSIDE & (to_edge > distance_mm)


@pytest.mark.parametrize("motion", [None, moved_by((0.1, 0, 0)), moved_by()])
def test_a_still_head_is_steady_off_the_bone(motion):
    steady = steady_voxels(INSIDE, motion, GRID, OFF_BONE_MM, OPTIONS)
    assert np.array_equal(steady, further_in(OFF_BONE_MM))
    assert steady[1:].any(axis=(1, 2)).all() and not steady[0].any()


@pytest.mark.parametrize("shift_mm", [1.0, 4.0, 9.0])
def test_the_further_a_head_moved_the_further_from_bone(shift_mm):
    """In plane; the slice above the base is out too, as bone of the next may come into it."""
    motion = moved_by((0.3, 0, 0), (-shift_mm, 0, 0))
    steady = steady_voxels(INSIDE, motion, GRID, OFF_BONE_MM, OPTIONS)
    expected = further_in(OFF_BONE_MM + shift_mm)
    expected[1] = False
    assert np.array_equal(steady, expected)
    assert expected.any()


def test_the_farthest_frame_counts_in_any_order():
    there, back = moved_by((0, 6, 0), (0, 1, 0)), moved_by((0, 1, 0), (0, 6, 0))
    first, second = (steady_voxels(INSIDE, m, GRID, OFF_BONE_MM, OPTIONS) for m in (there, back))
    assert np.array_equal(first, second)


@pytest.mark.parametrize(("up_mm", "unseen"), [(5.0, [5]), (-5.0, []), (10.0, [4, 5])])
def test_slices_that_left_the_scan_are_not_steady(up_mm, unseen):
    """A head that rises by a slice leaves through the top: that slice was not seen in all poses.

    The lowest one, which a head leaves that sinks, holds no brain anyway.
    """
    steady = steady_voxels(INSIDE, moved_by((0, 0, up_mm)), GRID, OFF_BONE_MM, OPTIONS)
    gone = np.flatnonzero(~steady.any(axis=(1, 2)))
    assert gone.tolist() == [0, 1, *unseen]


def test_a_turned_head_keeps_its_middle():
    steady = steady_voxels(INSIDE, moved_by((0, 0, 0), turn_deg=8.0), GRID, OFF_BONE_MM, OPTIONS)
    assert np.array_equal(steady[2], steady[4])
    assert steady[2, 20, 30]
    assert not (steady & ~further_in(OFF_BONE_MM + 8.0)).any()
