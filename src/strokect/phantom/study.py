"""One patient, three scans: who the patient is, how each scan is taken, and the images."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from strokect.core.types import Progress, no_progress
from strokect.phantom import clinical, haemodynamics, injection, protocols, scans
from strokect.phantom.clinical import Case, Group
from strokect.phantom.config import PatientConfig, stream
from strokect.phantom.patient import VirtualPatient, scan_patient
from strokect.phantom.protocols import Size
from strokect.phantom.scanner import MotionSpec
from strokect.phantom.subject import Subject, make_subject

SIZES: tuple[Size, ...] = get_args(Size)
#: Share of patients whose head moves in the scan (assumed; of 80 acute strokes 24 % moved mildly to
#: moderately, 19 % more: Eur J Radiol 2021, 144:109979), and who carry an aneurysm clip (assumed).
MOVING_SHARE, CLIP_SHARE = 0.25, 0.02
MOTIONS: tuple[Literal["jump", "drift", "nod"], ...] = ("jump", "drift", "nod")


@dataclass(frozen=True)
class StudyConfig:
    """Everything that determines a virtual study. number : of the patient in its cohort, from 1.

    patient : the person and the CT perfusion scan; the other protocols as their scans were taken.
    """

    number: int
    split: str
    case: Case
    patient: PatientConfig
    ctp: protocols.Protocol
    ncct: protocols.NcctProtocol
    cta: protocols.CtaProtocol

    def as_json(self) -> dict[str, Any]:
        """Plain values, to store and to compare."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, eq=False)
class VirtualStudy:
    """The three scans of one patient. info : JSON-able truth that is no image."""

    config: StudyConfig
    subject: Subject
    ctp: VirtualPatient
    ncct: scans.StaticScan
    cta: scans.StaticScan
    info: dict[str, Any]


def draw_study(
    seed: int,
    number: int,
    groups: dict[Group, float],
    size: Size = "full",
    noise_hu: float | None = None,
) -> StudyConfig:
    """Draw patient ``number`` (from 1) of the cohort ``seed``.

    The patient depends on these two only, not on how many there will be, and shares nothing with
    patients of other seeds. noise_hu : of CT perfusion, instead of the drawn one.
    Raises SettingsError for an unknown size.
    """
    own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    group = clinical.group_of(number, groups)
    case = clinical.draw_case(stream(own, "case"), group)
    rng = stream(own, "protocol")
    output = protocols.draw_cardiac_output(rng, size)
    ctp = protocols.draw_protocol(rng, size, output)
    if noise_hu is not None:
        ctp = dataclasses.replace(ctp, noise_hu=noise_hu)
    patient = PatientConfig(
        seed=own,
        shape=ctp.shape,
        spacing_mm=ctp.spacing_mm,
        centre_z_mm=_centre_z_mm(ctp.coverage_mm),
        interval_s=ctp.interval_s,
        frame_times_s=tuple(float(t) for t in ctp.frames_s),
        slice_times=ctp.slice_times,
        noise_hu=ctp.noise_hu,
        kernel=ctp.kernel,
        artefacts=True,
        motion=_motion(rng),
        clip=bool(rng.random() < CLIP_SHARE),
        occlusion=case.site or "none",
        side=case.side,
        age=case.age,
        collateral=case.collateral,
        onset_h=case.onset_h,
        bolus=_bolus(own, ctp),
    )
    return StudyConfig(
        number=number,
        split=clinical.split_of(number, group, groups, seed),
        case=case,
        patient=patient,
        ctp=ctp,
        ncct=protocols.draw_ncct_protocol(rng, size),
        cta=protocols.draw_cta_protocol(rng, size, output),
    )


def make_study(config: StudyConfig, progress: Progress = no_progress) -> VirtualStudy:
    """Make the patient. The same config gives the same bytes, on any number of threads."""
    subject = make_subject(config.patient)
    steps = 100

    def part(low: int, high: int) -> Progress:
        return lambda done, total: progress(low + (high - low) * done // max(total, 1), steps)

    ctp = scan_patient(subject, config.patient, part(2, 40))
    ncct = scans.ncct(subject, config.ncct, progress=part(40, 55))
    cta = scans.cta(subject, config.cta, _bolus(config.patient.seed, config.cta), part(55, 99))
    volumes = subject.physiology.volumes_ml
    score = clinical.draw_nihss(
        stream(config.patient.seed, "nihss"),
        config.case,
        volumes.get("hypoperfused", 0.0),
        volumes.get("core", 0.0),
    )
    info = {**ctp.info, "study": config.as_json(), "nihss": score}
    progress(steps, steps)
    return VirtualStudy(config, subject, ctp, ncct, cta, info)


def _centre_z_mm(coverage_mm: float) -> float:
    """A slab starts below the circle of Willis; a whole-head one reaches the vertex."""
    bottom = -25.0 if coverage_mm <= 100 else -25.0 - 0.75 * (coverage_mm - 100)
    return bottom + coverage_mm / 2


def _motion(rng: np.random.Generator) -> MotionSpec:
    """A quarter of the patients move, by 1-5 mm and 1-4 degrees."""
    moves = rng.random() < MOVING_SHARE
    kind = MOTIONS[int(rng.integers(len(MOTIONS)))]
    shift, turn = rng.normal(0, 1, 3), rng.normal(0, 1, 3)
    shift *= rng.uniform(1, 5) / np.linalg.norm(shift)
    turn *= rng.uniform(1, 4) / np.linalg.norm(turn)
    at = rng.uniform(0.2, 0.8)
    if not moves:
        return MotionSpec()
    x, y, z, a, b, c = (round(float(v), 3) for v in (*shift, *turn))
    return MotionSpec(kind, (x, y, z), (a, b, c), round(float(at), 3))


def _bolus(seed: int, protocol: protocols.Protocol | protocols.CtaProtocol) -> haemodynamics.Bolus:
    """The injection's bolus; the way through the veins and collaterals is the patient's own."""
    own = haemodynamics.draw_bolus(stream(seed, "blood"), None, None)
    return dataclasses.replace(own, **injection.bolus_from(protocol))
