"""A network with encoders trained in stages: what changes when, and where its weights start."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402

from strokect import training  # noqa: E402
from strokect.core.errors import ScanError  # noqa: E402
from strokect.core.mapset import MapSet  # noqa: E402
from strokect.io.datasets import SliceFolderOptions, write_map_slices  # noqa: E402
from strokect.learn.checkpoint import SafeCheckpointIO, module_weights  # noqa: E402
from strokect.learn.train import (  # noqa: E402
    Fitted,
    Machine,
    best_checkpoint,
    last_checkpoint,
    log_file,
)
from strokect.training import TrainingFolders, train  # noqa: E402
from strokect.training_settings import (  # noqa: E402
    build_network,
    parse_training_settings,
    with_folder,
)

WIDTH, MAPS = 4, ("cbf", "tmax")
SLICES = SliceFolderOptions()
STAGES = ("1-decoder", "2-half", "3-all")
#: A layer of one of the encoders: "encoders.<image>.vgg.layers.<place>.weight".
LAYER = re.compile(r"encoders\.\d+\.vgg\.layers\.(\d+)\.")
#: Of the 13 layers of each encoder, how many a stage leaves as they are.
FROZEN = {"1-decoder": 13, "2-half": 6, "3-all": 0}
#: Where torchvision has the convolutions of VGG-16, and their channels over those of the first.
PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
CHANNELS = (1, 1, 2, 2, 4, 4, 4, 8, 8, 8, 8, 8, 8)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Colour maps of four patients, in which the lesion shows: three train, one validates."""
    root = tmp_path_factory.mktemp("stages") / "data"
    shape = (2, 32, 32)
    grid = SLICES.grid(shape)
    rng = np.random.default_rng(0)
    brain = np.zeros(shape, bool)
    brain[:, 3:29, 3:29] = True
    rows = ["patient\tsplit\tnihss"]
    for number, split in enumerate(("train", "train", "train", "val"), 1):
        y, x = rng.integers(5, 12, 2)
        labels = brain.astype(np.uint8)
        labels[:, y : y + 14, x : x + 10] = 2
        labels[:, y + 3 : y + 9, x + 2 : x + 8] = 3
        noise = rng.normal(size=(2, *shape))
        maps = {
            "cbf": (np.array([0, 60, 35, 8])[labels] + 3 * noise[0]).astype(np.float32),
            "tmax": (np.array([0, 2, 8, 11])[labels] + 0.5 * noise[1]).astype(np.float32),
        }
        write_map_slices(root, f"01_{number:03d}", MapSet(grid, maps, brain), labels, SLICES)
        rows.append(f"01_{number:03d}\t{split}\t{5 * number}")
    (root / "clinical.tsv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture
def settings(data):
    """Gradual, two epochs a stage; a dictionary changes a block key by key."""

    def make(**changes):
        content = {
            "name": "mine",
            "data": {"classes": 3, "layout": "slices"},
            "input": {"kind": "maps", "source": "files", "maps": list(MAPS), "scores": ["nihss"]},
            "network": {"name": "multi_input", "config": {"width": WIDTH, "dropout": 0.1}},
            "finetune": [{"train": part, "epochs": 2} for part in ("decoder", "half", "all")],
            "slab": {"slices": 1, "per_case": 4},
            "augment": {"flip_x_p": 0.5, "clinical_drop_p": 0.2},
            # All that could move a weight without a gradient.
            "optimizer": {"name": "adamw", "lr": 0.01, "weight_decay": 0.1, "schedule": "none",
                          "l1": 1e-6, "l2": 1e-5, "max_norm": 1.0},
            "training": {"epochs": 2, "batch_size": 2},
        }  # fmt: skip
        for key, value in changes.items():
            content[key] = content[key] | value if isinstance(value, dict) else value
        return with_folder(parse_training_settings(content, Path("mine.json")), data)

    return make


def weights(model: Path) -> dict[str, torch.Tensor]:
    return load_file(model / "weights.safetensors")


def network_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    return module_weights(checkpoint, "network.")


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def rows(folder: Path) -> list[dict[str, str]]:
    with log_file(folder).open(newline="") as file:
        return list(csv.DictReader(file))


def score(folder: Path) -> float:
    """The best of a stage, from its log."""
    return max(float(row["val_dice"]) for row in rows(folder))


def vgg16_file(path: Path, seed: int = 0, **changes) -> dict[str, torch.Tensor]:
    """Random weights in torchvision's layout, of the width of these tests; returned, too."""
    generator = torch.Generator().manual_seed(seed)
    state, before = {}, 3
    for place, multiple in zip(PLACES, CHANNELS, strict=True):
        after = WIDTH * multiple
        scale = (2 / (9 * before)) ** 0.5
        state[f"features.{place}.weight"] = (
            torch.randn(after, before, 3, 3, generator=generator) * scale
        )
        state[f"features.{place}.bias"] = 0.1 * torch.randn(after, generator=generator)
        before = after
    save_file(state | {"classifier.0.weight": torch.zeros(2, 2)} | changes, path)
    return state


def encoder_weights(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What each encoder has where the weights are those of the file."""
    return {
        f"encoders.{image}.vgg.layers.{n}.{kind}": state[f"features.{place}.{kind}"]
        for image in range(len(MAPS))
        for n, place in enumerate(PLACES)
        for kind in ("weight", "bias")
    }


class Whole:
    """A gradual training without a break, what it said and the epochs it told of."""

    def __init__(self, settings, out: Path, cache: Path):
        self.out, self.said, self.epochs = out, [], []
        self.model = train(
            settings, TrainingFolders(out, cache), say=self.said.append,
            on_epoch=lambda epoch, epochs, metrics: self.epochs.append((epoch, epochs)),
        )  # fmt: skip

    def stage(self, name: str) -> Path:
        return self.out / "stages" / name


@pytest.fixture
def gradual(request, settings, prepared, tmp_path_factory):
    """One for all tests of the module: they only look at it."""
    kept = request.config.stash
    if _WHOLE not in kept:
        kept[_WHOLE] = Whole(settings(), tmp_path_factory.mktemp("whole") / "run", prepared)
    return kept[_WHOLE]


_WHOLE = pytest.StashKey[Whole]()


class TestGradual:
    def test_folders_and_what_is_said(self, gradual):
        assert [p.name for p in sorted((gradual.out / "stages").iterdir())] == list(STAGES)
        assert not (gradual.out / "checkpoints").exists()
        assert gradual.epochs == [(1, 2), (2, 2)] * 3
        assert gradual.said == [
            "mine: encoders start from random weights (no network.encoder_weights)",
            "mine: stage 1 of 3, training decoder",
            "mine: stage 2 of 3, training half",
            "mine: stage 3 of 3, training all",
        ]
        for name in STAGES:
            assert [row["epoch"] for row in rows(gradual.stage(name))] == ["1", "2"]

    def test_each_stage_changes_its_part_alone(self, gradual, settings):
        start = build_network(settings()).state_dict()
        for name in STAGES:
            end = network_of(last_checkpoint(gradual.stage(name)))
            assert end.keys() == start.keys()
            for key, before in start.items():
                layer = LAYER.match(key)
                frozen = layer is not None and int(layer[1]) < FROZEN[name]
                # A bias without any gradient may stay as it is: penalties leave it alone.
                if frozen or not key.endswith("bias"):
                    assert torch.equal(end[key], before) is frozen, (name, key)
            # Each stage goes on from the best weights of the last one.
            start = network_of(best_checkpoint(gradual.stage(name)))

    def test_the_model_is_that_of_the_best_stage(self, gradual):
        scores = [score(gradual.stage(name)) for name in STAGES]
        assert max(scores) > 0.2, "else nothing is learnt, and all stages are alike"
        best = STAGES[int(np.argmax(scores))]
        assert same(weights(gradual.model), network_of(best_checkpoint(gradual.stage(best))))

    def test_a_stage_that_only_harms_is_not_taken(self, gradual, settings, prepared, tmp_path):
        stages = [*settings().model_dump()["finetune"][:2], {"train": "all", "lr": 3.0}]
        bad = Whole(settings(finetune=stages), tmp_path / "run", prepared)
        scores = [score(bad.stage(name)) for name in STAGES]
        assert scores[2] < max(scores[:2])
        best = STAGES[int(np.argmax(scores))]
        assert same(weights(bad.model), network_of(best_checkpoint(bad.stage(best))))
        # What came before it is what it always is.
        for name in STAGES[:2]:
            one, other = (network_of(best_checkpoint(w.stage(name))) for w in (bad, gradual))
            assert same(one, other)

    def test_each_stage_begins_with_the_best_of_the_one_before(
        self, settings, tmp_path, monkeypatch
    ):
        """Not with its last weights, nor with the best of all."""
        began = []

        def fit(module, samples, volumes, options, folder, **more):
            number, network = len(began) + 1, module.network
            began.append(float(network.head.bias[0].detach()))
            for value in (number, 100 * number):  # of the best epoch, of the last one
                torch.nn.init.constant_(network.head.bias, value)
                if value == number:
                    state = {f"network.{k}": v.clone() for k, v in network.state_dict().items()}
            path = best_checkpoint(folder)
            SafeCheckpointIO().save_checkpoint({"state_dict": state}, path)
            return Fitted(path, (0.5, 0.7, 0.6)[number - 1])

        monkeypatch.setattr(training, "fit", fit)
        model = train(settings(), TrainingFolders(tmp_path / "run"))
        assert began[1:] == [1, 2]
        assert float(weights(model)["head.bias"][0]) == 2

    def test_lr_and_epochs_of_a_stage_are_its_own(self, settings, prepared, tmp_path):
        stages = [
            {"train": "decoder", "epochs": 3, "lr": 0.002, "patience": 1},
            {"train": "all", "epochs": 1},
        ]
        found = settings(
            finetune=stages, optimizer={"lr_min": 0.005}, training={"validate_every": 2}
        )
        done = Whole(found, tmp_path / "run", prepared)
        assert done.epochs[-1] == (1, 1)
        first, second = (rows(done.stage(name)) for name in ("1-decoder", "2-all"))
        assert {float(row["lr"]) for row in first} == {0.002}
        assert {float(row["lr"]) for row in second} == {0.01}


class Killed(BaseException):
    """Ends a training as a signal would."""


class TestBrokenOff:
    @pytest.mark.parametrize("epochs_done", [0, 1], ids=["first_epoch", "second_epoch"])
    def test_in_the_second_stage(self, gradual, settings, prepared, tmp_path, epochs_done):
        out, stage = tmp_path / "run", []

        def step(done, total):  # called with steps of the stage; an epoch has half of them
            if stage and "stage 2" in stage[-1] and done > epochs_done * total // 2 + 1:
                raise Killed

        folders = TrainingFolders(out, prepared)
        with pytest.raises(Killed):
            train(settings(), folders, progress=step, say=stage.append)
        assert last_checkpoint(out / "stages" / "2-half").exists() is (epochs_done > 0)
        assert not (out / "model").exists() and not (out / "stages" / "3-all").exists()
        before = {p: p.stat().st_mtime_ns for p in (out / "stages/1-decoder").rglob("*.safe*")}
        told = []
        model = train(settings(), folders, resume=True, on_epoch=lambda n, all_, m: told.append(n))
        assert told == [*range(epochs_done + 1, 3), 1, 2], "the first stage is not trained again"
        assert {p: p.stat().st_mtime_ns for p in before} == before
        assert same(weights(model), weights(gradual.model))
        for name in STAGES:
            for place in (best_checkpoint, last_checkpoint):
                one, other = (network_of(place(w / "stages" / name)) for w in (out, gradual.out))
                assert same(one, other), (name, place)

    def test_after_a_stage_that_ran_out_of_patience(self, settings, prepared, tmp_path):
        """Its further epochs are not made up for when the training goes on."""
        stages = [{"train": "decoder", "epochs": 5, "lr": 1e-9, "patience": 1},
                  {"train": "all", "epochs": 2}]  # fmt: skip
        found = settings(finetune=stages, optimizer={"max_norm": None})
        folders = TrainingFolders(tmp_path / "run", prepared)

        def stop(epoch, epochs, metrics):
            if epochs == 2:
                raise Killed

        with pytest.raises(Killed):
            train(found, folders, on_epoch=stop)
        first = folders.out / "stages" / "1-decoder"
        assert len(rows(first)) == 2
        told = []
        train(found, folders, resume=True, on_epoch=lambda n, all_, m: told.append((n, all_)))
        assert told == [(2, 2)]
        assert len(rows(first)) == 2

    def test_a_finished_training_is_left_alone(self, gradual, settings, prepared):
        before = {p: p.stat().st_mtime_ns for p in gradual.out.rglob("*")}
        told = []
        model = train(
            settings(), TrainingFolders(gradual.out, prepared), resume=True,
            on_epoch=lambda *epoch: told.append(epoch), say=told.append,
        )  # fmt: skip
        assert (model, told) == (gradual.model, [])
        assert {p: p.stat().st_mtime_ns for p in gradual.out.rglob("*")} == before

    def test_other_stages_are_other_settings(self, gradual, settings):
        found = settings(finetune=[{"train": "decoder"}, {"train": "all"}])
        with pytest.raises(training.OutputExistsError, match="finetune"):
            train(found, TrainingFolders(gradual.out), resume=True)


class TestStartOfTheEncoders:
    def test_frozen_they_end_as_the_file_has_them(self, settings, prepared, tmp_path):
        path, said = tmp_path / "vgg16.safetensors", []
        start = encoder_weights(vgg16_file(path))
        found = settings(
            network={"encoder_weights": str(path)}, finetune=[{"train": "decoder"}],
            training={"epochs": 1},
        )  # fmt: skip
        out = tmp_path / "run"
        model = train(found, TrainingFolders(out, prepared), say=said.append)
        end = weights(model)
        assert same({k: end[k] for k in start}, start)
        assert said[0] == "mine: encoders start from the weights in vgg16.safetensors"
        assert str(tmp_path) not in (model / "settings.json").read_text()
        fresh = build_network(found).state_dict()
        assert not any(torch.equal(fresh[k], start[k]) for k in start)

    def test_all_are_trained_from_the_file_on(self, settings, prepared, tmp_path):
        """Its layers go on from there: a step of a tiny rate leaves them near."""
        path = tmp_path / "vgg16.safetensors"
        start = encoder_weights(vgg16_file(path, seed=1))
        found = settings(
            network={"encoder_weights": str(path)}, finetune=[],
            optimizer={"lr": 1e-6, "max_norm": None}, training={"epochs": 1},
        )  # fmt: skip
        end = weights(train(found, TrainingFolders(tmp_path / "run", prepared)))
        for key, value in start.items():
            torch.testing.assert_close(end[key], value, rtol=0, atol=1e-4)
        assert not all(torch.equal(end[k], v) for k, v in start.items())
        assert not (tmp_path / "run" / "stages").exists()

    def test_a_bad_file_leaves_nothing_behind(self, settings, prepared, tmp_path):
        path = tmp_path / "vgg16.safetensors"
        found = settings(network={"encoder_weights": str(path)})
        out = tmp_path / "run"
        with pytest.raises(ScanError, match="no such file"):
            train(found, TrainingFolders(out, prepared))
        assert not out.exists()
        vgg16_file(path, **{"features.5.bias": torch.zeros(3)})
        with pytest.raises(ScanError, match=r"features\.5\.bias"):
            train(found, TrainingFolders(out, prepared))
        vgg16_file(path)  # once it is mended, the same command works
        assert train(found, TrainingFolders(out, prepared)).exists()

    def test_a_network_without_encoders(self, settings, prepared, tmp_path):
        found = settings(
            input={"scores": []}, finetune=[],
            network={"name": "unet", "config": {"width": 2, "depth": 2}},
            training={"epochs": 1},
        )  # fmt: skip
        said = []
        train(found, TrainingFolders(tmp_path / "run", prepared), say=said.append)
        assert said == []


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="is about processes without GPUs")
def test_two_processes_train_the_stages_as_one_does(settings, prepared, tmp_path, monkeypatch):
    """But for dropout, of which each process draws its own."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = settings(
        network={"config": {"width": WIDTH, "dropout": 0.0}},
        optimizer={"name": "sgd", "lr": 0.05},  # Adam makes steps of rounding where nothing pulls
    )
    alone = Whole(found, tmp_path / "one", prepared)
    out, said = tmp_path / "run", []
    model = train(found, TrainingFolders(out, prepared), Machine(2), say=said.append)
    assert said == alone.said
    for name in STAGES:
        for row, expected in zip(rows(out / "stages" / name), rows(alone.stage(name)), strict=True):
            for key in ("train_loss", "val_dice"):
                assert float(row[key]) == pytest.approx(float(expected[key]), rel=1e-4), key
    one, other = weights(alone.model), weights(model)
    assert one.keys() == other.keys()
    for key, value in one.items():
        torch.testing.assert_close(other[key], value, rtol=1e-3, atol=1e-4)
