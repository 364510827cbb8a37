"""What a clot blocks: graph, territories and groups."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from strokect.core.errors import SettingsError
from strokect.phantom import anatomy, occlusion, vessels
from strokect.phantom.template import load_template
from strokect.phantom.vessels import Variants


class Mni:
    """A head that is the template itself."""

    def to_mni(self, points):
        return np.asarray(points, float)

    from_mni = to_mni


MNI = Mni()


@lru_cache
def average(variants: Variants = Variants()):
    return vessels.tubes(MNI, variants)


def occlude(site, variants=Variants(), side="right", seed=0):
    rng = np.random.default_rng(seed)
    return occlusion.occlude(rng, average(variants), variants, site, side)


def names(found, side="right"):
    return {n for n, s in found.downstream if s == side}


@lru_cache
def tissue():
    """Every 61st voxel of the template's brain: points (3, N) and ml."""
    template = load_template()
    share = template.channels[0] + template.channels[1]
    index = np.argwhere(share > 0.3)[::61]
    ml = 61 * share[tuple(index.T)] / 1000
    return template.affine[:3, :3] @ index[:, ::-1].T + template.affine[:3, 3:], ml


def territory_ml(downstream, tubes):
    points, ml = tissue()
    return ml[occlusion.margin(tubes, downstream, points, MNI) > 0].sum()


@pytest.mark.parametrize("site", ["ICA", "M1", "M2", "ACA", "PCA"])
def test_clots_have_the_drawn_length_and_volume(site):
    _, _, least, most = occlusion.CLOT_LENGTH_MM[site]
    lengths, permeability = [], []
    for seed in range(30):
        found = occlude(site, seed=seed, side="left" if seed % 2 else "right")
        steps = np.linalg.norm(np.diff(found.clot.points, axis=1), axis=0)
        assert steps.max() < 1.0  # in one piece
        assert found.length_mm == pytest.approx(steps.sum())
        assert least - 0.5 <= found.length_mm <= most + 1.5
        mean = np.pi * np.mean(found.clot.radius_mm**2) * found.length_mm / 1000
        assert found.volume_ml == pytest.approx(mean, rel=0.05)
        lengths.append(found.length_mm)
        permeability.append(found.permeability)
    assert np.std(lengths) > 0.8
    assert min(permeability) >= 0 and max(permeability) <= 0.6
    assert 0.2 < np.mean(np.array(permeability) > 0.065) < 0.65  # 42 % in Santos 2016


def test_pieces_make_up_the_whole(seed=2):
    """Stump, clot and what lies beyond add up to the vessel, without gap or overlap."""
    found = occlude("M1", seed=seed)
    total = sum(t.length_mm for t in occlusion.unoccluded(average())["artery"])
    parts = [t for kind in ("artery", "clot", "collateral") for t in found.groups[kind]]
    assert sum(t.length_mm for t in parts) == pytest.approx(total, abs=0.5)
    assert found.clot.cut == (True, True)
    beyond = next(t for t in found.groups["collateral"] if t.name == "m1")
    np.testing.assert_allclose(beyond.points[:, 0], found.clot.points[:, -1])
    assert all(t.territory == "vein" for t in found.groups["vein"])


def test_m1_takes_the_mca_and_nothing_else():
    for seed in range(6):
        lost = names(occlude("M1", seed=seed))
        assert {"m1", "m2_superior", "m2_inferior", "m3_central", "m3_angular"} <= lost
        assert not lost & {"a1", "a2", "p2", "ica", "anterior_choroidal"}
        assert not names(occlude("M1", seed=seed), "left")


def test_lenticulostriates_are_spared_by_a_distal_clot():
    spared = {
        "lenticulostriate" not in names(found)
        for found in (occlude("M1", seed=s) for s in range(30))
    }
    assert spared == {True, False}


def test_m2_takes_one_division():
    drawn = {occlude("M2", seed=s).division: names(occlude("M2", seed=s)) for s in range(12)}
    assert set(drawn) == {"m2_superior", "m2_inferior"}
    assert "m3_central" in drawn["m2_superior"] and "m3_central" not in drawn["m2_inferior"]
    assert "m3_angular" in drawn["m2_inferior"] and "m1" not in drawn["m2_inferior"]


