"""The average courses and calibres of the head's arteries and veins, right side, MNI mm.

A row of the tables is: name, segment, territory, parent ("-": none), radii (mm; at equal
steps along the line), pair or one; then its nodes x,y,z, MNI mm, of the right side (x > 0). A
radius of 0 marks a perforator, which only shapes the territories. The first node lies on the
parent.

Waypoints follow textbook anatomy (Rhoton 2002, Neurosurgery 51 Suppl 1:53, the supratentorial
arteries; and 51 Suppl 1:159, the cerebral veins). Between them each course was led along the path
of least parenchyma through the MNI152 template, so that branches lie in fissures, sulci and
cisterns where the average brain still shows them. The neck, petrous and cavernous parts lie below
or outside the template and follow bony landmarks.

Calibres: Rai 2013 (J NeuroIntervent Surg 5:371: diameters of 5.0 mm in the cavernous carotid, 3.6
at its terminus, 3.1 at the start of M1, 2.4 of M2), Krejza 2006 (Stroke 37:1103: 4.7-5.1 mm in the
neck); vertebral (in the skull) and basilar 3.9-2.8 and 3.6-3.1 mm (J NeuroIntervent Surg 2013,
5:597). Distal branches taper to a radius of 0.35 mm, taken as the smallest that CT angiography
shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from strokect.phantom.template import load_template, sample

Float64 = npt.NDArray[np.float64]

_ARTERIES = """
ica ICA stem - 2.5,2.5,2.5,1.8 pair
    26,-16,-116 27,-18,-100 27,-22,-84 26,-24,-70 25.5,-23,-60 25,-22,-53 24,-21,-48.5
    20,-17,-45.5 16,-13,-43.5 14.5,-11,-40 14.5,-9.5,-35 14.5,-5,-32 14,2,-31.5 13.5,7,-29.5
    12.5,8.5,-26 12,7,-23 11.5,5.5,-21 12,4,-18.5
m1 M1 mca ica 1.55,1.35 pair
    12,4,-18.5 16,4,-19.5 21,4.5,-19 26,6.5,-19.5 31,8,-19.5 36,8,-18 39,6,-15.5
m2_superior M2 mca m1 1.2,0.9 pair
    39,6,-15.5 45,2.5,-9 46,5,-4 44,6,0 40.5,4,5 43,-3,12.5
m2_inferior M2 mca m1 1.2,0.9 pair
    39,6,-15.5 42,4,-14 44.5,1,-10 45,-5,-6.5 44,-13,-0.5 39.5,-19,9 39.5,-22,14 41,-26,17
m3_orbitofrontal M3 mca m2_superior 0.7,0.35 pair
    43.8,2.8,-11.2 45,11,-12 46,17.5,-9.5 52.5,25,-11 52,28,-11 47.5,33.5,-10 54.5,35,-9.5
    56,38,-7.5 55,42,-5.5 52,46.5,-2.5 49,53,-2.5 46,58,0 42,60,1.5 38,57,2
m3_prefrontal M3 mca m2_superior 0.8,0.35 pair
    42.5,5.6,1.8 43,9,2 47,14,2.5 52,18,-0.5 55,19,-1 60,20,5 61.5,20.5,15 60,24,21 53,31.5,32
    47,34,39 35,38,48
m3_precentral M3 mca m2_superior 0.8,0.35 pair
    40.5,4,5 43,5.5,3 50,8,7.5 58,11,7 60.5,12,8.5 63,13,14 63,13,19 64,11,25 64,7.5,31
    62.5,6.5,36 57,8,42 51,8,51 43,7,61 37,6,66
m3_central M3 mca m2_superior 0.8,0.35 pair
    43,-3,12.5 50,-1,14.5 65.5,-2,16 67,-2,19 67,-4,31 63,-6,41 55.5,-9.5,52 50,-10.5,57
    47.5,-13.5,61 44.5,-19,65.5 40,-22.5,68.5 36,-20,66
m3_anterior_parietal M3 mca m2_superior 0.8,0.35 pair
    43,-3,12.5 44,-7,7.5 46,-11,7.5 45.5,-13,10 44.5,-13,13.5 48,-13.5,11 53.5,-13.5,12.5
    59.5,-17.5,20 62,-21,26 63.5,-23,35 66,-20.5,42 62.5,-24,49 56,-28,57
