"""Tile phantom after Kudo 2013 (Radiology 267:201): known blood volume, transit time and delay.

Voxels run over every combination of delay, MTT, CBV and residue shape, several with noise of their
own for each. Curves come from the package's forward model and from its arterial curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from strokect.core.types import FloatArray
from strokect.perfusion.convolution import ResidueShape, response_table, tissue_curves
from strokect.perfusion.deconvolution import ResidueFit
from strokect.perfusion.maps import voxel_maps
from strokect.phantom.haemodynamics import DENSE_STEP_S, Bolus, blood_curves

SHAPES: tuple[ResidueShape, ...] = ("exponential", "linear", "box")
DELAYS_S = tuple(np.linspace(0.0, 3.0, 7))
MTTS_S = (3.4, 4.0, 4.8, 6.0, 8.0, 12.0, 24.0)
CBVS = (1.0, 2.0, 3.0, 4.0, 5.0)
BOLUS = Bolus(arrival_s=10.0, peak_hu=300.0)


@dataclass(frozen=True, eq=False)
class Tiles:
    """curves : (T, V) float32, HU. aif : (T,). truth : per quantity (V,), as in the maps.
    tile, shape : (V,) int, number of the tile and of its residue in SHAPES."""

    curves: FloatArray
    aif: FloatArray
    interval_s: float
    truth: dict[str, FloatArray]
    tile: FloatArray
    shape: FloatArray

    def means(self, values: FloatArray) -> FloatArray:
        """Mean of each tile (N,) of voxel values (V,)."""
        return np.bincount(self.tile, values) / np.bincount(self.tile)

    def maps(self, fit: ResidueFit) -> dict[str, FloatArray]:
        """Tile means (N,) of the maps of a fit."""
        found = voxel_maps(fit, self.curves, BOLUS.arrival_s, self.interval_s)
        return {name: self.means(values) for name, values in found.items()}

    def true_maps(self) -> dict[str, FloatArray]:
        return {name: self.means(values) for name, values in self.truth.items()}

    def of_shape(self, shape: ResidueShape) -> FloatArray:
        """Which tiles (N,) have this residue."""
        return self.means(self.shape) == SHAPES.index(shape)


def make_tiles(
    shapes: Sequence[ResidueShape] = SHAPES,
    noise_hu: float = 0.3,
    delays_s: Sequence[float] = DELAYS_S,
    repeats: int = 8,
    n_times: int = 60,
) -> Tiles:
    """The phantom at 1 s, with white noise; ``repeats`` voxels a tile. Always the same."""
    time = np.arange(float(n_times))
    blood = blood_curves(BOLUS, n_times + 5.0)
    grid = np.meshgrid(CBVS, MTTS_S, delays_s, np.arange(repeats), indexing="ij")
    cbv, mtt, delay = (a.ravel() for a in grid[:3])
    cbf = 60 * cbv / mtt
    one = np.repeat(np.arange(cbv.size // repeats), repeats)
    parts, family, tile = [], [], []
    for n, shape in enumerate(shapes):
        table = response_table(blood.artery, 0.0, DENSE_STEP_S, shape)
        parts.append(tissue_curves(table, time, cbf, mtt, delay))
        family.append(np.full(cbv.size, SHAPES.index(shape)))
        tile.append(one + n * (one[-1] + 1))
    curves = np.concatenate(parts, axis=1)
    curves += noise_hu * np.random.default_rng(0).standard_normal(curves.shape, dtype=np.float32)
    many = {k: np.tile(v, len(shapes)) for k, v in
            {"cbv": cbv, "cbf": cbf, "mtt": mtt, "delay": delay}.items()}  # fmt: skip
    aif = blood.at(blood.artery, time).astype(np.float32)
    return Tiles(curves, aif, 1.0, many, np.concatenate(tile), np.concatenate(family))


def realistic_curves(
    n_voxels: int, n_times: int = 45, noise_hu: float = 1.0
) -> tuple[FloatArray, FloatArray]:
    """Curves (T, V) of grey, white and hypoperfused tissue in random order, and the AIF (T,)."""
    rng = np.random.default_rng(1)
    blood = blood_curves(BOLUS, n_times + 5.0)
    time = np.arange(float(n_times))
    table = response_table(blood.artery, 0.0, DENSE_STEP_S, "gamma")
    cbf = rng.choice([60.0, 24.0, 20.0, 8.0], n_voxels, p=[0.4, 0.4, 0.15, 0.05])
    cbv = rng.uniform(1.5, 4.5, n_voxels)
    late = cbf < 21
    delay = rng.uniform(0.0, 2.0, n_voxels) + 4.0 * late
    curves = tissue_curves(table, time, cbf, 60 * cbv / cbf, delay)
    curves += noise_hu * rng.standard_normal(curves.shape, dtype=np.float32)
    return curves, blood.at(blood.artery, time).astype(np.float32)
