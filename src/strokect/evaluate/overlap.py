"""How far two masks agree."""

from __future__ import annotations

import numpy as np

from strokect.core.errors import GeometryError
from strokect.core.types import BoolArray


def dice(a: BoolArray, b: BoolArray) -> float:
    """Dice coefficient, 2 |a and b| / (|a| + |b|) [1]_.

    a, b : masks of one shape; non-zero is inside. Two empty masks agree: 1.0.
    Raises GeometryError where the shapes differ.

    .. [1] Dice LR, Ecology 1945;26:297-302.
    """
    first, second = np.asarray(a) != 0, np.asarray(b) != 0
    if first.shape != second.shape:
        raise GeometryError(
            f"masks of shapes {first.shape} and {second.shape} cannot be compared",
            fix="Resample one onto the other",
        )
    both = np.count_nonzero(first) + np.count_nonzero(second)
    return 2.0 * np.count_nonzero(first & second) / both if both else 1.0