m3_parietal M3 mca m2_inferior 0.8,0.35 pair
    41,-26,17 45,-24.5,16 47.5,-25,15 50.5,-29,15 55,-31,16.5 57,-32,19 60,-34,26 64,-34,29
    68.5,-34,30.5 69.5,-36,33 66,-40,44 62,-42.5,49 57,-47.5,54.5 45,-53.5,60.5 38,-56,66.5
    35,-56,66.5 32,-56,64
m3_angular M3 mca m2_inferior 0.8,0.35 pair
    41,-26,17 43,-32,16 60,-48,21 66.5,-52,22.5 63,-61,25.5 55,-73,31 51,-77,32.5 47,-80,32
m3_temporo_occipital M3 mca m2_inferior 0.8,0.35 pair
    41,-26,17 45,-31,14.5 56,-42,12.5 63,-47,5.5 68,-53,3.5 64.5,-62,1 59.5,-63,0 60.5,-68,0
    56,-76,3 54,-77.5,4 51.5,-77,4 53,-79,4 52.5,-82,4 44,-90,4
m3_temporal M3 mca m2_inferior 0.8,0.35 pair
    44,-12.8,-0.7 47,-14.5,0 52,-17.5,-1 61,-20,-7.5 68,-20,-6 70.5,-22,-4.5 72,-28,-5.5
    72,-35,-9.5 71,-40,-11 68.5,-48,-13 65,-52,-14
m3_temporal_middle M3 mca m2_inferior 0.7,0.35 pair
    44.9,-7.8,-4.7 48,-6,-6 59,-7,-9 66,-6,-9.5 70.5,-11.5,-10 71,-14,-14 71,-19.5,-19.5
    71,-27,-20 69.5,-32,-21.5 67.5,-35.5,-23.5 63.5,-38.5,-27 61,-48.5,-26 59.5,-50,-24
    56,-50,-20
m3_temporal_anterior M3 mca m1 0.7,0.35 pair
    31,8,-19.5 36,11,-20 40,12,-19 45,10,-18 56,10,-22.5 59,9.5,-22.5 63,5,-22 61.5,0.5,-22
    65,-0.5,-23.5 66,-8,-29.5 66,-14,-29
lenticulostriate PERFORATOR mca m1 0.0,0.0 pair
    20,5,-14 23,3,-2 26,-3,12 26,-8,22
medullary_frontal PERFORATOR mca m2_superior 0.0,0.0 pair
    28,10,24 30,-14,28
medullary_parietal PERFORATOR mca m2_inferior 0.0,0.0 pair
    32,-24,28 34,-42,24
a1 A1 aca ica 1.1,1.0 pair
    12,4,-18.5 6,6,-19 2,9,-19
acomm ACOM aca a1 0.75,0.75 one
    2,9,-19 -2,9,-19
a2 A2 aca a1 1.0,0.9 pair
    2,9,-19 1.9,13,-17.6 1.4,22,-8.1 1.4,32,-2.7 1.4,37,3 1.4,37.9,7 1.4,36.7,13 1.5,30,21
pericallosal A3 aca a2 0.9,0.45 pair
    1.5,30,21 1.4,18,29.6 1.4,11,32.7 2,6,33 1.4,-9,30.2 1.4,-15.2,32.5 1.4,-17.4,29.4
    1.4,-20,28.2 1.4,-32,28.6 1.5,-42,21
callosomarginal A3 aca a2 0.8,0.35 pair
    1.4,36.7,2.4 1.4,39.8,9 1.4,44.6,16 1.4,44.2,19 1.4,40.4,25 1.4,42.3,32 1.4,41.6,35
    1.7,34,41 1.4,18,49.8 1.8,9.2,51.4 1.8,4,55.2 1.4,0.6,56 1.6,2.6,56.8 2,3.8,59.1 1.4,2.2,70
    1.9,-2,73.6 2,-7,73
orbitofrontal_medial A3 aca a2 0.6,0.35 pair
    1.5,16,-15 1.4,19.1,-18.9 1.4,23,-20.8 1.4,41,-20.2 1.4,46,-21.3 1.4,56,-15
frontopolar A3 aca a2 0.7,0.35 pair
    1.4,30.7,-3.6 1.4,37,-0.4 1.4,50,-1.4 1.4,57,-3.9 1.4,66.9,-2.2 2,69.6,1 3.5,71.4,8
    4.8,71.1,13 9,71,19
