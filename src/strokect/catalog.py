"""Every named choice, as "module:attribute" strings. Importing this imports none of them.

Names exist only at the edge: ``load`` turns one into its object; inside, objects are passed.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from strokect.core.errors import SettingsError


@dataclass(frozen=True)
class Entry:
    """One choice. target : "module:attribute" below ``strokect``. options : field of the settings
    that holds its options."""

    target: str
    summary: str
    source: str = ""
    options: str = ""


ESTIMATORS = {
    "ssvd": Entry(
        "perfusion.deconvolution:ssvd",
        "truncated SVD, delay-sensitive",
        "Ostergaard 1996",
        "deconvolution",
    ),
    "bsvd": Entry(
        "perfusion.deconvolution:bsvd",
        "block-circulant SVD, delay-insensitive",
        "Wu 2003",
        "deconvolution",
    ),
    "osvd": Entry(
        "perfusion.deconvolution:osvd",
        "block-circulant SVD, oscillation index per voxel",
        "Wu 2003",
        "deconvolution",
    ),
    "tikhonov": Entry(
        "perfusion.tikhonov:tikhonov",
        "block-circulant ridge, weight per voxel by cross-validation or L-curve",
        "Calamante 2003, Sourbron 2004",
        "tikhonov",
    ),
    "nlr": Entry(
        "perfusion.nlr:nlr",
        "box residue, regression for flow, transit time and delay",
        "Bennink 2016",
        "regression",
    ),
    "bayes": Entry(
        "perfusion.bayes:bayes",
        "posterior mean over transit time, delay and residue shape",
        "Mouridsen 2006, Boutelier 2012",
        "bayesian",
    ),
}
DENOISERS = {
    "none": Entry("perfusion.denoise:none", "the data as they are"),
    "gaussian": Entry("perfusion.denoise:gaussian", "in-plane Gaussian"),
    "bilateral": Entry(
        "perfusion.denoise:bilateral", "in-plane bilateral filter per frame", "Tomasi 1998"
    ),
    "tips": Entry(
        "perfusion.denoise:tips", "time-intensity-profile similarity, 4D", "Mendrik 2011"
    ),
    "nonlocal": Entry(
        "perfusion.denoise:nonlocal_means",
        "average of voxels alike in attenuation and bolus shape, 4D",
        "after Buades 2005",
    ),
}
RULES = {
    "rapid": Entry(
        "perfusion.tissue:RAPID", "Tmax > 6 s; core rCBF < 0.30", "Straka 2010, Albers 2018"
    ),
    "mistar": Entry("perfusion.tissue:MISTAR", "delay > 3 s; core rCBF < 0.30", "Lin 2016"),
    "wintermark": Entry(
        "perfusion.tissue:WINTERMARK", "rMTT > 1.45; core CBV < 2 ml/100g", "Wintermark 2006"
    ),
}
LAYOUTS = {
    "own": Entry(
        "io.datasets:OwnDataset", "BIDS-like, names as in ISLES'24; brain, penumbra and core"
    ),
    "isles18": Entry(
        "io.datasets:Isles18Dataset", "ISLES'18 as published; acute core", "Hakim 2021"
    ),
    "isles24": Entry(
        "io.datasets:Isles24Dataset", "ISLES'24 as published; final infarct", "Riedel 2024"
    ),
    "unitobrain": Entry(
        "io.datasets:UniToBrainDataset", "UniToBrain as published; maps, no truth", "Gava 2021"
    ),
    "slices": Entry(
        "io.datasets:SliceDataset", "TIFF or PNG folders per slice; grey-level ground truth"
    ),
}
NETWORKS = {
    "mjnet_2dt": Entry("nets.mjnet:MJNet2dT", "2D+time mJ-Net, slice by slice", "Tomasetti 2020"),
    "mjnet_3dt": Entry(
        "nets.mjnet:MJNet3dT",
        "3D+time mJ-Net, neighbouring slices through one encoder",
        "Tomasetti 2024",
    ),
    "mjnet_4d": Entry("nets.mjnet4d:MJNet4d", "4D mJ-Net, 4D convolutions", "Tomasetti 2024"),
    "multi_input": Entry(
        "nets.multi_input:MultiInput",
        "VGG-16 per parametric map, early fusion, clinical scores",
        "Tomasetti 2022",
    ),
    "tcn": Entry("nets.tcn:TemporalConvNet", "temporal convolutional network", "Bai 2018"),
    "unet": Entry(
        "nets.baselines:BaselineUNet", "U-Net of MONAI, times as channels", "Kerfoot 2018"
    ),
    "attention_unet": Entry(
        "nets.baselines:BaselineAttentionUNet",
        "attention U-Net of MONAI, times as channels",
        "Oktay 2018",
    ),
    "vnet": Entry(
        "nets.baselines:BaselineVNet", "V-Net of MONAI, times as channels", "Milletari 2016"
    ),
    "segresnet": Entry(
        "nets.baselines:BaselineSegResNet",
        "SegResNet of MONAI, times as channels",
        "Myronenko 2018",
    ),
}
LOSSES = {
    "dice": Entry("learn.losses:dice", "soft Dice", "Sudre 2017"),
    "squared_dice": Entry("learn.losses:squared_dice", "Dice, squared sums", "Milletari 2016"),
    "tversky": Entry("learn.losses:tversky", "Tversky index", "Salehi 2017"),
    "focal_tversky": Entry("learn.losses:focal_tversky", "focal Tversky", "Abraham 2019"),
    "cross_entropy": Entry("learn.losses:cross_entropy", "weighted cross-entropy"),
    "focal": Entry("learn.losses:focal", "focal loss", "Lin 2017"),
    "tanimoto": Entry("learn.losses:tanimoto", "Tanimoto with its dual", "Diakogiannis 2020"),
    "ce_dice": Entry("learn.losses:ce_dice", "cross-entropy plus Dice", "Isensee 2021"),
    "ce_focal_tversky": Entry("learn.losses:ce_focal_tversky", "cross-entropy plus focal Tversky"),
}
TABLES: dict[str, dict[str, Entry]] = {
    "estimators": ESTIMATORS,
    "denoisers": DENOISERS,
    "rules": RULES,
    "layouts": LAYOUTS,
    "networks": NETWORKS,
    "losses": LOSSES,
}

_SINGULAR = {"losses": "loss"}


def load(table: str, name: str) -> Any:
    """The object behind a name. Raises SettingsError that names the nearest right one."""
    entries = TABLES[table]
    if name not in entries:
        near = difflib.get_close_matches(name, entries, 1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise SettingsError(
            f"no {_SINGULAR.get(table, table.removesuffix('s'))} is called {name!r}",
            fix=f"{hint}Choose from {', '.join(entries)}",
        )
    module, attribute = entries[name].target.split(":")
    return getattr(import_module(f"strokect.{module}"), attribute)
