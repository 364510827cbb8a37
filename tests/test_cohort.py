"""Finding studies, planning what is left, tables, and workers that die."""

import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from strokect import cohort, cohort_tasks
from strokect.cohort import CohortOptions, run_cohort
from strokect.cohort_tasks import Failure, Outcome, Task, failure_of
from strokect.core.errors import OutputExistsError, ScanError
from strokect.core.types import Grid
from strokect.io import nifti
from strokect.io.layouts import OwnLayout, Study, find_studies
from strokect.io.outputs import write_json
from strokect.io.stamp import stamp
from strokect.settings import PerfusionSettings, load_settings
from strokect.study import score_study


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def named(root: Path) -> dict[str, str]:
    return {s.name: str(s.source.relative_to(root)) for s in find_studies(root)}


class TestFindStudies:
    def test_own_layout(self, tmp_path):
        scan = OwnLayout(tmp_path, "0002").scan("ctp")
        touch(scan, tmp_path / "derivatives/truth/sub-0002/x_ctp.nii.gz")
        (study,) = find_studies(tmp_path)
        assert (study.name, study.patient, study.source) == ("sub-0002_ses-01", "sub-0002", scan)
        assert study.layout == OwnLayout(tmp_path, "0002")

    def test_sessions_and_dicom(self, tmp_path):
        touch(
            OwnLayout(tmp_path, "1", "01").scan("ctp"),
            OwnLayout(tmp_path, "1", "02").scan("ctp"),
            OwnLayout(tmp_path, "1", "03").scan("ncct"),  # a follow-up: no study
            tmp_path / "dicom/sub-1/a.dcm",  # the same scan again
            tmp_path / "dicom/sub-2/a.dcm",
            OwnLayout(tmp_path, "3").scan("ncct"),  # no CTP at all: listed, to fail by name
        )
        found = named(tmp_path)
        assert list(found) == ["sub-1_ses-01", "sub-1_ses-02", "sub-2", "sub-3"]
        assert found["sub-2"] == "dicom/sub-2"
        assert {s.patient for s in find_studies(tmp_path)} == {"sub-1", "sub-2", "sub-3"}

    def test_any_folder(self, tmp_path):
        touch(tmp_path / "A b/1/x.dcm", tmp_path / "a_b/x.dcm", tmp_path / "p.nii.gz",
              tmp_path / ".hidden/x.dcm", tmp_path / "notes.txt")  # fmt: skip
        (tmp_path / "nothing").mkdir()
        found = named(tmp_path)
        assert found == {"A_b": "A b", "a_b-2": "a_b", "p": "p.nii.gz"}

    def test_ctp_files_are_told_from_masks(self, tmp_path):
        touch(tmp_path / "p1_ctp.nii.gz", tmp_path / "p1_core.nii.gz")
        assert named(tmp_path) == {"p1": "p1_ctp.nii.gz"}

    def test_own_output_is_no_study(self, tmp_path):
        touch(tmp_path / "p/x.dcm", tmp_path / "out/.cohort/cohort.json", tmp_path / "out/p/m.nii")
        assert list(named(tmp_path)) == ["p"]

    def test_nothing(self, tmp_path):
        for path in (tmp_path, tmp_path / "missing"):
            with pytest.raises(ScanError):
                find_studies(path)


class TestStamp:
    def test_changes_with_the_files(self, tmp_path):
        scan = tmp_path / "a_ctp.nii.gz"
        touch(scan)
        first = stamp(scan)
        assert stamp(scan) == first
        scan.with_name("a_ctp.json").write_text("{}")
        second = stamp(scan)
        os.utime(scan, (1, 1))
        assert len({first, second, stamp(scan)}) == 3
        assert stamp(tmp_path / "none") == ""


