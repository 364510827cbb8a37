"""Centre lines, variants and calibres, by anatomy that holds for every head."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from strokect.core.errors import SettingsError
from strokect.phantom import anatomy, vessels
from strokect.phantom.template import load_template, sample
from strokect.phantom.vessels import SEGMENT_LABELS, Tube, Variants


class Mni:
    """A head that is the template itself."""

    def to_mni(self, points):
        return np.asarray(points, float)

    from_mni = to_mni


@pytest.fixture(scope="module")
def average() -> list[Tube]:
    return vessels.tubes(Mni())


@pytest.fixture(scope="module")
def varied() -> list[Tube]:
    return vessels.tubes(Mni(), rng=np.random.default_rng(3))


def pick(tubes, name, side="right") -> Tube:
    return next(t for t in tubes if t.name == name and t.side in (side, "both"))


def test_every_vessel_has_a_segment_and_a_parent_it_touches(average, varied):
    for tubes in (average, varied):
        for tube in tubes:
            assert tube.segment in SEGMENT_LABELS
            if tube.parent is None:
                assert tube.territory == "vein" or tube.name in ("ica", "va")
            elif tube.radius_mm.max() > 0:
                parent = pick(tubes, tube.parent, tube.side if tube.side != "both" else "right")
                gap = np.linalg.norm(parent.points - tube.points[:, :1], axis=0).min()
                assert gap < 0.8, (tube.name, tube.side)


def test_the_circle_of_willis_is_closed(varied):
    for side in ("left", "right"):
        a1, p1 = pick(varied, "a1", side), pick(varied, "p1", side)
        pcomm, acomm = pick(varied, "pcomm", side), pick(varied, "acomm")
        assert np.linalg.norm(pcomm.points[:, -1] - p1.points[:, -1]) < 0.8
        ends = acomm.points[:, [0, -1]] - a1.points[:, -1:]
        assert np.linalg.norm(ends, axis=0).min() < 0.8


def test_sides_are_sides_and_mirrored_on_average(average, varied):
    for tube in average:
        if tube.side == "right":
            twin = pick(average, tube.name, "left")
            np.testing.assert_allclose(twin.mni * [[-1], [1], [1]], tube.mni)
    for tube in varied:
        sign = {"right": 1, "left": -1, "both": 0}[tube.side]
        inner = tube.mni[0, 3:-3] * sign
        assert sign == 0 or inner.min() > -0.5, tube.name


def test_courses_vary_little_at_the_circle_and_more_outside(average, varied):
    shift = {
        (a.name, a.side): np.linalg.norm(a.mni - b.mni, axis=0)
        for a, b in zip(average, varied, strict=True)
    }
    assert np.mean(shift["a1", "left"]) < 1.5
    assert 0.5 < np.mean(shift["m3_parietal", "left"]) < 5
    assert max(s.max() for s in shift.values()) < 8


def test_calibres_taper_and_vary_by_some_percent(average):
    m1, ica = pick(average, "m1"), pick(average, "ica")
    assert 2 * m1.radius_mm[0] == pytest.approx(3.1)
    assert 2 * ica.radius_mm[-1] == pytest.approx(3.6)
    ratios = []
    for seed in range(12):
        drawn = vessels._calibres(np.random.default_rng(seed), average)
        keep = [t.segment not in ("TS", "SIGMOID", "VA") for t in average]
        ratios.append(drawn[keep])
    assert np.std(ratios) == pytest.approx(0.08, abs=0.02)


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_surface_arteries_lie_in_fissures_and_within_the_skull(seed):
    """Most of the length is not in the middle of parenchyma, and nothing pierces the vault."""
    rng = None if seed is None else np.random.default_rng(seed)
    tubes = vessels.tubes(Mni(), rng=rng)
    hidden = ("PERFORATOR", "VEIN", "STRAIGHT", "VA", "ICA", "SIGMOID")
    drawn = [t for t in tubes if t.segment not in hidden]
    points = np.concatenate([t.mni for t in drawn], axis=1)
    points = points[:, points[2] > -60]
    template = load_template()
    grey, white, _, hull = sample(template.channels, template.affine, points)
    tissue = (grey + white - 0.5) * 1.7 + 0.55  # as a single brain, not an average
    assert np.mean(tissue > 0.5) < 0.40
    assert hull.max() < 3.5  # the transverse sinus grooves the bone


def test_landmarks(average):
    """Carotids lateral to the pharynx, vertebrals nearer the spine, basilar before the pons."""
    ica, va = pick(average, "ica").mni, pick(average, "va").mni
    neck = ica[:, ica[2] < -75]
    assert neck[0].min() > 20
    assert neck[1].min() > va[:, va[2] < -75][1].max()
    assert ica[2].min() < -110 and va[2].min() < -110
    assert ica[1].max() > ica[1, -1] + 2  # the siphon bends forwards, then back
    pons = pick(average, "basilar").mni
    assert np.abs(pons[0]).max() < 0.1 and pons[2, -1] > -22
    torcula = pick(average, "superior_sagittal").mni[:, -1]
    np.testing.assert_allclose(torcula, pick(average, "transverse").mni[:, 0], atol=0.5)
    sigmoid = pick(average, "sigmoid")
    np.testing.assert_allclose(sigmoid.mni[:, 0], pick(average, "transverse").mni[:, -1], atol=0.5)


def test_variants_change_what_they_say():
    normal = vessels.tubes(Mni())
    chosen = Variants(
        fetal_pca=("right",), hypoplastic_a1=("left",), absent_pcomm=("left",), early_m1=("right",)
    )
    found = vessels.tubes(Mni(), chosen)
    names = {(t.name, t.side) for t in found}
    assert ("pcomm", "left") not in names and ("pcomm", "right") in names
    assert pick(found, "p2", "right").parent == "pcomm" and pick(found, "p2", "left").parent == "p1"
    assert pick(found, "pcomm").radius_mm.min() > pick(found, "p1", "right").radius_mm.max()
    assert pick(found, "a1", "left").radius_mm.max() < 0.5 < pick(found, "a1").radius_mm.min()
    assert pick(found, "m1", "right").length_mm == pytest.approx(12, abs=1)
    assert pick(found, "m1", "left").length_mm > 22
    assert pick(found, "m3_angular").parent == pick(normal, "m3_angular").parent == "m2_inferior"
    dominant = vessels.tubes(Mni(), Variants(superior_m2=("right",), absent_acomm=True))
    assert pick(dominant, "m3_angular").parent == "m2_superior"
    assert "acomm" not in {t.name for t in dominant}
    assert pick(dominant, "m2_superior").radius_mm[0] > pick(dominant, "m2_inferior").radius_mm[0]


@pytest.mark.parametrize(
    "clash",
    [
        {"fetal_pca": ("left",), "absent_pcomm": ("left",)},
        {"hypoplastic_a1": ("left",), "absent_acomm": True},
        {"superior_m2": ("left",), "inferior_m2": ("left",)},
    ],
)
def test_variants_that_leave_a_territory_without_feeder_are_refused(clash):
    with pytest.raises(SettingsError):
        Variants(**clash)


def test_variants_are_drawn_as_often_as_in_people():
    rng = np.random.default_rng(0)
    drawn = [vessels.draw_variants(rng) for _ in range(4000)]
    assert np.mean([len(v.fetal_pca) / 2 for v in drawn]) == pytest.approx(0.07, abs=0.01)
    assert np.mean([bool(v.hypoplastic_a1) for v in drawn]) == pytest.approx(0.05, abs=0.012)
    assert np.mean([v.absent_acomm for v in drawn]) == pytest.approx(0.03, abs=0.01)
    both = np.mean([len(v.absent_pcomm) == 2 for v in drawn])
    assert both == pytest.approx(0.28 * 0.93**2, abs=0.03)
    assert np.mean(["left" in v.inferior_m2 for v in drawn]) == pytest.approx(0.41, abs=0.03)
    assert isinstance(dataclasses.asdict(drawn[0])["fetal_pca"], tuple)


def test_a_seed_gives_the_same_vessels():
    head = anatomy.make_head(np.random.default_rng(4))
    a, b = (vessels.tubes(head.map, rng=np.random.default_rng(7)) for _ in range(2))
    for one, two in zip(a, b, strict=True):
        assert np.array_equal(one.points, two.points)
        assert np.array_equal(one.radius_mm, two.radius_mm)
    back = head.map.to_mni(a[10].points)
    np.testing.assert_allclose(back, a[10].mni, atol=0.1)
