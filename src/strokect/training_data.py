"""The data set of a training: the one that is given, that of the settings, or virtual patients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from strokect.training_settings import TrainingSettings, build_network, with_folder
from strokect.virtual import VirtualOptions, make_patients

#: Where virtual patients are put in the folder of a run.
COHORT = "cohort"


def with_data(
    settings: TrainingSettings,
    given: Path | None,
    out: Path,
    say: Callable[[str], None],
    listener: Callable[[str, int, int], None],
) -> TrainingSettings:
    """Settings with the folder of their data set.

    given : goes before that of the settings. Where there is neither and the settings say which
    virtual patients to make, these are made in ``out``/cohort; those that are there already stay.
    Raises ScanError, SettingsError for weights of the encoders that cannot be used.
    """
    settings = with_folder(settings, given)
    virtual = settings.data.virtual
    if settings.data.folder or virtual is None:
        return settings
    if settings.network.encoder_weights:  # a bad file is told of before long work, not after it
        network: Any = build_network(settings)
        network.load_encoder_weights(Path(settings.network.encoder_weights))
    root = out / COHORT
    say(f"{virtual.patients} virtual patients (seed {virtual.seed}, {virtual.size}) in {root}")
    options = VirtualOptions(n=virtual.patients, seed=virtual.seed, size=virtual.size)
    for done, _ in enumerate(make_patients(root, options, lambda stage, k, n: None), 1):
        listener("virtual patients", done, virtual.patients)
    return with_folder(settings, root)
