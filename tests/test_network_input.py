"""What networks are given of the cases of a data set: prepared once, found again, told by name."""

import os
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from strokect import network_input
from strokect.core.clinical import Clinical
from strokect.core.errors import CurveError, GeometryError, ScanError
from strokect.core.flags import flag
from strokect.core.mapset import MapSet
from strokect.core.quantities import QUANTITIES
from strokect.core.types import Grid
from strokect.ctp_input import scan_input
from strokect.io import nifti
from strokect.io.datasets import OwnDataset
from strokect.io.layouts import OwnLayout
from strokect.learn.map_inputs import MapInputOptions, clinical_vector
from strokect.map_input import map_input
from strokect.network_input import CaseLoader, case_study, study_input

sys.path.insert(0, str(Path(__file__).parent))
from tiny_head import OPTIONS, SHAPE, inside, make_head


@pytest.fixture(scope="module")
def head():
    return make_head()


@pytest.fixture(scope="module")
def seen(head):
    return scan_input(head, OPTIONS)


CORE, PENUMBRA = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
CORE[1, 30:36, 40:46] = True
PENUMBRA[1:, 26:40, 38:50] = True


def _write(layout: OwnLayout, series) -> None:
    layout.scan_folder.mkdir(parents=True)
    layout.truth_folder.mkdir(parents=True)
    nifti.write_ctp(layout.scan("ctp"), series)
    for name, mask in (("brain", inside(10)), ("penumbra", PENUMBRA), ("core", CORE)):
        nifti.write_volume(layout.truth_mask(name), mask.astype(np.uint8), series.grid, name)


@pytest.fixture
def dataset(tmp_path, head) -> Path:
    root = tmp_path / "data"
    for label in ("0001", "0002"):
        _write(OwnLayout(root, label), head)
    return root


def _loader(root, classes=4, options=OPTIONS, **more):
    cases = OwnDataset().cases(root)
    return CaseLoader(tuple(cases), OwnDataset(), options, classes, root.parent / "cache", **more)


@pytest.fixture
def prepared(monkeypatch):
    """The scans that were prepared, one by one."""
    made = []

    def counted(*args):
        made.append(args)
        return scan_input(*args)

    monkeypatch.setattr(network_input, "scan_input", counted)
    return made


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_labels_lie_on_the_image_and_are_the_classes(dataset, seen, classes):
    example = _loader(dataset, classes)(0)
    assert example.image.shape[2:] == example.labels.shape == example.brain.shape
    core, penumbra = CORE[:, *seen.box], PENUMBRA[:, *seen.box]
    assert ((example.labels == classes - 1) == core).all()
    if classes > 2:
        assert ((example.labels == classes - 2) == (penumbra & ~core)).all()
    rest = example.labels[~core & ~penumbra]
    assert set(np.unique(rest)) == ({0, 1} if classes == 4 else {0})
    if classes == 4:
        known = (inside(10) | seen.brain)[:, *seen.box]
        assert ((example.labels > 0) == known).all()
    assert np.abs(example.image.astype(np.float32) - seen.image).max() < 0.6  # half precision


def test_a_scan_is_prepared_once(dataset, prepared):
    first = _loader(dataset)(0)
    again = _loader(dataset, classes=2)(0)
    assert len(prepared) == 1
    # What is used at once is what is read later, to the bit.
    assert first.image.dtype == again.image.dtype and (first.image == again.image).all()
    _loader(dataset)(1)
    assert len(prepared) == 2


def test_what_changed_is_prepared_anew(dataset, prepared):
    layout = OwnLayout(dataset, "0001")
    _loader(dataset)(0)
    os.utime(layout.scan("ctp"), (1, 1))
    _loader(dataset)(0)
    os.utime(layout.truth_mask("core"), (1, 1))
    _loader(dataset)(0)
    assert len(prepared) == 3
    _loader(dataset, options=replace(OPTIONS, before_s=4.0))(0)
    assert len(prepared) == 4
    _loader(dataset)(0)
    assert len(prepared) == 4


def test_a_broken_cache_is_mended(dataset, prepared):
    loader = _loader(dataset)
    first = np.array(loader(0).image)
    for file in (dataset.parent / "cache").glob("sub-0001*/image.npy"):
        file.write_bytes(b"")
    assert (loader(0).image == first).all()
    assert len(prepared) == 2


def test_a_loader_can_be_sent_to_another_process(dataset):
    loader = _loader(dataset)
    sent = pickle.loads(pickle.dumps(loader))
    assert (sent(0).image == loader(0).image).all()


