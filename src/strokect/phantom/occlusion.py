"""An occlusion: where the clot sits, and which vessels and tissue lie beyond it.

Arteries form a graph of centre-line points, joined where branches arise and around the circle of
Willis. What the clot cuts off from the carotid and vertebral arteries is downstream. A thin or
absent segment of the circle feeds nothing beyond itself, so variants decide what an occlusion of
the carotid terminus takes: always the MCA, the ACA or a fetal PCA only where nothing else feeds
them. Leptomeningeal collaterals are no part of this graph.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from strokect.core.errors import SettingsError
from strokect.core.types import BoolArray, FloatArray
from strokect.phantom.template import HeadMap
from strokect.phantom.variants import THIN_MM, Side, Variants
from strokect.phantom.vessels import TERRITORIES, Tube, distance_to

Site = Literal["ICA", "M1", "M2", "ACA", "PCA"]
Float64 = npt.NDArray[np.float64]
#: A stretch of a tube: name, side, first point, end.
Stretch = tuple[str, str, int, int]

#: Clot length, mm: mean, SD, least and greatest. Kamalian 2013 (Stroke 44:3553, thin NCCT): mean
#: 18.5, median 16.1 mm over carotid terminus, M1 and M2, falling in that order. ACA and PCA:
#: assumed, like M2 by calibre.
CLOT_LENGTH_MM: dict[Site, tuple[float, float, float, float]] = {
    "ICA": (16.5, 4.5, 8.0, 25.0),
    "M1": (13.0, 4.5, 5.0, 22.0),
    "M2": (8.0, 2.5, 4.0, 12.0),
    "ACA": (6.0, 2.0, 3.0, 9.0),
    "PCA": (6.0, 2.0, 3.0, 9.0),
}
#: Ends that close the circle of Willis: the last point of the first lies on the second.
_CLOSING = {"acomm": "a1", "pcomm": "p1"}
_SOURCES = ("ica", "va")


@dataclass(frozen=True, eq=False)
class Occlusion:
    """A clot and what lies beyond it.

    clot : the blocked piece of vessel; from carotid into M1 it bears the name of the carotid.
    permeability : share of contrast that enters it, 0 to 1. division : of an M2 clot, the name of
    the tube. downstream : (name, side) of the tubes, perforators included, that the clot cuts off,
    and of the tube it lies in. groups : drawn tubes and pieces: "artery" fills as usual (the stump
    before the clot too), "clot", "collateral" beyond it fills late, "vein".
    """

    site: Site
    side: Side
    clot: Tube
    length_mm: float
    volume_ml: float
    permeability: float
    downstream: frozenset[tuple[str, str]]
    groups: dict[str, list[Tube]]
    division: str | None = None


def occlude(
    rng: np.random.Generator, all_tubes: list[Tube], variants: Variants, site: Site, side: Side
) -> Occlusion:
    """Draw a clot at a site and find what it cuts off.

    Permeability after the void fraction of Santos 2016 (Stroke 47:732): 42 % of clots above 0.065.
    Raises SettingsError for an unknown site or side.
    """
    if site not in get_args(Site) or side not in get_args(Side):
        raise SettingsError(f"occlusion of {site!r}, {side!r}", fix=f"Use one of {get_args(Site)}")
    length = _length(rng, site)
    permeability = float(np.clip(rng.gamma(1.2, 0.06), 0.0, 0.6))
    by_key = {(t.name, t.side): t for t in all_tubes}
    stretches = _place(rng, by_key, variants, site, side, length)
    clot = _joined([_piece(by_key[n, s], a, b) for n, s, a, b in stretches])
    fed = _fed(all_tubes, stretches)
    blocked = {(n, s) for n, s, *_ in stretches}
    downstream = {key for key, points in fed.items() if points.mean() < 0.5}
    downstream |= {k for k in blocked if by_key[k].territory in TERRITORIES}
    groups = unoccluded(all_tubes)
    groups.update(artery=[], clot=[clot], collateral=[])
    for tube in _arteries(all_tubes, drawn=True):
        inside = np.zeros(tube.points.shape[1], bool)
        for name, where, low, high in stretches:
            if (name, where) == (tube.name, tube.side):
                inside[low:high] = True
        for kind, low, high in _runs(fed[tube.name, tube.side], inside):
            groups[kind].append(_piece(tube, low, high))
    step = np.linalg.norm(np.diff(clot.points, axis=1), axis=0)
    area = np.pi * ((clot.radius_mm[1:] + clot.radius_mm[:-1]) / 2) ** 2
    return Occlusion(
        site=site,
        side=side,
        clot=clot,
        length_mm=float(step.sum()),
        volume_ml=float((step * area).sum() / 1000.0),
        permeability=permeability,
        downstream=frozenset(downstream),
        groups=groups,
        division=stretches[0][0] if site == "M2" else None,
    )


def unoccluded(all_tubes: list[Tube]) -> dict[str, list[Tube]]:
    """Groups as in ``Occlusion`` without a clot: every drawn artery fills as usual."""
    veins = [t for t in all_tubes if t.territory == "vein"]
    return {"artery": _arteries(all_tubes, drawn=True), "clot": [], "collateral": [], "vein": veins}


def margin(
    all_tubes: list[Tube],
    downstream: frozenset[tuple[str, str]],
    points: FloatArray,
    head_map: HeadMap,
) -> Float64:
    """How far head points (3, N) lie inside the tissue fed by ``downstream``, mm; float64 (N,).

    Tissue belongs to the nearest artery of its own hemisphere, so half the difference of two
    distances is the distance from the border; negative outside. The midline is that of the head
    (MNI x = 0); a territory crosses it only where its twin is cut off too.
    """
    arteries = [t for t in all_tubes if t.territory in TERRITORIES]
    lost = [t for t in arteries if (t.name, t.side) in downstream]
    x = np.asarray(head_map.to_mni(np.asarray(points, float))[0], float)
    raw: dict[str, Float64] = {}
    for side in ("right", "left"):
        own = [t for t in lost if t.side in (side, "both")]
        rest = [
            t for t in arteries if t.side in (side, "both") and (t.name, t.side) not in downstream
        ]
        raw[side] = np.full(x.size, -np.inf)
        if own:
            raw[side] = (distance_to(rest, points) - distance_to(own, points)) / 2
    here = np.where(x > 0, raw["right"], raw["left"])
    over = np.where(x > 0, raw["left"], raw["right"])
    across = np.minimum(here, np.maximum(np.abs(x), over))
    return np.maximum(across, np.minimum(over, -np.abs(x)))


def _arteries(all_tubes: list[Tube], drawn: bool = False) -> list[Tube]:
    """Arteries of a head; only those with a lumen where ``drawn``."""
    return [t for t in all_tubes if t.territory != "vein" and (not drawn or t.radius_mm.max() > 0)]


def _length(rng: np.random.Generator, site: Site) -> float:
    mean, sd, least, most = CLOT_LENGTH_MM[site]
    while True:
        length = float(rng.normal(mean, sd))
        if least <= length <= most:
            return length


def _place(
    rng: np.random.Generator,
    by_key: dict[tuple[str, str], Tube],
    variants: Variants,
    site: Site,
    side: Side,
    length: float,
) -> list[Stretch]:
    """Stretches of the tubes that the clot fills, in the direction of flow."""
    if site == "ICA":  # the terminus, reaching into M1 ("carotid L")
        ahead = min(float(rng.uniform(0.2, 0.5)) * length, 0.6 * by_key["m1", side].length_mm)
        return [_last(by_key["ica", side], length - ahead), _first(by_key["m1", side], 0, ahead)]
    if site == "M1":
        tube = by_key["m1", side]
        length = min(length, 0.92 * tube.length_mm)
        return [_first(tube, float(rng.uniform(0, tube.length_mm - length)), length)]
    if site == "M2":
        tube = by_key["m2_superior" if rng.random() < 0.5 else "m2_inferior", side]
        return [_first(tube, float(rng.uniform(0, 0.35 * tube.length_mm)), length)]
    if site == "ACA":
        tube = by_key["a2", side]
        return [_first(tube, float(rng.uniform(0, tube.length_mm - length)), length)]
    before = float(rng.uniform(0.2, 0.6)) * length  # the P1/P2 junction
    feeder = by_key["pcomm" if side in variants.fetal_pca else "p1", side]
    return [_last(feeder, before), _first(by_key["p2", side], 0, length - before)]


def _along(tube: Tube) -> Float64:
    steps = np.linalg.norm(np.diff(tube.points, axis=1), axis=0)
    return np.concatenate([[0.0], np.cumsum(steps)])


def _first(tube: Tube, start_mm: float, length_mm: float) -> Stretch:
    along = _along(tube)
    low = int(np.searchsorted(along, start_mm))
    return tube.name, tube.side, low, int(np.searchsorted(along, start_mm + length_mm)) + 1


def _last(tube: Tube, length_mm: float) -> Stretch:
    along = _along(tube)
    return tube.name, tube.side, int(np.searchsorted(along, along[-1] - length_mm)), along.size


def _piece(tube: Tube, low: int, high: int) -> Tube:
    """Points [low, high) of a tube, and the next one, so that neighbours share an end."""
    size = tube.points.shape[1]
    if low == 0 and high >= size:
        return tube
    cut = (tube.cut[0] or low > 0, tube.cut[1] or high < size)
    low, high = max(min(low, size - 2), 0), min(high + 1, size)
    return replace(
        tube,
        points=tube.points[:, low:high],
        mni=tube.mni[:, low:high],
        radius_mm=tube.radius_mm[low:high],
        cut=cut,
    )


def _joined(pieces: list[Tube]) -> Tube:
    """Consecutive pieces as one tube, named after the first."""
    return replace(
        pieces[0],
        points=np.concatenate([p.points for p in pieces], axis=1),
        mni=np.concatenate([p.mni for p in pieces], axis=1),
        radius_mm=np.concatenate([p.radius_mm for p in pieces]),
        cut=(pieces[0].cut[0], pieces[-1].cut[1]),
    )


def _runs(fed: BoolArray, clot: BoolArray) -> list[tuple[str, int, int]]:
    """Stretches of a tube outside the clot by what feeds them: kind, first point, end."""
    kind = np.where(clot, 2, np.where(fed, 0, 1))
    edges = np.flatnonzero(np.diff(kind)) + 1
    runs = zip([0, *edges], [*edges, kind.size], strict=True)
    # A last point alone is no piece: the one before it ends there.
    return [
        ("artery" if kind[a] == 0 else "collateral", a, b)
        for a, b in runs
        if kind[a] != 2 and (a < kind.size - 1)
    ]


def _fed(all_tubes: list[Tube], clot: list[Stretch]) -> dict[tuple[str, str], BoolArray]:
    """Which points of each artery still fill: those that thick vessels reach, or did not before.

    A point that only a thin segment reached before (say, the thin segment itself) may go on so.
    """
    arteries = _arteries(all_tubes)
    first = np.cumsum([0, *(t.points.shape[1] for t in arteries)])
    edges = _edges(arteries, first)
    sources = [first[k] for k, t in enumerate(arteries) if t.name in _SOURCES]
    thin, blocked = np.zeros(first[-1], bool), np.zeros(first[-1], bool)
    for k, tube in enumerate(arteries):
        # A thin segment of the circle, by its rule in ``variants`` (calibres vary by 8 %).
        if tube.name in ("a1", "p1") and tube.radius_mm.max() < 1.4 * THIN_MM:
            thin[first[k] + 1 : first[k + 1] - 1] = True
        for name, side, low, high in clot:
            if (name, side) == (tube.name, tube.side):
                blocked[first[k] + low : first[k] + high] = True
    nothing = np.zeros_like(thin)
    wide_before = _reached(edges, sources, thin)
    wide_after = _reached(edges, sources, thin | blocked)
    any_before = _reached(edges, sources, nothing)
    any_after = _reached(edges, sources, blocked)
    fed = np.where(wide_before, wide_after, any_after | ~any_before)
    return {(t.name, t.side): fed[first[k] : first[k + 1]] for k, t in enumerate(arteries)}


def _edges(arteries: list[Tube], first: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Pairs (2, E) of joined points: along each tube, and where it meets others."""
    pairs = []
    for k, tube in enumerate(arteries):
        n = tube.points.shape[1]
        chain = first[k] + np.arange(n)
        pairs.append(np.stack([chain[:-1], chain[1:]]))
        ends = [(0, tube.parent)]
        if tube.name in _CLOSING:
            ends.append((n - 1, _CLOSING[tube.name]))
        for end, onto in ends:
            near = tube.points[:, end]
            for j, other in enumerate(arteries):
                sides = {tube.side, other.side}
                if other.name != onto or (len(sides) == 2 and "both" not in sides):
                    continue
                gap, at = cKDTree(other.points.T).query(near)
                # A midline vessel has a parent on each side and meets the near one.
                if tube.name != "acomm" or gap < 1.5:
                    pairs.append(np.array([[first[k] + end], [first[j] + int(at)]]))
    return np.concatenate(pairs, axis=1)


def _reached(edges: npt.NDArray[np.intp], sources: list[int], removed: BoolArray) -> BoolArray:
    """Which points (N,) are joined to a source when some points are removed."""
    kept = edges[:, ~(removed[edges[0]] | removed[edges[1]])]
    size = removed.size
    graph = coo_array((np.ones(kept.shape[1]), (kept[0], kept[1])), shape=(size, size))
    labels = connected_components(graph, directed=False)[1]
    return np.isin(labels, labels[sources]) & ~removed