class TestFailure:
    def test_names_no_path(self, tmp_path):
        study = Study("sub-1", "sub-1", tmp_path / "dicom" / "sub-1")
        inner = failure_of(ScanError("broken", study.source / "IM1", "Copy it"), study)
        assert inner.message == "broken: IM1"
        own = failure_of(ScanError(f"no scan in {study.source}", study.source, "x"), study)
        assert own.message == "no scan in the scan"
        assert own.final

    def test_a_foreign_error_keeps_its_words_to_itself(self, monkeypatch, tmp_path):
        def broken(*_):
            raise KeyError("DOE^JOHN")

        monkeypatch.setattr(cohort_tasks, "run_study", broken)
        study = Study("s", "s", tmp_path)
        task = Task(study, tmp_path, PerfusionSettings(), "", "", False, True)
        failure = cohort_tasks.work(task).failure
        assert failure is not None
        assert failure.error == "KeyError"
        assert not failure.final
        assert "DOE" not in str(failure)
        assert pickle.loads(pickle.dumps(task)) == task


def result(folder: Path, task: Task, core: float = 10.0) -> None:
    """A result folder with what the tables need."""
    folder.mkdir(parents=True)
    volumes = dict.fromkeys(
        ("penumbra", "tmax_gt_4", "tmax_gt_6", "tmax_gt_8", "tmax_gt_10"), 1.0
    )  # fmt: skip
    write_json(folder / "study.json", {"stamp": task.stamp, "strokect": cohort.__version__})
    write_json(folder / "summary.json", {
        "volumes_ml": {"core": core, "hypoperfusion": 3 * core, **volumes},
        "mismatch": {"volume_ml": 2 * core, "ratio": None}, "hir": None, "cbv_index": 0.5,
        "side": "left", "criteria": [], "quality": [{"code": "MOTION", "level": "warning"}],
        "settings": task.settings.model_dump(mode="json"), "timing_s": {"total": 1.0},
        "peak_memory_mb": 100,
    })  # fmt: skip


@pytest.fixture
def six(tmp_path, monkeypatch):
    """Six studies, and workers that only pretend: ``fails`` names those that fail, and how."""
    root = tmp_path / "in"
    touch(*(OwnLayout(root, f"{k}").scan("ctp") for k in range(1, 7)))
    state = {"ran": [], "fails": {}}

    def pretend(tasks, options):
        for task in tasks:
            name = task.study.name
            state["ran"].append(name)
            if name in state["fails"]:
                yield Outcome(name, state["fails"][name])
                continue
            cohort.shutil.rmtree(task.folder, ignore_errors=True)
            result(task.folder, task)
            yield Outcome(name, brief=(10.0, 30.0))

    monkeypatch.setattr(cohort, "_outcomes", pretend)
    return root, tmp_path / "out", state


QUICK = CohortOptions(reports=False)
BSVD = load_settings(None, estimator="bsvd")