frontal_anterior A3 aca callosomarginal 0.6,0.35 pair
    1.4,42.3,31.9 1.4,47,31.6 1.4,54.4,25.3 2,58,25.2 2,61.6,28 2.8,62.9,31.8 6,62.6,34.7
    10,62,36
frontal_middle A3 aca callosomarginal 0.6,0.35 pair
    1.5,25.1,46.8 1.4,33,45.8 1.4,36.2,49 1.4,38.1,54 2.7,37.1,58.7 6.1,32.8,62.3 9,32.2,62.8
    14,33,62
paracentral A3 aca pericallosal 0.6,0.35 pair
    1.4,-15.3,32.5 1.4,-19.1,44.9 1.4,-26.6,51.1 2,-27.4,59 1.6,-25.1,66 1.4,-25.4,74
    1.6,-28.1,77.2 2,-34,78
precuneal A3 aca pericallosal 0.6,0.35 pair
    1.4,-32.1,28.6 1.4,-39,37.2 1.4,-47,38.6 1.4,-49.7,40.3 1.4,-54.4,48 1.4,-55.3,56
    1.4,-57.3,60 1.6,-62,64.1 2,-67,64
heubner PERFORATOR aca a1 0.0,0.0 pair
    7,9,-16 10,14,-4 11,14,6
medullary_medial PERFORATOR aca callosomarginal 0.0,0.0 pair
    13,34,28 12,10,48 12,-10,54
va VA other - 1.8,1.45 pair
    16,-30,-116 16.5,-31,-104 17,-33,-94 18,-36,-86 24,-36,-81 28,-36,-77 28.5,-38,-73
    26,-44,-70 21,-47.5,-69 16,-45,-67.5 12,-40,-64 8,-35,-59 4,-30.5,-54 0,-27,-50
basilar BA stem va 1.8,1.6 one
    0,-27,-50 0,-20,-47 0,-12.5,-37 0,-11.5,-31 0,-15,-20.5
p1 P1 pca basilar 1.05,1.0 pair
    0,-15,-20.5 7,-11.2,-21 9.9,-11.7,-21 12.5,-14,-21
pcomm PCOM pca ica 0.6,0.6 pair
    12,7,-23 9.5,-7,-21 12.5,-14,-21
p2 P2 pca p1 1.0,0.8 pair
    12.5,-14,-21 13,-14.5,-22.3 14.2,-16.1,-22.3 16.8,-20,-19.9 18,-24.6,-15 18.9,-27.4,-9.2
    15.5,-32,-5.8 15.9,-36.5,-5.2 12.1,-35.9,-3.2 9.3,-39,-3 8.4,-42.8,-2.4 10,-45,-1
calcarine P3 pca p2 0.7,0.35 pair
    10,-45,-1 7.7,-47.2,-0.8 1.6,-63.6,3.9 1.4,-70,1.3 2.4,-77,5.2 1.6,-80,5.8 1.4,-93,-0.9
    2.3,-99,-1 5,-104,-1
parieto_occipital P3 pca p2 0.7,0.35 pair
    10,-45,-1 6.5,-47.1,1.2 4.9,-50.4,4.8 7.6,-54,8.7 9.3,-58.6,10.8 10.5,-60.3,14 7.2,-68.9,23
    2.2,-73.7,31 2,-80,39.8 4,-86,43
temporo_occipital P3 pca p2 0.6,0.35 pair
    18.9,-27.2,-9.4 15.4,-29.2,-13 14.2,-32,-15.2 14.2,-35,-15.6 16.2,-38.6,-15.7 35,-51.3,-22.2
    39.6,-56,-23 40.9,-60,-22.9 40.6,-67,-21.2 45.5,-74,-21.8 42,-80,-22
temporal_basal_anterior P3 pca p2 0.5,0.35 pair
    17.6,-23,-17.1 16.5,-25.6,-22 20,-25,-26.8 22,-23.8,-27.9 24.5,-21.5,-27.5 23.9,-21.5,-31
    26.8,-18,-34.5 32.4,-11.4,-33.8 36,-6,-40
temporal_basal PERFORATOR pca temporal_basal_anterior 0.0,0.0 pair
    30,-20,-22 38,-34,-22
splenial PERFORATOR pca parieto_occipital 0.0,0.0 pair
    20,-56,12 24,-72,12 24,-86,10
thalamoperforators PERFORATOR pca p1 0.0,0.0 pair
    4,-15,-16 8,-18,-2 12,-20,10
