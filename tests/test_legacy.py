"""Setting files of the source's systems: every key is moved, dropped with a note, or refused."""

import json
from pathlib import Path

import pytest

from strokect.core.errors import SettingsError
from strokect.core.json_files import read_json_object
from strokect.legacy import LegacyOptions, is_legacy, upgrade
from strokect.legacy.keys import _DROPPED, _READ
from strokect.training_settings import parse_training_settings

HERE = Path("old.json")
TESTS = ["01_001", "01_007", "02_001", "03_003"]


def old(model=None, **top):
    """An older file's content as the source wrote it; ``model`` and ``top`` change parts of it."""
    entry = {
        "name": "PMs_segmentation_NOBatch",
        "loss": "focal_tversky_loss",
        "metrics": ["squared_dice_coef", "f1_p"],
        "epochs": 7,
        "batch_size": 2,
        "steps_per_epoch_ratio": 1,
        "validation_steps_ratio": 1,
        "classes_to_evaluate": ["penumbra", "core"],
        "statistics": ["f1"],
        "val": {
            "validation_perc": 20,
            "number_patients_for_validation": 30,
            "number_patients_for_testing": 0,
            "random_validation_selection": 0,
        },
        "test_steps": 1,
        "optimizer": {
            "name": "Adam", "lr": 0.00001, "beta_1": 0.9, "beta_2": 0.999, "epsilon": "None",
            "decay": 0.0,
        },
        "params": {
            "trainable": 0,
            "gradual_finetuning_solution": {"type": "half"},
            "dropout": {"cbf.1": 0.25, "cbv.1": 0.25, "ttp.1": 0.25, "tmax.1": 0.25},
            "max_pool": {"long.1": 5},
            "stride": {"long.1": 5},
            "n_slices": 1,
            "regularizer": {"type": "l2", "l2": 1e-4},
            "kernel_init": "he_uniform",
            "reduce_dim": "None",
            "concatenate_input": 0,
            "inflate_network": 0,
            "convertImgToGray": 0,
        },
        "callbacks": {
            "ModelCheckpoint": {"monitor": "val_loss", "mode": "min", "period": 1},
            "EarlyStopping": {"monitor": "val_loss", "min_delta": 0.00001, "patience": 25},
            "ReduceLROnPlateau": {"monitor": "val_loss", "factor": 0.5, "patience": 9},
            "CollectBatchStats": {"acc": "squared_dice_coef"},
            "CSVLogger": {"filename": "logger.csv", "separator": ","},
            "TensorBoard": {"update_freq": "batch", "histogram_freq": 5},
        },
        "moreinfo": {"mip": 1, "nihss": 1, "age": 0, "gender": 1},
        "to_categ": 1,
        "save_images": 1,
        "save_statistics": 0,
        "use_background_in_statistics": 0,
        "calculate_ROC": 0,
        "data_augmentation": 1,
        "cross_validation": 0,
        "train_again": 0,
        "supervised": 1,
        "save_activation_filter": 0,
        "use_hickle": 0,
        "focal_tversky_loss": {"alpha": 0.6, "gamma": 1.2},
    }  # fmt: skip
    return {
        "EXPERIMENT": 100.8,
        "USE_SEQUENCE_TRAIN": 1,
        "root_path": "/home/me/stroke/",
        "dataset_path": "/data/tables/",
        "PATIENTS_TO_TRAINVAL": ["ALL"],
        "PATIENTS_TO_TEST": TESTS,
        "OVERRIDE_MODELS_ID_PATH": "",
        "init": {
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "per_process_gpu_memory_fraction": 1,
            "allow_growth": 1,
            "MULTIPROCESSING": 1,
            "NUMBER_OF_IMAGE_PER_SECTION": 30,
            "3D": 0,
            "ONE_TIME_POINT": -1,
        },
        "relative_paths": {
            "labeled_images": "/data/stroke/GT_TIFF/",
            "patients": "/data/stroke/Parametric_Maps/",
            "save": {
                "model": "MODELS/", "partial_model": "TMP/", "plot": "PLOTS/",
                "images": "IMAGES/", "text": "TEXT/", "intermediate_activation": "ACT/",
            },
        },
        "models": [entry | (model or {})],
    } | top  # fmt: skip


