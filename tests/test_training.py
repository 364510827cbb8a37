"""What a training checks before it begins, and what it costs to begin with many patients."""

import gc
import json
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from strokect import training, training_patients  # noqa: E402
from strokect.core.errors import InputError, OutputExistsError, SettingsError  # noqa: E402
from strokect.io import datasets, nifti  # noqa: E402
from strokect.io.layouts import OwnLayout  # noqa: E402
from strokect.learn.cache import Example  # noqa: E402
from strokect.learn.data import EpochSampler  # noqa: E402
from strokect.network_input import CaseLoader  # noqa: E402
from strokect.training import TrainingFolders, train  # noqa: E402
from strokect.training_patients import check_patients, find_patients, split_table  # noqa: E402
from strokect.training_settings import (  # noqa: E402
    build_network,
    parse_training_settings,
    with_folder,
)

MASKS = ("brain", "penumbra", "core")


def settings(folder: Path, **changes):
    content = {
        "name": "mine",
        "data": {"classes": 3},
        "input": {"time_points": 4},
        "network": {"name": "mjnet_2dt", "config": {"width": 2, "depth": 2}},
        "slab": {"tile": [16, 16]},
        "training": {"epochs": 2},
    }
    for key, value in changes.items():
        content[key] = content.get(key, {}) | value
    return with_folder(parse_training_settings(content, Path("mine.json")), folder)


def index(root: Path, splits: list[str]) -> Path:
    """A data set of empty files: its names are all there is to it."""
    rows = ["participant_id\tgroup\tsplit"]
    for k, split in enumerate(splits, 1):
        layout = OwnLayout(root, f"{k:04d}")
        for path in (layout.scan("ctp"), *map(layout.truth_mask, MASKS)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        rows.append(f"sub-{k:04d}\t{('LVO', 'non-LVO', 'WIS')[k % 3]}\t{split}")
    (root / "participants.tsv").write_text("\n".join(rows) + "\n")
    return root


def refused(found, out: Path, *words: str, resume: bool = False) -> None:
    with pytest.raises(InputError) as caught:
        train(found, TrainingFolders(out), resume=resume)
    for word in words:
        assert word in str(caught.value), caught.value


class TestParts:
    def test_given(self, tmp_path):
        root = index(tmp_path, ["train", "val", "test", "train"])
        found = find_patients(settings(root))
        assert [c.patient for c in found.of("train")] == ["sub-0001", "sub-0004"]
        assert [c.patient for c in found.of("test")] == ["sub-0003"]

    def test_a_split_that_leaves_a_patient_out_is_no_split(self, tmp_path):
        """Sharing out at random then could train on a patient who is meant to test."""
        root = index(tmp_path, ["train", "n/a", "test", "train"])
        with pytest.raises(SettingsError, match=r"none for sub-0002.*random"):
            find_patients(settings(root))
        drawn = find_patients(settings(root, data={"split": "random"}))
        assert set(drawn.parts.values()) <= {"train", "val", "test"}

    def test_none_given_is_random(self, tmp_path):
        root = index(tmp_path, ["n/a"] * 30)
        parts = find_patients(settings(root)).parts
        assert sorted(set(parts.values())) == ["test", "train", "val"]
        other = find_patients(settings(root, data={"seed": 1})).parts
        assert other != parts

    def test_folds(self, tmp_path):
        root = index(tmp_path, ["train"] * 9)
        tests = [
            {c.name for c in find_patients(settings(root, data={"folds": 3, "fold": k})).of("test")}
            for k in range(3)
        ]
        assert len(set.union(*tests)) == sum(map(len, tests)) == 9

    @pytest.mark.parametrize("lacking", ["train", "val"])
    def test_no_patients(self, tmp_path, lacking):
        root = index(tmp_path / "data", ["val" if lacking == "train" else "train"] * 3)
        refused(settings(root), tmp_path / "out", f"no patients in the part {lacking!r}")
        assert not (tmp_path / "out").exists()


class TestListed:
    """Patients that the settings list, by their ids or the ends of these."""

    @pytest.fixture
    def root(self, tmp_path):
        return index(tmp_path, ["train"] * 12)

    def parts(self, root, **data):
        patients = find_patients(settings(root, data={"split": "listed", **data}))
        return {p: {c.patient for c in patients.of(p)} for p in ("train", "val", "test")}

    def test_the_listed_test_and_the_others_learn(self, root):
        parts = self.parts(root, test_patients=["sub-0003", "0011"])
        assert parts["test"] == {"sub-0003", "sub-0011"}
        assert len(parts["train"]) + len(parts["val"]) == 10
        assert not parts["train"] & parts["val"] and len(parts["val"]) in (2, 3)  # 0.2 of 0.8

    @pytest.mark.parametrize("count", [1, 3, 5, 9])
    def test_so_many_validate(self, root, count):
        parts = self.parts(root, test_patients=["0003", "0011"], validation_patients=count)
        assert (len(parts["train"]), len(parts["val"])) == (10 - count, count)
        again = self.parts(root, test_patients=["0011", "0003"], validation_patients=count)
        assert parts == again

    def test_the_listed_learn_and_the_rest_is_left_out(self, root):
        learn = [f"{n:04d}" for n in range(1, 7)]
        parts = self.parts(
            root, train_patients=learn, test_patients=["0012"], validation_patients=2
        )
        assert parts["train"] | parts["val"] == {f"sub-{n}" for n in learn}
        assert len(parts["val"]) == 2 and parts["test"] == {"sub-0012"}
        # A patient who is in both lists tests, and never trains.
        both = self.parts(root, train_patients=learn, test_patients=["0001"])
        assert both["test"] == {"sub-0001"} and "sub-0001" not in both["train"] | both["val"]

    def test_none_listed_tests_none(self, root):
        parts = self.parts(root, validation_patients=3)
        assert (len(parts["train"]), len(parts["val"]), parts["test"]) == (9, 3, set())

    def test_each_group_validates_alike(self, root):
        """4 of LVO, non-LVO and WIS each."""
        found = find_patients(settings(root, data={"split": "listed", "validation_patients": 6}))
        groups = [c.group for c in found.of("val")]
        assert sorted(groups) == sorted(["LVO", "non-LVO", "WIS"] * 2)

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            ({"test_patients": ["0099"]}, "no patient is called '0099'"),
            ({"train_patients": ["sub-01"]}, "no patient is called 'sub-01'"),
            ({"test_patients": ["1"]}, "2 patients are called '1'"),  # 0001 and 0011
            ({"validation_patients": 12}, "12 of 12 patients to validate"),
            ({"fractions": [0.0, 0.0, 1.0]}, "data.fractions"),
        ],
    )
    def test_lists_that_cannot_be_are_told(self, root, data, words):
        with pytest.raises(SettingsError, match=words):
            self.parts(root, **data)

    def test_a_whole_id_goes_before_the_end_of_another(self, tmp_path):
        patients = dict.fromkeys(("002", "A002", "B01"), "")
        found = training_patients._named(["002", "01"], patients, settings(tmp_path))
        assert found == {"002", "B01"}