anterior_choroidal PERFORATOR other ica 0.0,0.0 pair
    14,1,-18 18,-8,-14 22,-16,-10
superior_cerebellar CEREBELLAR other basilar 0.7,0.35 pair
    0,-13.6,-22.8 8,-12.5,-23 11,-13.5,-24 12.5,-16,-24 11.5,-18.5,-24 14.5,-18.5,-22.5
    16.5,-21,-20.5 16.5,-25,-18.5 14.5,-32,-18 13,-37,-14.5 14,-40,-13 19,-48,-15 21,-54,-14
    22.5,-62,-15.5 24,-66,-18
aica CEREBELLAR other basilar 0.5,0.3 pair
    0,-14.1,-40.5 6,-16,-40.5 12,-20.5,-43.5 25,-32.5,-44.5 39.5,-41.5,-51.5 41,-45,-53
    40,-50,-50
pica CEREBELLAR other va 0.65,0.35 pair
    8,-35,-59 10,-41,-62.5 9.5,-45,-64 7.5,-48,-64.5 5,-50.5,-63.5 3,-51.5,-61 3,-51.5,-59
    2,-54,-61.5 2,-58,-62.5 3.5,-63.5,-60 11,-70,-58
cerebellar PERFORATOR other superior_cerebellar 0.0,0.0 pair
    0,-24,-36 20,-50,-45 20,-75,-35
pontine PERFORATOR other basilar 0.0,0.0 pair
    3,-20,-24 4,-22,-36 4,-32,-48
cerebellar_superior PERFORATOR other superior_cerebellar 0.0,0.0 pair
    34,-46,-30 40,-64,-30 26,-80,-26 8,-78,-22
"""

_VEINS = """
internal_cerebral VEIN vein - 0.9,1.2 pair
    2,-2,11 2,-12,14 2,-24,12 1,-34,7
galen VEIN vein - 2.0,2.3 one
    0,-33,7 0,-39,5 0,-44,8
straight STRAIGHT vein - 2.3,2.8 one
    0,-44,8 0,-60,2 0,-78,-6 0,-97,-12
inferior_sagittal VEIN vein - 0.5,1.1 one
    0,22,34 0,4,40 0,-16,42 0,-34,34 0,-44,20 0,-46,9
basal VEIN vein - 0.7,1.0 pair
    13,-1,-17 11.5,-9,-18.5 14,-15,-21.5 16.5,-19,-20.5 19,-21,-17 18,-24,-15 13.5,-31.5,-7
    10.5,-35,-1 7,-34.5,3 2,-33,6
thalamostriate VEIN vein - 0.6,0.8 pair
    16,-20,20 12,-8,17 2,-2,11
septal VEIN vein - 0.4,0.7 pair
    10,30,8 4,24,12 2,10,14 2,-2,11
trolard CORTICAL_VEIN vein - 0.9,1.6 pair
    60,-19,14 67,-19,15.5 70,-20,21 69.5,-21.5,36 67,-23,43 63,-26.5,51 49,-35,64.5 42,-37.5,69
    17,-35,81 11,-35,82 4,-34,81
labbe CORTICAL_VEIN vein - 0.9,1.7 pair
    62,-20,11 67,-20,14.5 70.5,-22,13 72,-26,9 72.5,-38,-3 68.5,-48.5,-14 63,-54,-22 57,-59,-27
sylvian_superficial CORTICAL_VEIN vein - 0.8,1.5 pair
    67,-21,16 69.5,-18,14.5 70,-11,10 64.5,5,0 57,18,-10.5 54,24,-17 50,28.5,-22 41,30,-27.5
    28,27.5,-31 25.5,25,-32 23,21,-30.5 20,20,-32 18,18,-33 15,6,-31
bridging_frontal_anterior CORTICAL_VEIN vein - 0.6,1.1 pair
    40,51,22 40,53,24 38,55,26 25,59,34 12,58.5,41.5 2,53,47
bridging_frontal_middle CORTICAL_VEIN vein - 0.6,1.2 pair
    51,26,38 49.5,28,41 41,30.5,49.5 27,30,59 14,26.5,65.5 8,24,68 2,20,69
bridging_frontal_posterior CORTICAL_VEIN vein - 0.6,1.3 pair
    57,4,46 52,5,53 43,4,62 25,2,73.5 15,-2.5,78 4,-8,78