#: A network of the scan, with what only maps have left out.
SCAN = {"name": "mJNet_LongJ", "moreinfo": {}, "params": {"dropout": {"1": 0.25, "long.1": 0.35}}}


def new(content, **options):
    """The one new setting, checked by our schema."""
    done = upgrade(content, options=LegacyOptions(**options))
    (settings,) = done.settings
    return parse_training_settings(settings, HERE), done.notes


def refused(content, **options):
    with pytest.raises(SettingsError) as error:
        upgrade(content, options=LegacyOptions(**options))
    assert "\n" not in str(error.value)
    return str(error.value)


def paths(value, key=""):
    """Every key of a file that holds a value."""
    if isinstance(value, dict):
        return [k for n, v in value.items() for k in paths(v, f"{key}.{n}" if key else n)]
    if key == "models":
        return [k for n, v in enumerate(value) for k in paths(v, f"models[{n}]")]
    return [key]


def test_the_keys_land_where_they_belong():
    settings, _ = new(old())
    data, seen = settings.data, settings.input
    assert settings.name == "experiment_100.8"
    assert (data.folder, data.layout, data.split) == ("/data/stroke", "slices", "listed")
    assert data.layout_options == {"options": {"maps": "Parametric_Maps", "truth": "GT_TIFF"}}
    assert data.test_patients == tuple(TESTS) and data.train_patients == ()
    assert data.validation_patients == 30 and data.classes == 4
    assert seen.kind == "maps" and seen.maps == ("cbf", "cbv", "ttp", "tmax", "mip")
    assert seen.scores == ("nihss", "sex") and (seen.form, seen.source) == ("colour", "files")
    assert settings.network.name == "multi_input"
    assert settings.network.config == {"dropout": 0.25, "concatenate": False}
    assert settings.loss.name == "focal_tversky"
    assert (settings.loss.options.alpha, settings.loss.options.gamma) == (0.6, 1.2)
    made = settings.optimizer
    assert (made.name, made.lr, made.schedule, made.factor) == ("adam", 1e-5, "plateau", 0.5)
    assert (made.l1, made.l2, made.max_norm, made.patience) == (0, 1e-4, 2.0, 9)
    fit = settings.training
    assert (fit.epochs, fit.batch_size, fit.patience) == (7, 2, 25)
    assert settings.augment.rotate90_p > 0 and settings.augment.flip_x_p > 0
    assert settings.slab.tile is None and settings.tiling.tile is None


def test_every_key_of_a_file_has_a_note():
    """The longest file there is: nothing disappears without a word."""
    content = old(PATIENTS_TO_EXCLUDE=["01_002"], PATIENTS_TO_TRAINVAL=["01_003", "02_002"])
    _, notes = new(content)
    noted = {n.key for n in notes}
    for key in paths(content):
        assert any(key == n or key.startswith((f"{n}.", f"{n}[")) for n in noted), key
    assert all(n.text and n.action in ("moved", "dropped") for n in notes)
    assert len(notes) == len({(n.key, n.text) for n in notes})


def test_no_key_is_both_read_and_dropped():
    assert not set(_READ) & set(_DROPPED)


@pytest.mark.parametrize(
    ("params", "parts"),
    [
        ({"trainable": 1}, ["all"]),
        ({"trainable": 1, "gradual_finetuning_solution": {"type": "half"}}, ["all"]),
        ({"trainable": 0}, ["decoder"]),
        ({"trainable": "False"}, ["decoder"]),
        ({"trainable": 0, "gradual_finetuning_solution": {"type": "half"}},
         ["decoder", "half", "all"]),
        ({"trainable": 0, "gradual_finetuning_solution": {"type": "half", "only": "half"}},
         ["decoder", "half"]),
        ({"trainable": 0, "gradual_finetuning_solution": {"type": "full"}}, ["decoder", "all"]),
    ],
)  # fmt: skip
def test_stages_of_fine_tuning(params, parts):
    settings, _ = new(old({"params": params}))
    assert [s.train for s in settings.finetune] == parts
    later = settings.finetune[1:]
    assert all((s.lr, s.patience) == (1e-5, 25) for s in later)
    assert settings.finetune[0].lr is None  # the first stage learns at the file's own rate


