"""The quantities that strokect maps: unit, UCUM code, display range, colour map.

Display ranges follow common practice on CT perfusion workstations; they are for pictures only
and never clip data. UCUM: https://ucum.org (case-sensitive codes).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Quantity:
    """One mapped quantity: ``key`` names files, ``unit`` is for people, ``ucum`` for machines."""

    key: str
    label: str
    long_name: str
    unit: str
    ucum: str
    display_range: tuple[float, float]
    colour_map: str


QUANTITIES: dict[str, Quantity] = {
    q.key: q
    for q in (
        Quantity(
            "cbf", "CBF", "Cerebral blood flow", "ml/100g/min", "mL/(100.g.min)", (0, 80), "turbo"
        ),
        Quantity("cbv", "CBV", "Cerebral blood volume", "ml/100g", "mL/(100.g)", (0, 6), "turbo"),
        Quantity("mtt", "MTT", "Mean transit time", "s", "s", (0, 15), "turbo"),
        Quantity(
            "tmax", "Tmax", "Time to maximum of the residue function", "s", "s", (0, 12), "turbo"
        ),
        Quantity("ttp", "TTP", "Time to peak from arterial arrival", "s", "s", (0, 25), "turbo"),
        Quantity("delay", "Delay", "Arterial-tissue delay", "s", "s", (0, 10), "turbo"),
        Quantity(
            "cbf_sd",
            "CBF SD",
            "Posterior SD of CBF",
            "ml/100g/min",
            "mL/(100.g.min)",
            (0, 20),
            "viridis",
        ),
        Quantity("tmax_sd", "Tmax SD", "Posterior SD of Tmax", "s", "s", (0, 4), "viridis"),
        Quantity(
            "p_hypoperfusion",
            "P(hypoperfusion)",
            "Probability of Tmax above 6 s",
            "probability",
            "1",
            (0, 1),
            "viridis",
        ),
        Quantity(
            "p_core",
            "P(core)",
            "Probability of rCBF below 0.30 and Tmax above 6 s",
            "probability",
            "1",
            (0, 1),
            "viridis",
        ),
        Quantity(
            "mip",
            "MIP",
            "Temporal maximum intensity projection",
            "HU",
            "[hnsf'U]",
            (0, 200),
            "gray",
        ),
    )
}

#: Quantities that say how sure the others are; kept in a folder of their own.
UNCERTAINTIES = ("cbf_sd", "tmax_sd", "p_hypoperfusion", "p_core")
