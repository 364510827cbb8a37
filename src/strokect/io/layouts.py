"""Where things lie on disk. Pure path arithmetic: nothing here opens an image.

The own layout is BIDS-like, with the names of ISLES'24::

    DIR/dataset_description.json, participants.tsv
    DIR/sub-0001/ses-01/sub-0001_ses-01_ctp.nii.gz   + .json sidecar
    DIR/derivatives/truth/sub-0001/ses-01/sub-0001_ses-01_cbf.nii.gz          maps
    DIR/derivatives/truth/sub-0001/ses-01/sub-0001_ses-01_core_mask.nii.gz    masks
    DIR/derivatives/truth/sub-0001/ses-01/sub-0001_ses-01_curves.csv          true AIF and VOF
    DIR/dicom/sub-0001/                                                       classic CT images
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Modality = Literal["ncct", "cta", "ctp"]


@dataclass(frozen=True)
class OwnLayout:
    """Paths of one patient in the own layout. label : e.g. "0001"."""

    root: Path
    label: str
    session: str = "01"

    @property
    def stem(self) -> str:
        return f"sub-{self.label}_ses-{self.session}"

    @property
    def scan_folder(self) -> Path:
        return self.root / f"sub-{self.label}" / f"ses-{self.session}"

    @property
    def truth_folder(self) -> Path:
        return self.root / "derivatives" / "truth" / f"sub-{self.label}" / f"ses-{self.session}"

    @property
    def dicom_folder(self) -> Path:
        return self.root / "dicom" / f"sub-{self.label}"

    def scan(self, modality: Modality) -> Path:
        return self.scan_folder / f"{self.stem}_{modality}.nii.gz"

    def truth_map(self, quantity: str) -> Path:
        return self.truth_folder / f"{self.stem}_{quantity}.nii.gz"

    def truth_mask(self, name: str) -> Path:
        return self.truth_folder / f"{self.stem}_{name}_mask.nii.gz"

    @property
    def truth_curves(self) -> Path:
        return self.truth_folder / f"{self.stem}_curves.csv"