@pytest.mark.parametrize(
    ("given", "network", "config"),
    [
        ("PMs_segmentation", "multi_input", {"norm": "batch"}),
        ("PMs_segmentation_MoreInfo_NOBatch", "multi_input", {}),
        ("mJNet_PM_NOBatch", "multi_input", {}),
        ("mJNet_NOBatch", "mjnet_2dt", {}),
        ("mJNet", "mjnet_2dt", {"norm": "batch"}),
        ("mJNet_LongJ", "mjnet_2dt", {"norm": "batch", "temporal": "blocks"}),
        ("mJNet_v3D", "mjnet_3dt", {"norm": "batch"}),
        ("mJNet_4D_Att", "mjnet_4d", {"norm": "batch", "attention": True}),
        ("Ronneberger_UNET", "unet", {}),
        ("VNet_light", "vnet", {}),
        ("TCN_NOBatch", "tcn", {}),
    ],
)
def test_networks_by_the_sources_names(given, network, config):
    bare = {"name": given, "moreinfo": {}, "params": {}}
    settings, _ = new(old(bare))
    assert settings.network.name == network
    found = {k: v for k, v in settings.network.config.items() if k != "concatenate"}
    assert found == config


def test_a_scan_is_seen_whole_in_time_and_cut_in_tiles():
    init = {"NUMBER_OF_IMAGE_PER_SECTION": 20, "3D": 1}
    settings, _ = new(old(SCAN | {"params": {"n_slices": 5}}, init=init), classes=3)
    assert settings.input.kind == "ctp" and settings.input.time_points == 20
    assert settings.network.name == "mjnet_3dt" and settings.network.config["n_slices"] == 5
    assert settings.slab.tile == settings.tiling.tile == (16, 16)  # the source's default
    names = settings.data.layout_options["options"]
    assert names["images"] == "Parametric_Maps" != names["maps"]  # ours call the maps so
    assert settings.data.classes == len(settings.slab.balance) == 3
    assert settings.finetune == ()


@pytest.mark.parametrize(
    ("tile", "dimension", "window"),
    [(64, 64, None), (64, 512, (64, 64)), (None, 128, None), (32, None, (32, 32))],
)
def test_tiles_of_the_command_line(tile, dimension, window):
    settings, _ = new(old(), tile=tile, dimension=dimension)
    assert settings.slab.tile == settings.tiling.tile == window
    assert settings.input.pixels == dimension


def test_dropout_that_differs_is_averaged_and_said():
    settings, notes = new(old(SCAN))
    assert settings.network.config["dropout"] == 0.3
    assert any("mean of 0.25 to 0.35" in n.text for n in notes)


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        ("focal_tversky_loss", "focal_tversky"), ("dice_coef_loss", "dice"),
        ("squared_dice_coef_loss", "squared_dice"), ("mod_dice_coef_loss", "squared_dice"),
        ("tversky_loss", "tversky"), ("tanimoto_with_dual_loss", "tanimoto"),
        ("weighted_categorical_cross_entropy", "cross_entropy"),
        ("categorical_crossentropy", "cross_entropy"), ("focal_loss", "focal"),
        ("cross_entropy_plus_dice_loss", "ce_dice"), ("CE_focal_tversky_loss", "ce_focal_tversky"),
    ],
)  # fmt: skip
def test_losses_by_the_sources_names(given, ours):
    assert new(old({"loss": given, "focal_tversky_loss": {}, given: {}}))[0].loss.name == ours