class TestPlan:
    def test_a_finished_cohort_is_left_alone(self, six):
        root, out, state = six
        assert run_cohort(root, out, PerfusionSettings(), QUICK).ran == 6
        table = (out / "results.tsv").read_bytes()
        assert run_cohort(root, out, PerfusionSettings(), QUICK).ran == 0
        assert (out / "results.tsv").read_bytes() == table
        assert len(state["ran"]) == 6

    def test_a_changed_scan_and_a_new_one_are_run(self, six):
        root, out, state = six
        run_cohort(root, out, PerfusionSettings(), QUICK)
        state["ran"].clear()
        OwnLayout(root, "2").scan("ctp").write_bytes(b"other")
        touch(OwnLayout(root, "7").scan("ctp"))
        run_cohort(root, out, PerfusionSettings(), QUICK)
        assert state["ran"] == ["sub-2_ses-01", "sub-7_ses-01"]

    def test_unusable_input_is_not_tried_again_unless_asked_or_changed(self, six):
        root, out, state = six
        name = "sub-3_ses-01"
        state["fails"] = {name: Failure(name, "ScanError", "broken", "Copy it", final=True)}
        for options, runs in ((QUICK, 6), (QUICK, 0), (replace(QUICK, retry_failed=True), 1)):
            found = run_cohort(root, out, PerfusionSettings(), options)
            assert (found.done, found.failed, found.ran) == (5, 1, runs)
            assert "broken" in (out / "failures.tsv").read_text()
        state["fails"] = {}
        OwnLayout(root, "3").scan("ctp").write_bytes(b"mended")
        assert run_cohort(root, out, PerfusionSettings(), QUICK).failed == 0
        assert (out / "failures.tsv").read_text().count("\n") == 1

    def test_any_other_failure_is_tried_again(self, six):
        root, out, state = six
        name = "sub-3_ses-01"
        state["fails"] = {name: Failure(name, "KilledWorker", "killed", "More memory")}
        run_cohort(root, out, PerfusionSettings(), QUICK)
        assert run_cohort(root, out, PerfusionSettings(), QUICK).ran == 1

    def test_a_result_of_other_files_never_stands_for_a_failure(self, six):
        root, out, state = six
        run_cohort(root, out, PerfusionSettings(), QUICK)
        name = "sub-3_ses-01"
        state["fails"] = {name: Failure(name, "ScanError", "broken", "", final=True)}
        OwnLayout(root, "3").scan("ctp").write_bytes(b"broken")
        run_cohort(root, out, PerfusionSettings(), QUICK)
        assert not (out / name).exists()
        assert name not in (out / "results.tsv").read_text()

    def test_other_settings_need_overwrite(self, six):
        root, out, _ = six
        run_cohort(root, out, PerfusionSettings(), QUICK)
        with pytest.raises(OutputExistsError, match="estimator was 'bayes', is now 'bsvd'"):
            run_cohort(root, out, BSVD, QUICK)
        assert run_cohort(root, out, BSVD, replace(QUICK, overwrite=True)).ran == 6
        assert run_cohort(root, out, BSVD, QUICK).ran == 0

    def test_reports_asked_for_later_are_made(self, six):
        root, out, _ = six
        run_cohort(root, out, PerfusionSettings(), QUICK)
        assert run_cohort(root, out, PerfusionSettings(), CohortOptions()).ran == 6

    def test_what_killed_workers_left_is_swept(self, six):
        root, out, _ = six
        run_cohort(root, out, PerfusionSettings(), QUICK)
        touch(out / ".sub-1.abc.partial" / "maps" / "cbf.nii.gz", out / ".partial-1.tsv")
        run_cohort(root, out, PerfusionSettings(), QUICK)
        assert [p.name for p in out.glob(".*")] == [".cohort"]

    def test_a_fault_keeps_what_was_done(self, six, monkeypatch):
        root, out, _ = six
        pretend = cohort._outcomes

        def stops(tasks, options):
            for n, outcome in enumerate(pretend(tasks, options)):
                if n == 3:
                    raise KeyboardInterrupt
                yield outcome

        monkeypatch.setattr(cohort, "_outcomes", stops)
        with pytest.raises(KeyboardInterrupt):
            run_cohort(root, out, PerfusionSettings(), QUICK)
        monkeypatch.setattr(cohort, "_outcomes", pretend)
        assert run_cohort(root, out, PerfusionSettings(), QUICK).ran == 2


class TestScore:
    def test_known_overlap(self, tmp_path):
        layout, grid = OwnLayout(tmp_path, "1"), Grid((2, 10, 10), np.diag([10.0, 10, 10, 1]))
        true, found = np.zeros((2, 2, 10, 10), bool)
        true[0, :, :4], found[0, :, 2:6] = True, True
        nifti.write_volume(layout.truth_mask("core"), true, grid)
        nifti.write_volume(tmp_path / "out/masks/core.nii.gz", found, grid)
        write_json(layout.truth_folder / f"{layout.stem}_truth.json", {"side": "left"})
        score = score_study(tmp_path / "out", layout)
        assert score["side"] == "left"
        assert score["core"] == pytest.approx(
            {"dice": 0.5, "hd95_mm": 20.0, "found_ml": 40.0, "true_ml": 40.0}
        )
        assert set(score) == {"core", "side"}


