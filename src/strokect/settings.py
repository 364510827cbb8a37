"""Settings of the perfusion analysis: strict, with every option named and documented."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from strokect.core.errors import SettingsError
from strokect.perfusion.convolution import BloodConstants
from strokect.perfusion.deconvolution import DeconvolutionOptions
from strokect.perfusion.denoise import DenoiseOptions
from strokect.perfusion.inputs import InputOptions
from strokect.perfusion.motion import MotionOptions
from strokect.perfusion.tissue import TissueOptions


class PerfusionSettings(BaseModel):
    """How a CT perfusion scan is analysed. Names are those of ``catalog``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    estimator: str = "bsvd"
    denoise: str = "gaussian"
    rule: str = "rapid"
    motion_correction: bool = True
    blood: BloodConstants = BloodConstants()
    deconvolution: DeconvolutionOptions = DeconvolutionOptions()
    denoising: DenoiseOptions = DenoiseOptions()
    inputs: InputOptions = InputOptions()
    motion: MotionOptions = MotionOptions()
    tissue: TissueOptions = TissueOptions()


def load_settings(path: Path | None, **overrides: Any) -> PerfusionSettings:
    """Settings from a JSON file (or the defaults) with overrides; None overrides nothing.

    Raises SettingsError that names the file, the key and what is wrong with it.
    """
    try:
        text = "{}" if path is None else path.read_text()
        settings = PerfusionSettings.model_validate_json(text)
        given = {k: v for k, v in overrides.items() if v is not None}
        return PerfusionSettings.model_validate(settings.model_dump() | given)
    except OSError as error:
        raise SettingsError(f"cannot read the settings ({error.strerror})", path) from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(k) for k in first["loc"])
        raise SettingsError(
            f"setting {key!r}: {first['msg']}" if key else first["msg"], path
        ) from error