@pytest.mark.parametrize(
    ("asked", "maps", "scores"),
    [
        (None, ("cbf", "cbv", "ttp", "tmax"), ()),
        ({"mip": 0, "nihss": 1}, ("cbf", "cbv", "ttp", "tmax"), ("nihss",)),
        ({"cbf": 1, "cbv": 0, "mtt": True, "mip": "1", "age": 1}, ("cbf", "mtt", "mip"), ("age",)),
    ],
)
def test_which_maps_and_scores(asked, maps, scores):
    content = old({"multiInput": asked or {}})
    del content["models"][0]["moreinfo"]
    settings, _ = new(content)
    assert settings.input.maps == maps and settings.input.scores == scores


def test_groups_and_exclusions_are_resolved_with_the_data_set():
    people = ("01_001", "01_002", "01_003", "02_001", "02_002", "03_003")
    content = old(PATIENTS_TO_TRAINVAL=["ALL_01", "02_002"], PATIENTS_TO_EXCLUDE=["01_003"])
    assert "--data" in refused(content)
    content["PATIENTS_TO_TEST"] = ["01_001"]
    settings, _ = new(content, patients=people)
    assert settings.data.train_patients == ("01_002", "02_002")
    assert settings.data.test_patients == ("01_001",)
    content["PATIENTS_TO_TRAINVAL"] = ["ALL"]
    settings, _ = new(content, patients=people)
    assert settings.data.train_patients == ("01_002", "02_001", "02_002", "03_003")


def test_placeholders_name_nobody_and_no_folder():
    """Published files have "..." where the authors took something out."""
    where = {"labeled_images": "...", "patients": "..."}
    settings, notes = new(old(PATIENTS_TO_TEST=["..."], root_path="...", relative_paths=where))
    assert settings.data.folder == "" and settings.data.layout_options == {}
    assert settings.data.split == "given" and settings.data.test_patients == ()
    assert settings.data.fractions == (0.64, 0.16, 0.2)
    assert any("--data" in n.text for n in notes)


def test_relative_folders_lie_below_the_root():
    where = {"labeled_images": "PATIENTS/GT/", "patients": "PATIENTS\\MAPS\\FINAL"}
    settings, _ = new(old(relative_paths=where))
    assert settings.data.folder == "/home/me/stroke/PATIENTS"
    assert settings.data.layout_options == {"options": {"maps": "MAPS/FINAL", "truth": "GT"}}


def test_validation_by_share():
    val = {"validation_perc": 25, "random_validation_selection": 1,
           "number_patients_for_validation": 3}  # fmt: skip
    settings, _ = new(old({"val": val}))
    assert settings.data.validation_patients is None
    assert settings.data.fractions == (0.75, 0.25, 0.0)


def test_cross_validation_becomes_folds():
    content = old({"cross_validation": {"use": 1, "n_splits": 4}})
    assert "patients" in refused(content)  # two ways to say who tests
    content["PATIENTS_TO_TEST"] = []
    assert new(content)[0].data.folds == 4
    content["models"][0]["cross_validation"] = {"use": 0, "n_splits": 4}
    assert new(content)[0].data.folds is None


def test_several_models_become_several_settings():
    content = old()
    content["models"] = [*content["models"], old({"name": "mJNet_PM"})["models"][0]] * 2
    done = upgrade(content, options=LegacyOptions("run"))
    names = [s["name"] for s in done.settings]
    assert len(set(names)) == 4 and names[0].startswith("run_PMs_segmentation_NOBatch")
    keys = [n.key for n in done.notes]
    assert keys.count("EXPERIMENT") == 1 and "models[1].epochs" in keys


def test_names_hold_only_what_a_folder_may():
    settings, _ = new(old(), name="Model_G(PMs,M,N)")
    assert settings.name == "Model_G_PMs_M_N"


def test_keys_that_start_with_an_underscore_are_comments():
    _, notes = new(old({"_loss": "dice"}, _PATIENTS_TO_TEST=["x"]))
    assert {"_PATIENTS_TO_TEST", "models[0]._loss"} <= {n.key for n in notes}


