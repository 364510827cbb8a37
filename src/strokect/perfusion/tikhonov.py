"""Deconvolution by ridge regression, with the weight of the penalty chosen per voxel.

In the singular vectors of the block-circulant matrix the ridge is a factor per singular value,
s^2 / (s^2 + w^2). The misfit and the size of the solution for every weight of a grid are then one
matrix product with the squared projections of the curves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from strokect.core.types import FloatArray
from strokect.perfusion.deconvolution import (
    CirculantSVD,
    ResidueFit,
    measured,
    project,
    rows_needed,
)


@dataclass(frozen=True)
class TikhonovOptions:
    """Choice of the weight of the penalty.

    choice : generalised cross-validation or the corner of the L-curve. weights, n_weights : range
    (as shares of the largest singular value) and number of weights, geometric; below 0.07 the
    residue of a quiet scan rings, so that flow depends on the delay (over 3 %).
    earliest_s : residues may peak this much before the arterial curve.
    """

    choice: Literal["gcv", "l-curve"] = "gcv"
    weights: tuple[float, float] = (0.072, 1.0)
    n_weights: int = 24
    earliest_s: float = 5.0


def tikhonov(
    curves: FloatArray, aif: FloatArray, interval_s: float, options: TikhonovOptions
) -> ResidueFit:
    """Delay-insensitive deconvolution by block-circulant ridge regression [1]_ [2]_.

    curves : (T, V) float32, HU above baseline. aif : (T,), same unit.
    interval_s : sampling interval, s; uniform. Raises CurveError where the AIF is empty.

    .. [1] Calamante F et al., Magn Reson Med 2003;50:1237-1247 (L-curve).
    .. [2] Sourbron S et al., Phys Med Biol 2004;49:3307-3324 (GCV).
    """
    svd = CirculantSVD.of(aif, interval_s)
    weights = penalty_weights(svd, options)
    inverses = ridge_factors(svd, weights) / svd.values  # (N, 2T)
    tables = _norm_tables(svd, weights)
    choose = gcv_choice if options.choice == "gcv" else l_curve_choice
    synthesis = svd.right[rows_needed(len(aif), interval_s, options)].T
    loss = (1 - ridge_factors(svd, weights)).sum(axis=1)  # degrees of freedom left to noise

    def solve(block: FloatArray) -> FloatArray:
        coefficients = project(block, svd.left)
        misfit, size = np.split(project(np.square(coefficients).T, tables), 2, axis=1)
        chosen = choose(misfit, size, loss)
        return project((coefficients * inverses[chosen]).astype(np.float32).T, synthesis)

    inverses = inverses.astype(np.float32)
    return measured(solve, curves, aif, interval_s, options)


def penalty_weights(svd: CirculantSVD, options: TikhonovOptions) -> FloatArray:
    """The grid (N,) of weights, in the unit of the singular values, rising."""
    return np.geomspace(*options.weights, options.n_weights) * svd.values[0]


def ridge_factors(svd: CirculantSVD, weights: FloatArray) -> FloatArray:
    """s^2 / (s^2 + w^2): (N, 2T) for weights (N,)."""
    power = np.square(svd.values)
    return power / (power + np.square(weights)[:, None])


def gcv_choice(misfit: FloatArray, size: FloatArray, loss: FloatArray) -> npt.NDArray[np.intp]:
    """Index (B,) of the weight with the least generalised cross-validation score.

    misfit, size : (B, N), squared norms of what is left of the curve and of the solution, for
    each weight. loss : (N,), trace of what the weight takes away.
    """
    return np.argmin(misfit / np.square(loss).astype(np.float32), axis=1)


def l_curve_choice(misfit: FloatArray, size: FloatArray, loss: FloatArray) -> npt.NDArray[np.intp]:
    """Index (B,) of the weight at the corner, where log size bends most against log misfit.

    Arguments as in ``gcv_choice``.
    """
    x, y = (np.log(np.maximum(norm, 1e-30)) for norm in (misfit, size))
    dx, dy = np.gradient(x, axis=1), np.gradient(y, axis=1)
    bend = dx * np.gradient(dy, axis=1) - dy * np.gradient(dx, axis=1)
    curvature = bend / np.maximum(np.hypot(dx, dy), 1e-12) ** 3
    return 2 + np.argmax(curvature[:, 2:-2], axis=1)


def _norm_tables(svd: CirculantSVD, weights: FloatArray) -> FloatArray:
    """(2T, 2N): squared projections of a curve times this are its squared misfit and size."""
    kept = ridge_factors(svd, weights)
    return np.concatenate([np.square(1 - kept), np.square(kept / svd.values)]).T