class TestTruth:
    @pytest.mark.parametrize("name", MASKS)
    def test_a_missing_mask_is_named_before_anything_is_made(self, tmp_path, name):
        root = index(tmp_path / "data", ["train", "train", "val"])
        gone = OwnLayout(root, "0002").truth_mask(name)
        gone.unlink()
        refused(settings(root), tmp_path / "out", str(gone))
        assert not (tmp_path / "out").exists()

    def test_a_patient_without_truth(self, tmp_path):
        root = index(tmp_path / "data", ["train", "train", "val"])
        folder = OwnLayout(root, "0003").truth_folder
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        refused(settings(root), tmp_path / "out", "sub-0003")

    def test_the_truth_of_test_patients_is_not_needed(self, tmp_path):
        root = index(tmp_path / "data", ["train", "val", "test"])
        OwnLayout(root, "0003").truth_mask("core").unlink()
        check_patients(find_patients(settings(root)), settings(root))


class TestFolder:
    """Which folders a training may go into."""

    @pytest.fixture
    def root(self, tmp_path):
        return index(tmp_path / "data", ["train", "train", "val"])

    def stands(self, out: Path, found, finished: bool) -> None:
        (out / "checkpoints").mkdir(parents=True)
        (out / "checkpoints" / "last.safetensors").touch()
        (out / "settings.json").write_text(training.settings_text(found))
        (out / "split.tsv").write_text(split_table(find_patients(found)))
        if finished:
            (out / "model").mkdir()
            (out / "model" / "summary.json").write_text("{}")

    def test_other_things(self, root, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.txt").touch()
        for resume in (False, True):
            refused(settings(root), tmp_path / "out", "not empty", resume=resume)
        refused(settings(root), tmp_path / "out" / "thesis.txt", "a file stands")

    def test_a_run(self, root, tmp_path):
        self.stands(tmp_path / "out", settings(root), finished=False)
        refused(settings(root), tmp_path / "out", "--resume")

    def test_a_finished_run(self, root, tmp_path):
        out = tmp_path / "out"
        self.stands(out, settings(root), finished=True)
        refused(settings(root), out, "finished", str(out / "model"))
        assert train(settings(root), TrainingFolders(out), resume=True) == out / "model"

    @pytest.mark.parametrize("finished", [False, True])
    def test_other_settings_are_named(self, root, tmp_path, finished):
        self.stands(tmp_path / "out", settings(root), finished)
        other = settings(
            root,
            loss={"options": {"gamma": 2.0}},
            network={"name": "tcn", "config": {"width": 4}},
            training={"epochs": 3, "patience": 1, "workers": 2},
        )
        words = (
            "(network.name, network.config.width, network.config.depth, loss.options.gamma, "
            "training.epochs)"
        )
        refused(other, tmp_path / "out", words, resume=True)

    def test_what_may_differ(self, root, tmp_path):
        one = settings(root)
        other = settings(tmp_path, training={"patience": 1, "workers": 2})
        assert training._differences(one, other) == []

    def test_settings_survive_the_file(self, root):
        """One third and its like have no short decimals: a resumed training compares them."""
        found = settings(root, optimizer={"lr": 1 / 3}, loss={"options": {"gamma": 4 / 3}})
        again = parse_training_settings(json.loads(training.settings_text(found)), Path("x"))
        assert training._differences(again, found) == []
        assert again == found

    def test_other_patients(self, root, tmp_path):
        self.stands(tmp_path / "out", settings(root), finished=False)
        index(root, ["train", "val", "val"])
        refused(settings(root), tmp_path / "out", "other patients", resume=True)

    def test_broken_off_in_the_first_epoch(self, root, tmp_path):
        self.stands(tmp_path / "out", settings(root), finished=False)
        (tmp_path / "out" / "checkpoints" / "last.safetensors").unlink()
        for resume in (False, True):  # nothing is lost
            found = settings(root, training={"epochs": 9})
            training._check_folder(tmp_path / "out", found, find_patients(found), resume)

    def test_another_layout(self, root, tmp_path):
        refused(settings(root, data={"layout": "isles18", "classes": 2}), tmp_path / "out", "'own'")

    def test_classes_that_the_truth_lacks(self, root, tmp_path):
        refused(settings(root, data={"layout": "isles18"}), tmp_path / "out", "3 classes", "2")

    def test_no_data(self, tmp_path):
        found = settings(tmp_path)
        data = found.data.model_copy(update={"folder": ""})
        none = found.model_copy(update={"data": data})
        refused(none, tmp_path / "out", "no data set", "--data")
        refused(settings(tmp_path / "nowhere"), tmp_path / "out", "no such folder", "nowhere")


@pytest.fixture(scope="module")
def thousand(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("thousand")
    return index(root, ["train"] * 700 + ["val"] * 100 + ["test"] * 200)


class TestThousand:
    """A thousand patients: only names are looked at until a scan is needed."""

    def test_begins_in_seconds_and_opens_no_scan(self, thousand, tmp_path, monkeypatch):
        opened = []
        for name in ("read_ctp", "read_volume"):
            monkeypatch.setattr(nifti, name, lambda path, *rest, **more: opened.append(path))
        began = time.monotonic()
        tracemalloc.start()
        found = settings(thousand)
        patients = find_patients(found)
        check_patients(patients, found)
        _, samples, volumes = training._learning(found, build_network(found), patients, tmp_path)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert (len(samples), len(volumes)) == (700, 100)
        assert opened == []
        assert time.monotonic() - began < 5  # measured 0.3 s
        assert held < 10e6

    def test_memory_does_not_grow_over_an_epoch(self, thousand, tmp_path, monkeypatch):
        prepared = []

        def prepare(self, case):
            prepared.append(case.name)
            shape = (3, 128, 128)
            image = np.zeros((1, 4, *shape), np.float32)
            return Example(image, np.zeros(shape, np.uint8), np.ones(shape, bool))

        monkeypatch.setattr(CaseLoader, "_prepare", prepare)
        found = settings(thousand)
        _, samples, _ = training._learning(
            found, build_network(found), find_patients(found), tmp_path
        )
        keys = iter(EpochSampler(len(samples), 0))
        tracemalloc.start()
        held = []
        for count in (20, 200):
            for _ in range(count):
                samples[next(keys)]
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert len(set(prepared)) == 220, "no more than is asked for"
        assert held[1] - held[0] < 2e6  # one image has 0.8 MB, 200 would be held


def test_preparing_a_scan_leaves_torch_its_threads(tmp_path):
    """numba sets those of OpenMP: rounding would depend on whether a scan was prepared before."""
    before = torch.get_num_threads()

    def load(number: int) -> int:
        torch.set_num_threads(before + 1)
        return number

    assert training._Loader(load)(3) == 3
    assert torch.get_num_threads() == before


def test_a_data_set_says_whether_it_is_virtual(tmp_path):
    assert not datasets.is_virtual(tmp_path)
    path = tmp_path / "dataset_description.json"
    path.write_text(json.dumps({"GeneratedBy": [{"Name": "strokect phantom"}]}))
    assert datasets.is_virtual(tmp_path)
    for other in ({}, {"GeneratedBy": "strokect phantom"}, {"GeneratedBy": [{"Name": "scanner"}]}):
        path.write_text(json.dumps(other))
        assert not datasets.is_virtual(tmp_path)


def test_errors_are_those_of_the_output(tmp_path):
    root = index(tmp_path / "data", ["train", "val"])
    with pytest.raises(OutputExistsError):
        train(settings(root), TrainingFolders(root))