workers = pytest.importorskip("strokect.cohort_workers", reason="needs dask")


class TestWorkers:
    def test_count_follows_tasks_cores_and_memory(self):
        assert workers.worker_count(100, 2e9, 9e9, 8) == 4
        assert workers.worker_count(100, 2e9, 9e9, 3) == 3
        assert workers.worker_count(2, 2e9, 9e9, 8) == 2
        assert workers.worker_count(5, 2e9, 1e9, None) == 1

    def test_a_worker_runs_its_task_in_silence(self, tmp_path, caplog):
        def loud(task):
            logging.getLogger("nibabel").critical("DOE^JOHN")
            warnings.warn("DOE^JOHN", stacklevel=1)
            return Outcome(task.study.name)

        task = Task(Study("s", "s", tmp_path), tmp_path, PerfusionSettings(), "", "", False, True)
        before = logging.root.manager.disable
        try:
            with warnings.catch_warnings(record=True) as said:
                assert workers._quietly(loud, task) == Outcome("s")
        finally:
            logging.disable(before)
        assert not said and not caplog.records

    @pytest.mark.slow
    def test_a_killed_worker_costs_one_study(self, tmp_path):
        tasks = [
            Task(Study(f"s{k}", f"s{k}", tmp_path / f"s{k}"), tmp_path, PerfusionSettings(), "",
                 "", False, True)
            for k in range(5)
        ]  # fmt: skip
        found = {o.name: o for o in workers.run_all(deadly(), tasks, None, 2)}
        assert sorted(found) == [f"s{k}" for k in range(5)]
        assert found["s1"].failure.error == "KilledWorker"
        assert "memory" in found["s1"].failure.message
        assert all(found[f"s{k}"].failure is None for k in (0, 2, 3, 4))

    @pytest.mark.slow
    def test_listens_on_this_machine_only(self, tmp_path):
        import psutil

        task = Task(Study("s", "s", tmp_path), tmp_path, PerfusionSettings(), "", "", False, True)
        with workers._local([task], 1):
            here = psutil.Process()
            open_ports = [
                c.laddr.ip
                for p in (here, *here.children(recursive=True))
                for c in p.net_connections(kind="tcp")
                if c.status == psutil.CONN_LISTEN
            ]
        assert open_ports
        assert set(open_ports) == {"127.0.0.1"}

    @pytest.mark.slow
    def test_a_scheduler_somewhere(self, tmp_path):
        address = tmp_path / "scheduler.json"
        options = ["--scheduler-file", str(address), "--no-dashboard"]
        started = [
            subprocess.Popen([sys.executable, "-m", f"distributed.cli.{role}", *options, *more],
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                             start_new_session=True)
            for role, more in (
                ("dask_scheduler", ["--host", "127.0.0.1", "--port", "0"]),
                ("dask_worker", ["--nthreads", "1", "--no-nanny", "--host", "127.0.0.1"]),
            )
        ]  # fmt: skip
        try:
            for _ in range(200):
                if address.exists() and address.stat().st_size:
                    break
                time.sleep(0.1)
            where = json.loads(address.read_text())["address"]
            tasks = [
                Task(Study(f"s{k}", f"s{k}", tmp_path), tmp_path / f"s{k}", PerfusionSettings(),
                     "", "", False, True)
                for k in (0, 2, 3)
            ]  # fmt: skip
            found = {o.name for o in workers.run_all(deadly(), tasks, where, None)}
            assert found == {"s0", "s2", "s3"}
        finally:
            for process in started:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def deadly():
    """Work that kills its process for study s1, as the kernel does where memory is short."""

    def work(task):  # inner functions travel by value: no worker can import this file
        if task.study.name == "s1":
            os.kill(os.getpid(), signal.SIGKILL)
        return Outcome(task.study.name, brief=(0.0, 0.0))

    return work
