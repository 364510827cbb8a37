"""Settings of the perfusion analysis: strict, with every option named and documented."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from strokect import catalog
from strokect.core.errors import SettingsError
from strokect.core.json_files import read_json_object
from strokect.perfusion.bayes import BayesOptions
from strokect.perfusion.convolution import BloodConstants
from strokect.perfusion.deconvolution import DeconvolutionOptions
from strokect.perfusion.denoise import DenoiseOptions
from strokect.perfusion.inputs import InputOptions
from strokect.perfusion.motion import MotionOptions
from strokect.perfusion.nlr import NlrOptions
from strokect.perfusion.tikhonov import TikhonovOptions
from strokect.perfusion.tissue import TissueOptions

#: Settings that may be negative.
_SIGNED = ("motion.window_hu", "bayesian.delay_s", "regression.delay_s")
#: Settings that are shares: below 1.
_SHARES = (
    "blood.haematocrit_large",
    "blood.haematocrit_small",
    "deconvolution.threshold",
    "bayesian.min_shape",
)
#: Settings that cannot be 0: widths, ranges and steps.
_POSITIVE = (
    "denoising.", "bayesian.mtt_s", "bayesian.n_mtt", "bayesian.delay_step_s", "bayesian.prior",
    "bayesian.noise", "blood.density", "motion.point_mm", "motion.smooth_mm", "motion.prior",
)  # fmt: skip
#: Which table of the catalog a setting takes its name from.
_NAMES = {"estimator": "estimators", "denoise": "denoisers", "rule": "rules"}


#: Curves are denoised before they are fitted; 1.5 calibrates the probability of hypoperfusion and
#: serves the core best on virtual patients (docs/results.md).
DENOISED = BayesOptions(noise_factor=1.5)


class PerfusionSettings(BaseModel):
    """How a CT perfusion scan is analysed. Names are those of ``catalog``."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    estimator: str = "bayes"
    denoise: str = "nonlocal"
    rule: str = "rapid"
    motion_correction: bool = True
    blood: BloodConstants = BloodConstants()
    deconvolution: DeconvolutionOptions = DeconvolutionOptions()
    tikhonov: TikhonovOptions = TikhonovOptions()
    regression: NlrOptions = NlrOptions()
    bayesian: BayesOptions = DENOISED
    denoising: DenoiseOptions = DenoiseOptions()
    inputs: InputOptions = InputOptions()
    motion: MotionOptions = MotionOptions()
    tissue: TissueOptions = TissueOptions()

    @model_validator(mode="after")
    def _numbers_make_sense(self) -> PerfusionSettings:
        for key, value in _numbers("", self.model_dump()):
            name = key.split("[")[0]
            if not math.isfinite(value):
                raise ValueError(f"{key} is {value}; give a number")
            if value < 0 and name not in _SIGNED:
                raise ValueError(f"{key} is {value:g}; it cannot be negative")
            if value == 0 and name.startswith(_POSITIVE):
                raise ValueError(f"{key} is 0; it must be above 0")
            if value >= 1 and name in _SHARES:
                raise ValueError(f"{key} is {value:g}; it is a share, below 1")
        return self


def load_settings(path: Path | None, **overrides: Any) -> PerfusionSettings:
    """Settings from a JSON file (or the defaults) with overrides; None overrides nothing.

    Raises SettingsError that names the file, the key and what is wrong with it.
    """
    content = {} if path is None else read_json_object(path, '{"estimator": "bsvd"}')
    given = {k: v for k, v in overrides.items() if v is not None}
    # A file that gives part of a block keeps our defaults for the rest of it.
    for key, ours in PerfusionSettings().model_dump(mode="json").items():
        if isinstance(ours, dict) and isinstance(content.get(key), dict):
            content[key] = ours | content[key]
    try:
        settings = PerfusionSettings.model_validate_json(json.dumps(content | given))
    except ValidationError as error:
        raise in_one_line(error, PerfusionSettings().model_dump(mode="json"), path) from error
    for key, table in _NAMES.items():
        try:
            catalog.load(table, getattr(settings, key))
        except SettingsError as error:
            raise SettingsError(error.what, None if key in given else path, error.fix) from error
    return settings


def _numbers(key: str, value: Any) -> Iterator[tuple[str, float]]:
    """Every number in nested settings with its key, e.g. "motion.window_hu[0]"."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _numbers(f"{key}.{name}" if key else name, inner)
    elif isinstance(value, list | tuple):
        for n, inner in enumerate(value):
            yield from _numbers(f"{key}[{n}]", inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield key, value


def in_one_line(
    error: ValidationError,
    known: Mapping[str, Any],
    path: Path | None,
    tag: tuple[str, str] = ("", ""),
) -> SettingsError:
    """The first complaint of pydantic, with the key and, for an unknown one, the nearest.

    known : the settings as a whole, with every key there is. tag : key of a choice between kinds,
    and the kind, which pydantic names after it though no file does.
    """
    first = error.errors()[0]
    places = [str(part) for part in first["loc"]] or [""]
    if tuple(places[:2]) == tag:
        del places[1]
    *parents, last = places
    key = ".".join([*parents, last])
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        for parent in parents:
            known = known[parent]
        near = difflib.get_close_matches(last, known, 1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        return SettingsError(f"unknown setting {key!r}", path, f"{hint}Known: {', '.join(known)}")
    message = first["msg"].removeprefix("Value error, ")
    found = f"setting {key!r}: {message}, found {first['input']!r}" if key else message
    return SettingsError(found, path, "Correct the setting")