def test_the_carotid_terminus_takes_what_the_circle_cannot_feed():
    assert "a2" not in names(occlude("ICA"))  # fed through A1 and ACOM of the other side
    assert "p2" not in names(occlude("ICA"))
    no_acomm = occlude("ICA", Variants(absent_acomm=True))
    assert {"a1", "a2", "pericallosal"} <= names(no_acomm)
    assert not names(no_acomm, "left")
    # The other side's thin A1 cannot feed both ACA: both are lost.
    thin = occlude("ICA", Variants(hypoplastic_a1=("left",)))
    assert "a2" in names(thin) and "a2" in names(thin, "left")
    # This side's thin A1 was never needed.
    own = occlude("ICA", Variants(hypoplastic_a1=("right",)))
    assert "a2" not in names(own)
    fetal = Variants(fetal_pca=("right",))
    found = [occlude("ICA", fetal, seed=s) for s in range(25)]
    lost = ["p2" in names(f) for f in found]
    for one, is_lost in zip(found, lost, strict=True):
        origin = next(t for t in average(fetal) if t.name == "pcomm" and t.side == "right")
        gap = np.linalg.norm(one.clot.points - origin.points[:, :1], axis=0).min()
        assert is_lost == (gap < 0.5)
    assert any(lost)


@pytest.mark.parametrize("fetal", [(), ("right",)])
def test_pca_and_aca(fetal):
    variants = Variants(fetal_pca=fetal)
    pca = names(occlude("PCA", variants))
    assert {"p2", "calcarine", "parieto_occipital"} <= pca
    assert not pca & {"m1", "a2", "thalamoperforators"}
    for seed in range(5):
        aca = names(occlude("ACA", variants, seed=seed))
        assert {"a2", "pericallosal"} <= aca and not aca & {"a1", "heubner", "m1"}


def test_territory_volumes():
    """ml of the template, whose brain is a sixth larger than an adult's (0.95 per axis)."""
    tubes = average()
    whole = {
        t: frozenset((v.name, v.side) for v in tubes if v.territory == t and v.side == "right")
        for t in ("mca", "aca", "pca")
    }
    adult = 0.95**3
    assert 230 < adult * territory_ml(whole["mca"], tubes) < 350
    assert 90 < adult * territory_ml(whole["aca"], tubes) < 175
    assert 80 < adult * territory_ml(whole["pca"], tubes) < 150
    for seed in range(3):
        assert 60 < adult * territory_ml(occlude("M2", seed=seed).downstream, tubes) < 200


def test_no_territory_crosses_the_midline():
    points, _ = tissue()
    for site in ("ICA", "M1", "ACA", "PCA"):
        found = occlude(site)
        inside = occlusion.margin(average(), found.downstream, points, MNI) > 0
        assert inside.any() and points[0, inside].min() > 0
    both = occlude("ICA", Variants(hypoplastic_a1=("left",)))
    middle = np.array([[0.1, -0.1], [30.0, 30.0], [40.0, 40.0]])
    depth = occlusion.margin(
        average(Variants(hypoplastic_a1=("left",))), both.downstream, middle, MNI
    )
    assert (depth > 3).all()  # no seam between two lost territories


@pytest.fixture(scope="module", params=["template", "drawn head"])
def territory(request):
    """A map of the head and its vessels: the template's own, and one drawn."""
    if request.param == "template":
        return MNI, average()
    drawn = anatomy.make_head(np.random.default_rng(4)).map
    return drawn, vessels.tubes(drawn)


@pytest.mark.parametrize(
    ("mni", "inside"),
    [
        ((40, 0, 0), True),  # insula
        ((25, 0, 2), True),  # lentiform nucleus
        ((55, -5, 20), True),  # operculum
        ((50, -50, 25), True),  # angular region
        ((5, 40, 20), False),  # medial frontal: ACA
        ((5, -20, 55), False),  # paracentral: ACA
        ((10, -80, 5), False),  # calcarine: PCA
        ((10, -20, 8), False),  # thalamus: PCA
        ((30, -60, -40), False),  # cerebellum
        ((-40, 0, 0), False),  # other side
    ],
)
def test_the_mca_territory_of_known_places(territory, mni, inside):
    head, tubes = territory
    mca = frozenset((t.name, t.side) for t in tubes if t.territory == "mca" and t.side == "right")
    point = head.from_mni(np.array(mni, float)[:, None])
    found = occlusion.margin(tubes, mca, point, head)
    assert found.dtype == np.float64 and (found[0] > 0) == inside


def test_an_unknown_site_is_refused():
    with pytest.raises(SettingsError):
        occlude("M4")
