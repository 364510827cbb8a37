"""Write results as DICOM: one segmentation and one parametric map per quantity (highdicom).

Objects made from a patient's images carry the patient and study of those images, so that they
file with them. Without source images they belong to an anonymous virtual patient.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from strokect.core.errors import ScanError, SettingsError
from strokect.core.result import PerfusionResult
from strokect.core.types import Grid, Map, Volume
from strokect.io.dicom_headers import quiet
from strokect.io.dicom_stack import source_paths, stack_ctp
from strokect.io.dicom_write import atomic_folder, plane_attributes, series_template

#: Segments in their order: mask, label, type. Codes: SNOMED CT, by PS3.16
#: CID 7159; what has no code there gets a private one.
_SEGMENTS: tuple[tuple[str, str, Code], ...] = (
    ("core", "Ischaemic core", Code("55641003", "SCT", "Infarct")),
    ("penumbra", "Penumbra", Code("penumbra", "99STROKECT", "Ischemic penumbra")),
    ("hypoperfusion", "Hypoperfusion", Code("52674009", "SCT", "Ischemia")),
)
_CATEGORY = Code("49755003", "SCT", "Morphologically Abnormal Structure")
#: Quantity definitions of PS3.16; quantities without a code have none.
_QUANTITY_CODES: dict[str, Code] = {
    "cbf": Code("113055", "DCM", "Regional Cerebral Blood Flow"),
    "cbv": Code("113056", "DCM", "Regional Cerebral Blood Volume"),
    "mtt": Code("113052", "DCM", "Mean Transit Time"),
    "ttp": Code("113069", "DCM", "Time To Peak"),
}
_NOTICE = "Research use only, not for diagnosis"
#: Series numbers of the results: above those of scanners, which count from 1.
_FIRST_SERIES = 9100


def write_result_dicom(
    result: PerfusionResult,
    source_folder: Path | str | None,
    folder: Path | str,
    *,
    series_number: int | None = None,
) -> list[Path]:
    """Write masks as a segmentation and maps as parametric maps.

    source_folder : of the CT perfusion scan as it was read, whose first time point is referenced;
    None for a scan that was not DICOM. series_number : of the source, as given to the reader.
    Returns the files: ``seg.dcm`` and ``<quantity>.dcm``. Values that are no number become 0.
    Raises SettingsError without highdicom, ScanError where the source does not lie on the grid of
    the result, OutputExistsError where the folder holds files, OutputError where it cannot be
    written.
    """
    highdicom = _highdicom()
    sources = (
        _anonymous_sources(result.mean_ct)
        if source_folder is None
        else _patient_sources(Path(source_folder), result.grid, series_number)
    )
    common = _common(highdicom, result.grid)
    folder = Path(folder)
    names = []
    with quiet(), atomic_folder(folder) as temporary:
        if all(name in result.masks for name, _, _ in _SEGMENTS):
            _segmentation(highdicom, result, sources, common).save_as(temporary / "seg.dcm")
            names.append("seg.dcm")
        for i, (key, parametric) in enumerate(result.maps.items()):
            made = _parametric_map(highdicom, parametric, sources, common, _FIRST_SERIES + 1 + i)
            made.save_as(temporary / f"{key}.dcm")
            names.append(f"{key}.dcm")
    return [folder / name for name in names]


def check_available() -> None:
    """Raises SettingsError, with what to install, where results cannot be written as DICOM."""
    _highdicom()


def _highdicom() -> Any:
    try:
        import highdicom
    except ImportError:
        raise SettingsError(
            "DICOM results need highdicom", None, "Install it: pip install 'strokect[dicom]'"
        ) from None
    return highdicom


def _patient_sources(folder: Path, grid: Grid, series_number: int | None) -> list[Dataset]:
    """Headers of one complete time point of the scan, from which the results were computed."""
    # frame times are not needed: any interval does, also for scans without times
    stack = stack_ctp(folder, interval_s=1.0, series_number=series_number)
    if not stack.geometry.grid.same_as(grid, tolerance_mm=0.1):
        raise ScanError(
            "the results do not lie on the grid of the source images",
            folder,
            "Give the folder that the scan was read from",
        )
    complete = [t for t, row in enumerate(stack.images) if None not in row]
    if not complete:
        raise ScanError("no time point is complete", folder, "Write the results as NIfTI")
    with quiet():
        return [
            pydicom.dcmread(path, stop_before_pixels=True, force=True)
            for path in source_paths(stack, complete[0])
        ]


def _anonymous_sources(volume: Volume) -> list[Dataset]:
    """Headers in memory with the geometry of a grid: highdicom derives objects from images."""
    seed = int.from_bytes(np.random.default_rng().bytes(8), "big")  # a study of its own
    shared = series_template(volume.grid, seed, "CTP", 1, "20000101120000")
    shared.PatientName, shared.DeidentificationMethod = "VIRTUAL^ANONYMOUS", "No DICOM source"
    sources = []
    for z, position in enumerate(plane_attributes(volume.grid)[2]):
        source = Dataset()
        source.update(shared)
        source.ImagePositionPatient = [round(float(v), 6) for v in position]
        source.InstanceNumber = z + 1
        source.SOPInstanceUID = generate_uid()
        sources.append(source)
    return sources


def _common(highdicom: Any, grid: Grid) -> dict[str, Any]:
    """Arguments that all result objects share: geometry, plane by plane, and equipment.

    Planes have explicit positions since a tilted gantry shears the grid.
    """
    orientation, spacing, positions = plane_attributes(grid)
    normal = np.cross(orientation[:3], orientation[3:])
    step = (positions[-1] - positions[0]) / max(1, len(positions) - 1)
    distance = abs(float(normal @ step)) or grid.spacing_mm[0]
    patient = highdicom.CoordinateSystemNames.PATIENT
    return {
        "pixel_measures": highdicom.PixelMeasuresSequence(
            pixel_spacing=spacing, slice_thickness=distance, spacing_between_slices=distance
        ),
        "plane_orientation": highdicom.PlaneOrientationSequence(patient, orientation),
        "plane_positions": [
            highdicom.PlanePositionSequence(patient, [float(v) for v in p]) for p in positions
        ],
        "manufacturer": "strokect",
        "manufacturer_model_name": "strokect",
        "software_versions": metadata.version("strokect"),
        "device_serial_number": "0",
    }


def _segmentation(
    highdicom: Any, result: PerfusionResult, sources: list[Dataset], common: dict[str, Any]
) -> Dataset:
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name="strokect",
        family=Code("threshold", "99STROKECT", "Thresholding of perfusion maps"),
        version=common["software_versions"],
    )
    segments = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=label,
            segmented_property_category=_CATEGORY,
            segmented_property_type=kind,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number, (_, label, kind) in enumerate(_SEGMENTS, start=1)
    ]
    stacked = np.stack([result.masks[name].data for name, _, _ in _SEGMENTS], axis=-1)
    made: Dataset = highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=stacked.astype(np.uint8),
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=generate_uid(),
        series_number=_FIRST_SERIES,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        omit_empty_frames=False,
        content_label="STROKE_TISSUE",
        content_description=_NOTICE,
        **common,
    )
    made.SeriesDescription = f"Core and penumbra. {_NOTICE}"
    return made


def _parametric_map(
    highdicom: Any, parametric: Map, sources: list[Dataset], common: dict[str, Any], number: int
) -> Dataset:
    quantity = parametric.quantity
    if quantity is None:
        raise SettingsError("a map without a quantity", None, "Set Map.quantity")
    values = np.nan_to_num(parametric.data.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = quantity.display_range
    mapping = highdicom.pm.RealWorldValueMapping(
        lut_label=quantity.key.upper(),
        lut_explanation=f"{quantity.long_name}, {quantity.unit}",
        unit=Code(quantity.ucum, "UCUM", quantity.unit),
        value_range=(float(values.min()), float(max(values.max(), values.min() + 1e-6))),
        slope=1.0,
        intercept=0.0,
        quantity_definition=_QUANTITY_CODES.get(quantity.key),
    )
    window = highdicom.VOILUTTransformation(
        window_center=(low + high) / 2.0, window_width=float(high - low)
    )
    made: Dataset = highdicom.pm.ParametricMap(
        source_images=sources,
        pixel_array=values,
        series_instance_uid=generate_uid(),
        series_number=number,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[window],
        content_label=quantity.key.upper(),
        content_description=_NOTICE,
        **common,
    )
    made.SeriesDescription = f"{quantity.label} [{quantity.unit}]. {_NOTICE}"
    return made