def test_a_case_without_truth_has_no_labels(dataset):
    loader = _loader(dataset)
    bare = replace(loader, cases=(replace(loader.cases[0], labels=None),))
    assert bare(0).labels is None


def test_errors_name_the_case(dataset, head):
    loader = _loader(dataset)
    layout = OwnLayout(dataset, "0002")
    smaller = Grid((2, 64, 72), head.grid.affine)
    nifti.write_volume(layout.truth_mask("core"), CORE[:2].astype(np.uint8), smaller, "core")
    with pytest.raises(GeometryError, match="sub-0002_ses-01: ") as error:
        loader(1)
    assert "\n" not in str(error.value)
    nifti.write_ctp(OwnLayout(dataset, "0001").scan("ctp"), make_head(arrives=False))
    with pytest.raises(CurveError, match="sub-0001_ses-01: no contrast bolus"):
        loader(0)
    layout.scan("ctp").write_bytes(b"junk")
    with pytest.raises(ScanError, match="sub-0002_ses-01: "):
        loader(1)


MAPS = MapInputOptions(maps=("cbf", "tmax"), form="scalar", crop_mm=6.0)
FLAGS = (
    flag("MOTION", "The head moved by 3 mm,\tand more."),
    flag("NO_REFERENCE", "Little unaffected tissue.", "critical"),
)


def _maps(grid, seed=0):
    rng = np.random.default_rng(seed)
    maps = {k: rng.uniform(0, 9, SHAPE).astype(np.float32) for k in ("cbf", "cbv", "tmax", "mip")}
    mean = np.where(inside(10), 35, -1000).astype(np.float32)
    return MapSet(grid, maps, inside(10), mean, FLAGS)


@pytest.fixture
def computed(monkeypatch):
    """The scans whose maps were computed, one by one, and the options."""
    made = []

    def counted(series, options):
        made.append(options)
        return _maps(series.grid)

    monkeypatch.setattr(network_input, "computed_maps", counted)
    return made


def test_maps_are_computed_once_for_all_settings_that_look_at_them(dataset, computed):
    first = _loader(dataset, options=MAPS)(0)
    others = (
        replace(MAPS, maps=("tmax", "mip", "cbf")),
        replace(MAPS, form="colour", crop_mm=None, pixels=32),
        replace(MAPS, scores=("nihss",)),
    )
    shapes = [_loader(dataset, classes=3, options=other)(0).image.shape for other in others]
    assert len(computed) == 1
    assert [shape[0] for shape in shapes] == [3, 6, 2]
    again = _loader(dataset, options=MAPS)(0)
    assert (again.image == first.image).all()
    # What is computed in another way is computed anew.
    for other in ({"estimator": "bsvd"}, {"denoise": "none"}, {"motion_correction": False}):
        _loader(dataset, options=replace(MAPS, **other))(0)
    assert len(computed) == 4
    os.utime(OwnLayout(dataset, "0001").scan("ctp"), (1, 1))
    _loader(dataset, options=MAPS)(0)
    _loader(dataset, options=MAPS)(1)
    assert len(computed) == 6


def test_kept_maps_are_those_that_were_computed(dataset, computed, tmp_path, head):
    layout = OwnDataset()
    case = layout.cases(dataset)[0]
    for _ in range(2):
        found, made = case_study(layout, case, MAPS, tmp_path / "kept"), _maps(head.grid)
        assert found.maps.keys() == {"cbf", "tmax"}
        assert all((found.maps[k] == made.maps[k]).all() for k in found.maps)
        assert (found.brain == made.brain).all() and (found.mean_hu == made.mean_hu).all()
        assert found.flags == FLAGS  # code, level and message, through the files
        assert found.grid.same_as(made.grid)
    assert len(computed) == 1
    whole = case_study(layout, case, MAPS)  # kept nowhere
    assert whole.flags == FLAGS and len(computed) == 2


def test_maps_without_findings_are_kept_too(dataset, monkeypatch, tmp_path):
    def plain(series, options):
        return replace(_maps(series.grid), flags=())

    monkeypatch.setattr(network_input, "computed_maps", plain)
    layout = OwnDataset()
    case = layout.cases(dataset)[0]
    assert [case_study(layout, case, MAPS, tmp_path).flags for _ in range(2)] == [(), ()]


def test_the_image_is_that_of_the_maps(dataset, computed, head):
    example = _loader(dataset, options=MAPS)(0)
    expected = map_input(_maps(head.grid), MAPS)
    assert np.abs(example.image - expected.image).max() < 1e-3  # half precision
    assert (example.brain == expected.image_brain).all()
    core = CORE[:, *expected.box]
    assert ((example.labels == 3) == core).all()