bridging_central CORTICAL_VEIN vein - 0.6,1.3 pair
    54,-11,54 54,-12,58 48,-17.5,65 44,-20,67 38,-20,72.5 30,-20,76.5 22,-20.5,78.5 11,-24,81.5
    3,-26,80
bridging_parietal CORTICAL_VEIN vein - 0.6,1.2 pair
    51,-60,48 51.5,-62.5,51 48,-64,55 28,-65,68 22,-62.5,71.5 11,-61,73 4,-58,73
bridging_occipital CORTICAL_VEIN vein - 0.5,1.1 pair
    42,-85,24 41.5,-87.5,26.5 38.5,-89,30 24,-89,43.5 15,-88,46 3,-81,53
temporal_vein CORTICAL_VEIN vein - 0.5,1.1 pair
    66,-3,-22 67.5,-5,-23 68,-11,-25.5 67.5,-24,-27 58.5,-54,-29 57,-56,-29
"""

#: Behind the petrous bone to the jugular foramen, then the jugular vein, MNI mm.
_SIGMOID = (
    (55.0, -46.0, -33.0),
    (48.0, -42.0, -42.0),
    (39.0, -41.0, -50.0),
    (31.0, -36.0, -55.0),
    (27.0, -31.0, -59.0),
    (28.0, -29.0, -68.0),
    (33.0, -28.0, -85.0),
    (31.0, -23.0, -116.0),
)


@dataclass(frozen=True)
class Line:
    """One vessel of the table. points_mm : nodes, MNI mm, right side. radius_mm : equal steps.

    territory : "mca", "aca", "pca", "other", "stem" (feeds several) or "vein".
    parent : the line it arises from. paired : a mirrored twin exists.
    """

    name: str
    segment: str
    territory: str
    parent: str | None
    radius_mm: tuple[float, ...]
    paired: bool
    points_mm: tuple[tuple[float, ...], ...]


def _parse(table: str) -> tuple[Line, ...]:
    """Rows of a table: a header line, then indented lines of nodes."""
    lines = []
    for row in table.strip().replace("\n ", " ").splitlines():
        name, segment, territory, parent, radii, count, *nodes = row.split()
        points = tuple(tuple(float(c) for c in node.split(",")) for node in nodes)
        radius = tuple(float(r) for r in radii.split(","))
        above = None if parent == "-" else parent
        lines.append(Line(name, segment, territory, above, radius, count == "pair", points))
    return tuple(lines)


ARTERIES = _parse(_ARTERIES)
VEINS = _parse(_VEINS)


@lru_cache(maxsize=1)
def lines() -> tuple[Line, ...]:
    """All vessels: arteries, veins, dural sinuses; parents before their branches."""
    return (*ARTERIES, *VEINS, *_dural_sinuses())


def _dural_sinuses() -> list[Line]:
    """Superior sagittal and transverse sinuses, laid on the inner table of the MNI hull."""
    template = load_template()

    def on_hull(centre: Float64, direction: Float64, out_mm: float) -> tuple[float, float, float]:
        reach = np.arange(40.0, 130.0, 0.5)
        ray = centre[:, None] + direction[:, None] * reach
        distance = sample(template.channels[3:], template.affine, ray)[0]
        x, y, z = ray[:, int(np.argmax(distance > out_mm))]
        return (float(x), float(y), float(z))

    centre = np.array([0.0, -20.0, 10.0])
    sagittal = tuple(
        on_hull(centre, np.array([0.0, np.cos(a), np.sin(a)]), 0.0)
        for a in np.radians(np.arange(20, 198, 6))
    )
    torcula = (0.0, -100.0, -12.0)
    low = np.array([0.0, -20.0, -18.0])
    transverse = [torcula] + [
        on_hull(low, np.array([np.cos(np.radians(a)), np.sin(np.radians(a)), drop]), 0.0)
        for a, drop in ((-75, -0.03), (-60, -0.05), (-45, -0.07), (-32, -0.1))
    ]
    # The sigmoid sinus turns down and inwards behind the petrous bone to the jugular foramen;
    # the vein goes on behind and outside the carotid.
    sigmoid = (transverse[-1], *_SIGMOID)
    return [
        Line("superior_sagittal", "SSS", "vein", None, (1.4, 4.5), False, (*sagittal, torcula)),
        Line("transverse", "TS", "vein", None, (3.6, 3.2), True, tuple(transverse)),
        Line("sigmoid", "SIGMOID", "vein", "transverse", (3.2, 3.4, 4.2), True, sigmoid),
    ]
