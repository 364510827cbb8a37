"""Who the patient is: group, occlusion site and side, age, sex, onset, collaterals, NIHSS.

Age and sex are near those of the MR CLEAN Registry (Jansen 2018, BMJ 360:k949; median 71 years,
47 % women, from memory), collateral grades near those of MR CLEAN and its registry (7, 32, 39 and
23 % for 0 to 3 in 1,988 patients, repub.eur.nl/pub/128717). Sites and onset are assumed. The score
rises with the volume of ischaemic tissue and is higher for the same volume on the left, where
language lies (Woo 1999, Stroke 30:2355); its slopes are assumed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from strokect.core.errors import SettingsError
from strokect.phantom.occlusion import Site
from strokect.phantom.vessels import Side

Group = Literal["LVO", "non-LVO", "WIS"]
#: Large vessel occlusion, occlusion of a smaller vessel, without ischaemic stroke.
GROUPS: tuple[Group, ...] = get_args(Group)
DEFAULT_GROUPS: dict[Group, float] = {"LVO": 0.5, "non-LVO": 0.35, "WIS": 0.15}
_SITES: dict[Group, dict[Site, float]] = {
    "LVO": {"M1": 0.68, "ICA": 0.32},
    "non-LVO": {"M2": 0.6, "PCA": 0.22, "ACA": 0.18},
    "WIS": {},
}
#: Shares of the collateral grades 0 to 3.
COLLATERALS = (0.06, 0.27, 0.40, 0.27)
SPLITS = ("train", "val", "test")
#: Shares of the splits.
_SPLIT_SHARES = (0.6, 0.2, 0.2)


@dataclass(frozen=True)
class Case:
    """A patient before any image. site, side, onset_h and collateral are None for WIS."""

    group: Group
    age: float
    sex: Literal["F", "M"]
    site: Site | None = None
    side: Side | None = None
    onset_h: float | None = None
    collateral: int | None = None


def parse_groups(text: str) -> dict[Group, float]:
    """Proportions from "LVO:0.5,non-LVO:0.3,WIS:0.2" or a bare name; they are scaled to 1.

    Raises SettingsError for another name, or numbers that are no proportions.
    """
    shares: dict[Group, float] = {}
    for part in text.split(","):
        name, _, number = part.partition(":")
        known = {g.lower(): g for g in GROUPS}.get(name.strip().lower())
        if known is None:
            raise SettingsError(
                f"no group is called {name.strip()!r}", "--groups", f"Use {', '.join(GROUPS)}"
            )
        if number and not re.fullmatch(r"\s*\d*\.?\d+\s*", number):
            raise SettingsError(
                f"{number.strip()!r} is no proportion", "--groups", 'Write e.g. "LVO:0.5,WIS:0.5"'
            )
        shares[known] = shares.get(known, 0.0) + (float(number) if number else 1.0)
    total = sum(shares.values())
    if total <= 0:
        raise SettingsError("all proportions are 0", "--groups", "Give one above 0")
    return {g: shares[g] / total for g in GROUPS if shares.get(g, 0) > 0}


def group_of(number: int, groups: dict[Group, float]) -> Group:
    """Group of the patient ``number`` (from 1) of a cohort.

    The sequence keeps every count as near to its proportion as whole patients allow, and does
    not depend on how many patients there will be: a cohort can grow.
    """
    return _sequence(number, groups)[-1]


def _sequence(n: int, groups: dict[Group, float]) -> list[Group]:
    """Groups of the patients 1 to ``n``."""
    counts = dict.fromkeys(groups, 0)
    chosen: list[Group] = []
    for k in range(1, n + 1):
        chosen.append(max(groups, key=lambda g: groups[g] * k - counts[g]))
        counts[chosen[-1]] += 1
    return chosen


def split_of(number: int, group: Group, groups: dict[Group, float], seed: int) -> str:
    """Split of the patient ``number``: by patient, 0.6 / 0.2 / 0.2 within each group.

    Of every five patients of a group, three train, one validates and one tests, in an order that
    the seed draws anew for each five. A growing cohort never moves a patient.
    """
    earlier = _sequence(number - 1, groups).count(group)
    block, place = divmod(earlier, 5)
    names = np.repeat(SPLITS, [round(5 * s) for s in _SPLIT_SHARES])
    stream = np.random.SeedSequence([seed, GROUPS.index(group), block, 77])
    return str(np.random.default_rng(stream).permutation(names)[place])


def draw_case(rng: np.random.Generator, group: Group) -> Case:
    """Draw a patient of a group."""
    age = float(np.clip(rng.normal(70, 13), 25, 96))
    sex: Literal["F", "M"] = "F" if rng.random() < 0.47 else "M"
    side: Side = "left" if rng.random() < 0.5 else "right"
    pick, onset = rng.random(), float(np.clip(np.exp(rng.normal(np.log(3.2), 0.6)), 0.6, 24))
    collateral = int(rng.choice(4, p=COLLATERALS))
    if group == "WIS":
        return Case(group, round(age, 1), sex)
    sites = _SITES[group]
    edge = np.cumsum(list(sites.values()))
    site = list(sites)[min(int(np.searchsorted(edge, pick)), len(sites) - 1)]
    return Case(group, round(age, 1), sex, site, side, round(onset, 2), collateral)


def draw_nihss(
    rng: np.random.Generator, case: Case, hypoperfusion_ml: float, core_ml: float
) -> int:
    """NIHSS, 0-42, from the volumes of the whole brain; mimics score low."""
    noise = float(rng.normal(0, 3.0))
    if case.group == "WIS":
        return int(np.clip(round(1.5 + 0.8 * noise), 0, 8))
    expected = 2.0 + 0.060 * hypoperfusion_ml + 0.035 * core_ml + 3.0 * (case.side == "left")
    return int(np.clip(round(expected + noise), 0, 38))
