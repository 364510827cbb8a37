"""Losses of segmentation: overlap of regions, and likelihood of voxels.

Each loss is built by ``loss(options, classes)`` and called as ``f(logits, labels, weight)``:
logits (B, K, Z, Y, X), before softmax; labels (B, Z, Y, X) integer, 0..K-1; weight (B, Z, Y, X) or
None, a mask: voxels of weight 0 are ignored whatever their label, all others count alike. Returns
a scalar, computed in float32 whatever the autocast.

With p the softmax probabilities, g the one-hot truth and sums over the voxels of one class in one
sample: TP = sum p g, FP = sum p (1 - g), FN = sum (1 - p) g, s = ``smooth``.

====================  ===========================================================  ==========
dice                  1 - (2 TP + s) / (sum p + sum g + s)                         [1]_
squared_dice          1 - (2 TP + s) / (sum p^2 + sum g^2 + s)                     [2]_
tversky               1 - TI,  TI = (TP + s) / (TP + alpha FN + beta FP + s)       [3]_
focal_tversky         (1 - TI)^(1 / gamma)                                         [4]_
tanimoto              1 - (T(p, g) + T(1 - p, 1 - g)) / 2,                         [5]_
                      T(p, g) = (sum p g + s) / (sum p^2 + sum g^2 - sum p g + s)
cross_entropy         - log p of the true class
focal                 - (1 - p)^focal_gamma log p of the true class                [6]_
ce_dice               cross_entropy + dice                                         [7]_
ce_focal_tversky      cross_entropy + focal_tversky
====================  ===========================================================  ==========

**Class weights** w_k. Region losses: sum w_k L_k / sum w_k over the classes. Voxel losses: the mean
over voxels, each weighted by the weight of its true class.

**Samples.** The loss is the mean over samples of the loss of each one, so that processes that hold
one sample each average to what one process finds on all. ``batch=True`` pools the voxels of all
samples first: steadier where most samples lack a class, but no longer equal across processes.

**Absent classes.** A class that a sample does not hold has TP = FN = 0, and loses
1 - s / (c FP + s), c = beta for Tversky (Dice: c = 1 on sum p): 0 where nothing is predicted,
one half at FP = s / c voxels, towards 1 beyond. So false positives are always penalised, and a
small s flattens the slope sooner: at s = 1e-5 a single voxel costs as much as a thousand, and no
gradient is left to mend either. Hence s = 1 voxel. A sample that is masked out whole loses 0.

.. [1] Sudre CH et al., DLMIA 2017, LNCS 10553:240-248 (soft Dice of several classes).
.. [2] Milletari F et al., V-Net, 3DV 2016:565-571.
.. [3] Salehi SSM et al., MLMI 2017, LNCS 10541:379-387. There alpha is on false positives; here,
   as in [4]_, on false negatives.
.. [4] Abraham N, Khan NM, ISBI 2019:683-687.
.. [5] Diakogiannis FI et al., ISPRS J Photogramm Remote Sens 2020;162:94-114.
.. [6] Lin TY et al., ICCV 2017:2980-2988; alpha_t there is the class weight here.
.. [7] Isensee F et al., Nat Methods 2021;18:203-211.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from monai.losses import DiceLoss, FocalLoss, TverskyLoss
from torch import Tensor, nn
from torch.nn import functional

from strokect.core.errors import GeometryError, SettingsError

#: Least 1 - TI whose root is taken: the slope of x^(1/gamma) is infinite at 0.
LEAST_LOSS = 1e-7


@dataclass(frozen=True)
class LossOptions:
    """Choices of all losses; each takes what its formula names.

    class_weights : one weight >= 0 for each class, background first; None: all alike.
    alpha, beta : weights of false negatives and false positives; beta None: 1 - alpha.
    gamma : focal Tversky; above 1 the loss dwells on classes that are nearly right, as the
        source had it (4/3). focal_gamma : focal loss; 0, or at least 1.
    smooth : s above, > 0, in voxels.
    include_background : whether class 0 is among the classes of the region losses. Voxel losses
        see every voxel always; weight class 0 down instead.
    batch : pool the voxels of a batch.
    Raises SettingsError where a value is out of range.
    """

    class_weights: tuple[float, ...] | None = None
    alpha: float = 0.7
    beta: float | None = None
    gamma: float = 4 / 3
    focal_gamma: float = 2.0
    smooth: float = 1.0
    include_background: bool = True
    batch: bool = False

    def __post_init__(self) -> None:
        beta = self.false_positive_weight
        _require(
            self.alpha >= 0 and beta >= 0 and self.alpha + beta > 0,
            "alpha and beta",
            (self.alpha, beta),
            "Give two numbers >= 0, not both 0",
        )
        _require(self.gamma > 0, "gamma", self.gamma, "Give a number above 0; 4/3 is usual")
        _require(
            self.focal_gamma == 0 or self.focal_gamma >= 1,
            "focal_gamma",
            self.focal_gamma,
            "Give 0, or a number of at least 1; 2 is usual",
        )
        _require(self.smooth > 0, "smooth", self.smooth, "Give a number above 0; 1 is usual")
        weights = self.class_weights
        if weights is not None:
            _require(
                all(w >= 0 and math.isfinite(w) for w in weights) and any(weights),
                "class_weights",
                weights,
                "Give numbers >= 0, not all 0",
            )

    @property
    def false_positive_weight(self) -> float:
        """Weight of false positives in the Tversky index."""
        return 1 - self.alpha if self.beta is None else self.beta


class Loss(nn.Module, ABC):
    """What all losses share: checks, the mask, class weights, float32, the mean over samples."""

    class_weights: Tensor

    def __init__(self, options: LossOptions, classes: int):
        super().__init__()
        weights = options.class_weights or (1.0,) * classes
        _require(classes >= 2, "classes", classes, "Give at least 2")
        _require(len(weights) == classes, "class_weights", weights, f"Give {classes}, one a class")
        self.options = options
        self.classes = classes
        # A setting, not something learnt: it stays out of checkpoints.
        self.register_buffer("class_weights", torch.tensor(weights), persistent=False)

    def forward(self, logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
        """Mean over samples of the loss; see the module for shapes.

        Raises GeometryError where the shapes do not fit.
        """
        self._check(logits, labels, weight)
        with torch.autocast(logits.device.type, enabled=False):
            mask = torch.ones_like(labels, dtype=torch.float32)
            if weight is not None:
                mask = (weight > 0).float()
            # What is masked out may carry any label, such as 255 for "not drawn".
            labels = torch.where(mask > 0, labels, 0).long()
            return self.per_sample(logits.float(), labels, mask).mean()

    @abstractmethod
    def per_sample(self, logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """Loss of each sample, (B,); of all together, (1,), with ``options.batch``.

        logits : (B, K, Z, Y, X) float32. labels : (B, Z, Y, X) int64. mask : (B, Z, Y, X), 0 or 1.
        """

    def _check(self, logits: Tensor, labels: Tensor, weight: Tensor | None) -> None:
        shape = tuple(logits.shape)
        if len(shape) != 5 or shape[1] != self.classes:
            raise GeometryError(
                f"logits of shape {shape}", "loss", f"Give (B, {self.classes}, Z, Y, X)"
            )
        for name, other in (("labels", labels), ("weight", weight)):
            if other is not None and tuple(other.shape) != shape[:1] + shape[2:]:
                raise GeometryError(
                    f"{name} of shape {tuple(other.shape)} for logits {shape}",
                    "loss",
                    f"Give {shape[:1] + shape[2:]}",
                )


class RegionLoss(Loss):
    """A loss of overlap: of each class, then the weighted mean over classes.

    score : MONAI loss without reduction: probabilities, one-hot truth -> loss of each class.
    power : exponent of the loss of each class.
    dual : average with the same loss of the complement.
    """

    def __init__(
        self,
        options: LossOptions,
        classes: int,
        score: nn.Module,
        *,
        power: float = 1.0,
        dual: bool = False,
    ):
        super().__init__(options, classes)
        self.score, self.power, self.dual = score, power, dual
        weights = self.class_weights if options.include_background else self.class_weights[1:]
        _require(
            bool(weights.sum() > 0),
            "class_weights",
            tuple(self.class_weights.tolist()),
            "Give a class other than the background a weight, or include the background",
        )
        self.register_buffer("shares", weights / weights.sum(), persistent=False)

    shares: Tensor

    def per_sample(self, logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """See `Loss`."""
        inside = mask[:, None]
        truth = torch.zeros_like(logits).scatter_(1, labels[:, None], inside)  # (B, K, Z, Y, X)
        found = logits.softmax(1) * inside
        loss = self._each(found, truth)
        if self.dual:
            loss = (loss + self._each(inside - found, inside - truth)) / 2
        if self.power != 1:
            loss = loss.clamp(min=LEAST_LOSS) ** self.power
        return loss @ self.shares

    def _each(self, found: Tensor, truth: Tensor) -> Tensor:
        loss: Tensor = self.score(found, truth)
        return loss.reshape(-1, len(self.shares))  # (B or 1, classes counted)


class VoxelLoss(Loss):
    """A loss of likelihood: of each voxel, then the weighted mean over voxels.

    focus : exponent of (1 - p); 0 is cross-entropy.
    """

    def __init__(self, options: LossOptions, classes: int, focus: float = 0.0):
        super().__init__(options, classes)
        self.focal = FocalLoss(gamma=focus, use_softmax=True, reduction="none") if focus else None

    def per_sample(self, logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """See `Loss`."""
        if self.focal is None:
            loss = functional.cross_entropy(logits, labels, reduction="none")
        else:
            truth = torch.zeros_like(logits).scatter_(1, labels[:, None], 1.0)
            loss = self.focal(logits, truth).sum(1)
        share = self.class_weights[labels] * mask  # (B, Z, Y, X)
        axes = (0, 1, 2, 3) if self.options.batch else (1, 2, 3)
        total = (loss * share).sum(axes) / share.sum(axes).clamp(min=1e-12)
        return total.reshape(-1)


class SumLoss(nn.Module):
    """Sum of losses."""

    def __init__(self, *losses: Loss):
        super().__init__()
        self.losses = nn.ModuleList(losses)

    def forward(self, logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
        """See the module."""
        return torch.stack([loss(logits, labels, weight) for loss in self.losses]).sum()


def dice(options: LossOptions, classes: int) -> Loss:
    """Dice loss."""
    return RegionLoss(options, classes, _dice_score(options))


def squared_dice(options: LossOptions, classes: int) -> Loss:
    """Dice loss with squares in the denominator."""
    return RegionLoss(options, classes, _dice_score(options, squared=True))


def tversky(options: LossOptions, classes: int) -> Loss:
    """Tversky loss."""
    return RegionLoss(options, classes, _tversky_score(options))


def focal_tversky(options: LossOptions, classes: int) -> Loss:
    """Focal Tversky loss. Perfect is `LEAST_LOSS` ** (1 / gamma), not quite 0."""
    return RegionLoss(options, classes, _tversky_score(options), power=1 / options.gamma)


def tanimoto(options: LossOptions, classes: int) -> Loss:
    """Tanimoto loss with its dual."""
    score = DiceLoss(
        include_background=options.include_background,
        squared_pred=True,
        jaccard=True,
        reduction="none",
        # MONAI smooths the formula times 2.
        smooth_nr=2 * options.smooth,
        smooth_dr=2 * options.smooth,
        batch=options.batch,
    )
    return RegionLoss(options, classes, score, dual=True)


def cross_entropy(options: LossOptions, classes: int) -> Loss:
    """Weighted cross-entropy."""
    return VoxelLoss(options, classes)


def focal(options: LossOptions, classes: int) -> Loss:
    """Focal loss."""
    return VoxelLoss(options, classes, options.focal_gamma)


def ce_dice(options: LossOptions, classes: int) -> SumLoss:
    """Cross-entropy plus Dice loss. MONAI's DiceCELoss takes no mask, hence the sum."""
    return SumLoss(cross_entropy(options, classes), dice(options, classes))


def ce_focal_tversky(options: LossOptions, classes: int) -> SumLoss:
    """Cross-entropy plus focal Tversky loss."""
    return SumLoss(cross_entropy(options, classes), focal_tversky(options, classes))


def _dice_score(options: LossOptions, squared: bool = False) -> nn.Module:
    return DiceLoss(
        include_background=options.include_background,
        squared_pred=squared,
        reduction="none",
        smooth_nr=options.smooth,
        smooth_dr=options.smooth,
        batch=options.batch,
    )


def _tversky_score(options: LossOptions) -> nn.Module:
    return TverskyLoss(
        include_background=options.include_background,
        # MONAI's alpha is on false positives.
        alpha=options.false_positive_weight,
        beta=options.alpha,
        reduction="none",
        smooth_nr=options.smooth,
        smooth_dr=options.smooth,
        batch=options.batch,
    )


def _require(holds: bool, name: str, value: object, fix: str) -> None:
    if not holds:
        raise SettingsError(f"{name} = {value}", "loss options", fix)
