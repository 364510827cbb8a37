import numpy as np
import pytest

from strokect.core.types import Grid
from strokect.perfusion.quality import reference_flags
from strokect.perfusion.tissue import (
    MISTAR,
    RAPID,
    WINTERMARK,
    TissueOptions,
    drop_islands,
    indices,
    segment,
    side_of,
    trial_criteria,
    volumes_ml,
)

# 2 x 2 x 5 mm voxels, 0.02 ml each; x runs to the patient's left, as in most CT.
GRID = Grid((4, 60, 50), np.array([[-2.0, 0, 0, 50], [0, -2, 0, 60], [0, 0, 5, 0], [0, 0, 0, 1]]))
BRAIN = np.zeros(GRID.shape, bool)
BRAIN[:, 5:55, 5:45] = True


def maps(lesion=None, core=None):
    """Healthy maps with a lesion (slices) and a core inside it."""
    out = {
        "cbf": np.where(BRAIN, 50.0, 0), "cbv": np.where(BRAIN, 4.0, 0),
        "mtt": np.where(BRAIN, 4.8, 0), "tmax": np.where(BRAIN, 1.0, 0),
        "delay": np.where(BRAIN, 0.5, 0), "ttp": np.where(BRAIN, 6.0, 0),
    }  # fmt: skip
    if lesion is not None:
        for key, value in {"cbf": 25, "mtt": 9.6, "tmax": 8, "delay": 4}.items():
            out[key][lesion] = value
    if core is not None:
        for key, value in {"cbf": 8, "cbv": 1.2, "mtt": 9, "tmax": 11, "delay": 6}.items():
            out[key][core] = value
    return {k: v.astype(np.float32) for k, v in out.items()}


LESION = (slice(0, 4), slice(10, 40), slice(8, 20))  # low x index = patient's right
CORE = (slice(1, 3), slice(20, 30), slice(10, 16))
LESION_ML, CORE_ML = 4 * 30 * 12 * 0.02, 2 * 10 * 6 * 0.02


@pytest.mark.parametrize("rule", [RAPID, MISTAR, WINTERMARK])
def test_every_rule_finds_the_known_volumes(rule):
    m = maps(LESION, CORE)
    t = segment(m, BRAIN, GRID, rule, TissueOptions())
    v = volumes_ml(t, m["tmax"], GRID, 0.5)
    assert v["hypoperfusion"] == pytest.approx(LESION_ML)
    assert v["core"] == pytest.approx(CORE_ML)
    assert v["penumbra"] == pytest.approx(LESION_ML - CORE_ML)
    assert not (t.core & ~t.hypoperfusion).any()


def test_indices_by_hand():
    m = maps(LESION, CORE)
    t = segment(m, BRAIN, GRID, RAPID, TissueOptions())
    v = volumes_ml(t, m["tmax"], GRID, 0.5)
    found = indices(v, t, m["tmax"], m["cbv"])
    assert found["mismatch"]["ratio"] == pytest.approx(LESION_ML / CORE_ML)
    assert found["hir"] == pytest.approx(CORE_ML / LESION_ML)
    mean_cbv = (4.0 * (LESION_ML - CORE_ML) + 1.2 * CORE_ML) / LESION_ML
    assert found["cbv_index"] == pytest.approx(mean_cbv / 4.0, rel=1e-5)


def test_reference_is_unaffected_tissue_even_in_a_large_lesion():
    large = (slice(0, 4), slice(5, 55), slice(5, 36))  # three quarters of the brain
    t = segment(maps(large, CORE), BRAIN, GRID, RAPID, TissueOptions())
    assert t.reference["cbf"] == pytest.approx(50)
    assert np.count_nonzero(t.core) * GRID.voxel_ml == pytest.approx(CORE_ML)


def test_vessels_and_csf_do_not_enter_the_reference():
    m = maps(LESION)
    m["cbv"][:, 50:55, 40:45] = 20
    m["cbf"][:, 50:55, 40:45] = 300
    csf = np.zeros(GRID.shape, bool)
    csf[:, 25:30, 24:27] = True
    m["cbf"][csf] = 1
    t = segment(m, BRAIN & ~csf, GRID, RAPID, TissueOptions())
    assert t.reference["cbf"] == pytest.approx(50)


def test_healthy_brain_has_no_lesion_and_undefined_ratios():
    m = maps()
    t = segment(m, BRAIN, GRID, RAPID, TissueOptions())
    v = volumes_ml(t, m["tmax"], GRID, 0.5)
    assert v["hypoperfusion"] == v["core"] == 0
    found = indices(v, t, m["tmax"], m["cbv"])
    assert found["hir"] is None
    assert found["mismatch"]["ratio"] is None
    assert side_of(t.hypoperfusion, BRAIN, GRID) == "none"


def test_islands_are_dropped_by_volume():
    mask = np.zeros(GRID.shape, bool)
    mask[1, 10:14, 10:14] = True  # 0.32 ml
    mask[2, 30:40, 30:40] = True  # 2 ml
    kept = drop_islands(mask, GRID, 0.5)
    assert np.count_nonzero(kept) == 100


def test_side_follows_the_patient_not_the_array():
    mask = np.zeros(GRID.shape, bool)
    mask[LESION] = True
    assert side_of(mask, BRAIN, GRID) == "right"
    flipped = GRID.affine.copy()
    flipped[0] = [2, 0, 0, -48]
    assert side_of(mask, BRAIN, Grid(GRID.shape, flipped)) == "left"
    assert side_of(mask | mask[:, :, ::-1], BRAIN, GRID) == "bilateral"


@pytest.mark.parametrize(
    ("core", "hypo", "defuse", "extend"),
    [
        (20, 100, "met", "met"),
        (75, 200, "not met", "not met"),  # core too large
        (50, 80, "not met", "met"),  # ratio 1.6
        (0, 14, "not met", "met"),  # mismatch 14 ml
        (50, 90, "met", "met"),  # ratio exactly 1.8
        (50, 60, "not met", "not met"),  # ratio exactly 1.2 is not above it
        (0, 0, "not met", "not met"),
    ],
)
def test_trial_criteria_at_their_limits(core, hypo, defuse, extend):
    status = {c["name"]: c["status"] for c in trial_criteria(core, hypo)}
    assert status == {"DEFUSE 3": defuse, "EXTEND": extend, "DAWN": "needs age, NIHSS"}


def test_no_unaffected_tissue_is_said():
    m = maps((slice(0, 4), slice(0, 60), slice(0, 50)))
    t = segment(m, BRAIN, GRID, RAPID, TissueOptions())
    assert t.reference_ml == 0
    assert [f.code for f in reference_flags(t.reference_ml, 100.0)] == ["NO_REFERENCE"]