def _write_maps(root, grid, case="sub-0001_ses-01"):
    folder = root / "derivatives" / "perfusion" / case
    for name, values in _maps(grid, seed=1).maps.items():
        path = folder / "maps" / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nifti.write_volume(path, values, grid, QUANTITIES[name].label)
    (folder / "masks").mkdir()
    brain = folder / "masks" / "brain.nii.gz"
    nifti.write_volume(brain, inside(10).astype(np.uint8), grid, "brain")
    return folder / "maps"


def test_maps_of_files(dataset, computed, head):
    folder, options = _write_maps(dataset, head.grid), replace(MAPS, source="files")
    loader = _loader(dataset, options=options)
    first = loader(0)
    expected = map_input(_maps(head.grid, seed=1), MAPS)
    assert np.abs(first.image - expected.image).max() < 2e-3
    assert (first.brain == expected.image_brain).all() and first.labels.max() == 3
    assert computed == []
    # A map that changed is read anew; one that is not looked at may change.
    nifti.write_volume(folder / "mip.nii.gz", np.zeros(SHAPE, np.float32), head.grid, "MIP")
    assert (_loader(dataset, options=options)(0).image == first.image).all()
    nifti.write_volume(folder / "tmax.nii.gz", np.zeros(SHAPE, np.float32), head.grid, "Tmax")
    changed = _loader(dataset, options=options)(0).image
    assert (changed[0] == first.image[0]).all() and not changed[1].any()
    with pytest.raises(ScanError, match=r"sub-0002_ses-01: no CBF map.*input\.source"):
        loader(1)


SCORED = replace(MAPS, scores=("nihss", "sex"))


def _people(root, *lines):
    table = "\n".join(("participant_id\tnihss\tsex", *lines))
    (root / "participants.tsv").write_text(table + "\n")


def test_scores_that_change_are_seen_without_preparing_anew(dataset, computed):
    _people(dataset, "sub-0001\t18\tF", "sub-0002\tn/a\tM")
    first = _loader(dataset, options=SCORED)
    assert first(0).clinical.tolist() == [1.0, 1.0, 1.0, 1.0]
    assert first(1).clinical.tolist() == [0.0, 0.0, -1.0, 1.0]
    kept = sorted((dataset.parent / "cache").glob("*"))
    _people(dataset, "sub-0001\t2\tF", "sub-0002\t10\tn/a")
    again = _loader(dataset, options=SCORED)
    assert again(0).clinical.tolist() == [-1.0, 1.0, 1.0, 1.0]
    assert again(1).clinical.tolist() == [0.0, 1.0, 0.0, 0.0]
    assert _loader(dataset, options=MAPS)(0).clinical.shape == (0,)
    assert len(computed) == 2
    assert sorted((dataset.parent / "cache").glob("*")) == kept
    case = replace(again.cases[0], clinical=Clinical(age=70))
    only = replace(again, cases=(case,))
    assert (only(0).clinical == clinical_vector(Clinical(age=70), SCORED.scores)).all()


def test_a_scan_has_no_scores(dataset):
    _people(dataset, "sub-0001\t18\tF")
    assert _loader(dataset)(0).clinical.shape == (0,)


def test_a_study_is_what_the_network_asks_for(head, seen, computed):
    maps = _maps(head.grid)
    found = study_input(maps, MAPS)
    assert (found.image == map_input(maps, MAPS).image).all() and computed == []
    assert (study_input(head, MAPS).image == found.image).all() and computed == [MAPS]
    # Whoever gives a scan gives what maps are made from, wherever the training had them from.
    files = replace(MAPS, source="files")
    assert (study_input(head, files).image == found.image).all()
    assert (study_input(head, OPTIONS).image == seen.image).all()


def test_a_study_that_lacks_something_is_told(head, computed):
    with pytest.raises(ScanError, match=r"looks at the scan itself.*Give the CTP scan"):
        study_input(_maps(head.grid), OPTIONS)
    with pytest.raises(ScanError, match=r"no map 'ttp'.*Give the scan"):
        study_input(_maps(head.grid), replace(MAPS, maps=("cbf", "ttp")))
    assert computed == []


def test_sizes_that_a_table_corrects_are_prepared_anew(dataset, prepared):
    case = OwnDataset().cases(dataset)[0]
    for sizes in ("", "interval_s=1", "interval_s=1"):
        cases = (replace(case, sizes=sizes),)
        CaseLoader(cases, OwnDataset(), OPTIONS, 4, dataset.parent / "cache")(0)
    assert len(prepared) == 2
