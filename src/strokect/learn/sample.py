"""One training sample."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from strokect.core.errors import GeometryError


@dataclass(frozen=True, eq=False)
class Sample:
    """What a network sees, and the truth it is to find.

    image : (C, T, Z, Y, X) float32, normalised.
    label : (Z', Y, X) integer class of the centre slices, Z' = Z - (n_slices - 1).
    weight : (Z', Y, X) float32; a voxel of weight 0 is ignored by the losses.
    clinical : (F,) float32, what is known beside the image; empty where the network asks nothing.
    Raises GeometryError where these shapes do not fit together.
    """

    image: torch.Tensor
    label: torch.Tensor
    weight: torch.Tensor
    clinical: torch.Tensor = field(default_factory=lambda: torch.zeros(0))

    def __post_init__(self) -> None:
        image, label, weight = (tuple(x.shape) for x in (self.image, self.label, self.weight))
        if len(image) != 5:
            raise GeometryError(
                f"an image of {len(image)} dimensions", f"shape {image}", "Give (C, T, Z, Y, X)"
            )
        if len(label) != 3 or label[0] > image[2] or label[1:] != image[3:]:
            raise GeometryError(
                f"label {label} does not lie on image {image}",
                "sample",
                "Give (Z', Y, X) with Z' <= Z on the image's own grid",
            )
        if weight != label:
            raise GeometryError(
                f"weight {weight} is not on the grid of label {label}",
                "sample",
                "Give one weight for each label voxel",
            )
