import json

import pytest

from strokect.core.errors import SettingsError
from strokect.settings import PerfusionSettings, load_settings


def load(tmp_path, content, **overrides):
    path = tmp_path / "mine.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return load_settings(path, **overrides)


def test_what_is_dumped_reads_back(tmp_path):
    changed = {"estimator": "osvd", "motion_correction": False, "tissue": {"smooth_mm": 0.0}}
    settings = load(tmp_path, changed)
    assert settings.tissue.smooth_mm == 0.0
    assert load(tmp_path, settings.model_dump(mode="json")) == settings
    assert settings != PerfusionSettings()


def test_the_command_line_outranks_the_file_and_none_does_not(tmp_path):
    content = {"estimator": "osvd", "rule": "mistar"}
    settings = load(tmp_path, content, estimator="ssvd", rule=None, motion_correction=False)
    assert (settings.estimator, settings.rule) == ("ssvd", "mistar")
    assert settings.motion_correction is False


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"estimater": "bsvd"}, ["'estimater'", "Did you mean 'estimator'"]),
        ({"motion": {"iteration": 3}}, ["'motion.iteration'", "Did you mean 'iterations'"]),
        ({"motion_correction": "yes"}, ["'motion_correction'", "found 'yes'"]),
        ({"inputs": {"n_voxels": 2.5}}, ["'inputs.n_voxels'", "found 2.5"]),
        ({"inputs": 3}, ["'inputs'"]),
        ({"estimator": "bsdv"}, ["'bsdv'", "Did you mean 'bsvd'"]),
        ({"denoising": {"sigma_mm": -1.0}}, ["denoising.sigma_mm", "negative"]),
        ({"deconvolution": {"threshold": 5.0}}, ["deconvolution.threshold", "below 1"]),
        ('{"denoising": {"sigma_mm": NaN}}', ["NaN is no number"]),
        ('{"denoising": {"sigma_mm": Infinity}}', ["Infinity is no number"]),
        ("estimator = bsvd", ["not JSON"]),
        ("[1]", ["no JSON object"]),
    ],
)
def test_wrong_settings_name_file_key_and_fix_on_one_line(tmp_path, content, words):
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, content)
    line = str(caught.value)
    assert all(word in line for word in [*words, "mine.json"]), line
    assert caught.value.fix
    assert "\n" not in line


def test_negative_hu_windows_are_allowed(tmp_path):
    assert load(tmp_path, {"motion": {"window_hu": [-50.0, 80.0]}}).motion.window_hu == (-50, 80)


def test_an_unknown_name_on_the_command_line_does_not_blame_the_file(tmp_path):
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, {}, estimator="bsdv")
    assert caught.value.where is None


@pytest.mark.parametrize("name", ["missing.json", "."])
def test_unreadable_files(tmp_path, name):
    with pytest.raises(SettingsError, match="cannot read"):
        load_settings(tmp_path / name)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(SettingsError, match="not UTF-8"):
        load_settings(tmp_path / "binary.json")


def test_part_of_a_block_keeps_the_other_defaults(tmp_path):
    path = tmp_path / "s.json"
    path.write_text('{"bayesian": {"n_mtt": 30}}')
    found = load_settings(path)
    assert found.bayesian.n_mtt == 30
    assert found.bayesian.noise_factor == PerfusionSettings().bayesian.noise_factor


def test_a_width_of_zero_is_refused(tmp_path):
    path = tmp_path / "s.json"
    path.write_text('{"denoising": {"window_z_mm": 0.0}}')
    with pytest.raises(SettingsError, match="above 0"):
        load_settings(path)