@pytest.mark.parametrize(
    ("model", "top", "said"),
    [
        ({"epoch": 3}, {}, "'epochs'"),
        ({"optimizer": {"learnrate": 1}}, {}, "learning_rate"),
        ({"trainable": 0}, {}, "models.params"),
        ({"callbacks": {"EarlyStoping": {}}}, {}, "EarlyStopping"),
        ({}, {"PATIENT_TO_TEST": []}, "PATIENTS_TO_TEST"),
        ({"supervised": 0}, {}, "ground truth"),
        ({"to_categ": 0}, {}, "softmax"),
        ({"name": "van_De_Leemput"}, {}, "mjnet_2dt"),
        ({"name": "simple_autoencoder"}, {}, "ground truth"),
        ({"name": "mJNet_2D_with_VGG16"}, {}, "maps"),
        ({"name": "ResNet"}, {}, "PMs_segmentation"),
        ({"loss": "focal_tverski_loss"}, {}, "'focal_tversky'"),
        ({"focal_tversky_loss": {"delta": 1}}, {}, "alpha"),
        ({"optimizer": {"name": "RMSprop"}}, {}, "adam"),
        ({"optimizer": {"decay": 1e-6}}, {}, "cosine"),
        ({"optimizer": {"beta_1": 0.5}}, {}, "beta_1"),
        ({"optimizer": {"epsilon": 0.1}}, {}, "epsilon"),
        ({"optimizer": {"nesterov": "True"}}, {}, "Nesterov"),
        ({"optimizer": {"lr": "fast"}}, {}, "models[0].optimizer.lr"),
        ({"epochs": 2.5}, {}, "models[0].epochs"),
        ({"data_augmentation": 2}, {}, "0 or 1"),
        ({"params": {"n_slices": 3}}, {}, "one slice"),
        ({"params": {"dropout": {"1": 1.5}}}, {}, "below 1"),
        ({"params": {"inflate_network": 1}}, {}, "2D to 3D"),
        ({"params": {"trainable": 0, "gradual_finetuning_solution": {"type": "x"}}}, {}, "half"),
        ({"params": {"regularizer": "l7"}}, {}, "l1_l2"),
        ({"moreinfo": {"mip": 1}, "multiInput": {"mip": 1}}, {}, "twice"),
        ({"moreinfo": {"cbf": 0}}, {}, "no image"),
        (SCAN | {"moreinfo": {"nihss": 1}}, {}, "scan alone"),
        ({"callbacks": {"LearningRateScheduler": {"decay_step": 10}}}, {}, "cosine"),
        ({"val": {"validation_perc": 0, "random_validation_selection": 1}}, {}, "percent"),
        ({}, {"init": {"ONE_TIME_POINT": 3}}, "no perfusion"),
        ({}, {"init": {"3D": 1}}, "slice by slice"),
        ({}, {"OVERRIDE_MODELS_ID_PATH": "old/"}, "not read"),
        ({}, {"models": []}, "models"),
        ({}, {"PATIENTS_TO_TEST": ["ALL"]}, "nobody"),
        ({}, {"PATIENTS_TO_TEST": [], "PATIENTS_TO_TRAINVAL": ["01_001"]}, "PATIENTS_TO_TEST"),
        ({}, {"relative_paths": {"labeled_images": "/a/b", "patients": "/a/b"}}, "own folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_with_the_reason(model, top, said):
    assert said in refused(old(model, **top))


@pytest.mark.parametrize(("name", "pm"), [("mJNet", True), ("PMs_segmentation", False)])
def test_the_flag_for_maps_must_fit_the_network(name, pm):
    assert "-pm" in refused(old({"name": name, "moreinfo": {}, "params": {}}), pm=pm)


def test_old_and_new_files_are_told_apart():
    assert is_legacy(old()) and is_legacy({"EXPERIMENT": 1})
    assert not is_legacy({"name": "mine", "network": {"name": "mjnet_4d"}})


def test_an_upgraded_file_is_read_as_the_same(tmp_path):
    (content,) = upgrade(old()).settings
    path = tmp_path / "new.json"
    path.write_text(json.dumps(content))
    again = read_json_object(path, "{}")
    assert again == content and not is_legacy(again)
