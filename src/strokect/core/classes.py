"""The house labels of tissue, and the 4-, 3- and 2-class problems made of them.

========== ===== ========== ========= ========= =========
tissue     label grey level 4 classes 3 classes 2 classes
========== ===== ========== ========= ========= =========
background 0     0          0         0         0
brain      1     85         1         0         0
penumbra   2     170        2         1         0
core       3     255        3         2         1
========== ===== ========== ========= ========= =========

The grey levels are those of ground-truth images in slice folders (``io.datasets_slices``).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from strokect.core.errors import InputError, SettingsError

BACKGROUND, BRAIN, PENUMBRA, CORE = range(4)
#: House labels by name.
LABELS = {"background": BACKGROUND, "brain": BRAIN, "penumbra": PENUMBRA, "core": CORE}
#: Grey level of each house label in a ground-truth image.
GREY_LEVELS = (0, 85, 170, 255)
#: Names of the classes of each problem, in the order of their numbers.
CLASS_NAMES: dict[int, tuple[str, ...]] = {
    4: ("background", "brain", "penumbra", "core"),
    3: ("rest", "penumbra", "core"),
    2: ("rest", "core"),
}
#: Class of each house label, and house label of each class; "rest" becomes background.
_TO: dict[int, tuple[int, ...]] = {4: (0, 1, 2, 3), 3: (0, 0, 1, 2), 2: (0, 0, 0, 1)}
_FROM: dict[int, tuple[int, ...]] = {
    4: (0, 1, 2, 3),
    3: (BACKGROUND, PENUMBRA, CORE),
    2: (BACKGROUND, CORE),
}


def to_classes(labels: npt.NDArray[np.uint8], classes: int) -> npt.NDArray[np.uint8]:
    """Class numbers of the ``classes``-class problem.

    labels : house labels 0 to 3, any shape. classes : 4, 3 or 2.
    Returns uint8 of the same shape. Raises SettingsError for another number of classes,
    InputError for another label.
    Example: ``to_classes([0, 1, 2, 3], 3)`` is ``[0, 0, 1, 2]``.
    """
    return _looked_up(labels, _table(_TO, classes), "house label")


def from_classes(numbers: npt.NDArray[np.uint8], classes: int) -> npt.NDArray[np.uint8]:
    """House labels of class numbers, so that penumbra is 2 and core is 3 for any ``classes``.

    The inverse of ``to_classes`` but for what that merged: "rest" becomes background, so brain
    is known with 4 classes only and penumbra not with 2.
    Raises SettingsError for another number of classes, InputError for a number outside them.
    """
    return _looked_up(numbers, _table(_FROM, classes), "class number")


def _table(tables: dict[int, tuple[int, ...]], classes: int) -> npt.NDArray[np.uint8]:
    if classes not in tables:
        raise SettingsError(f"{classes} classes", fix="Choose 4, 3 or 2 classes")
    return np.array(tables[classes], np.uint8)


def _looked_up(
    values: npt.NDArray[np.uint8], table: npt.NDArray[np.uint8], what: str
) -> npt.NDArray[np.uint8]:
    values = np.asarray(values)
    if values.dtype.kind not in "ui":
        raise InputError(f"{what}s of type {values.dtype}", fix="Give whole numbers")
    outside = (values < 0) | (values >= len(table))
    if outside.any():
        raise InputError(
            f"{what} {values[outside].flat[0]} outside 0 to {len(table) - 1}",
            fix="Correct the labels or the number of classes",
        )
    return np.asarray(table[values], np.uint8)
