"""Many studies to one table: failures, resuming, kill -9, Ctrl-C; through the command line."""

import csv
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from .conftest import COMMAND, in_a_shell, refused, strokect

pytest.importorskip("distributed")
pytestmark = pytest.mark.slow

TABLES = ("results.tsv", "failures.tsv", "summary.json", "index.html")
BROKEN, EMPTY = "sub-0004_ses-01", "sub-0005"
QUICK = ("--denoise", "gaussian", "--estimator", "bsvd")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def tables(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in TABLES}


def leftovers(out: Path) -> list[str]:
    return [p.name for p in out.rglob(".*") if p.name != ".cohort"]


@pytest.fixture(scope="module")
def patients(tmp_path_factory) -> Path:
    """Three small patients, one whose scan is cut short, one who has no scan."""
    root = tmp_path_factory.mktemp("cohort") / "patients"
    made = in_a_shell("phantom", "-o", root, "-n", 4, "--size", "small", "--seed", 5)
    assert made.code == 0, made
    scan = root / "sub-0004" / "ses-01" / f"{BROKEN}_ctp.nii.gz"
    scan.write_bytes(scan.read_bytes()[:20000])
    (root / "sub-0005" / "ses-01").mkdir(parents=True)
    (root / "sub-0005" / "ses-01" / "notes.txt").write_text("no scan")
    return root


@pytest.fixture(scope="module")
def whole(patients, tmp_path_factory):
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("whole") / "out"
    return out, in_a_shell("cohort", patients, "-o", out, "--workers", 2, *QUICK)


def start(patients: Path, out: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [*COMMAND, "cohort", str(patients), "-o", str(out), "--workers", "1", *QUICK],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def gone(group: int) -> bool:
    """Whether a process group ends within ten seconds; what waits to be reaped has ended."""
    import psutil

    def alive(process: psutil.Process) -> bool:
        try:
            return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
        except (ProcessLookupError, psutil.NoSuchProcess):
            return False

    for _ in range(100):
        if not any(map(alive, psutil.process_iter())):
            return True
        time.sleep(0.1)
    return False


class TestWholeRun:
    def test_one_failed_patient_does_not_stop_the_rest(self, whole):
        out, run = whole
        assert run.code == 1
        assert run.err.startswith("strokect: 2 of 5 studies failed")
        assert run.err.count("\n") == 1, "quiet but for the one line"
        assert [r["study"] for r in rows(out / "results.tsv")] == [
            f"sub-000{k}_ses-01" for k in (1, 2, 3)
        ]
        assert [r["study"] for r in rows(out / "failures.tsv")] == [BROKEN, EMPTY]

    def test_a_line_per_study_in_a_pipe(self, whole):
        lines = whole[1].out.splitlines()
        assert sum("failed: " in line for line in lines) == 2
        for k in (1, 2, 3):
            assert sum(line.startswith(f"sub-000{k}_ses-01  core ") for line in lines) == 1
        assert "\x1b" not in whole[1].out

    def test_failures_say_what_and_name_no_path(self, whole, patients):
        for row in rows(whole[0] / "failures.tsv"):
            assert row["error"] == "ScanError"
            assert row["message"]
            assert row["fix"]
            assert str(patients) not in "".join(row.values())
        assert "truncated" in rows(whole[0] / "failures.tsv")[0]["message"]

    def test_the_table_is_that_of_the_summaries(self, whole):
        for row in rows(whole[0] / "results.tsv"):
            summary = json.loads((whole[0] / row["study"] / "summary.json").read_text())
            assert float(row["core_ml"]) == pytest.approx(summary["volumes_ml"]["core"], abs=0.01)
            assert row["side"] == row["true_side"]
            assert float(row["dice_hypoperfusion"]) > 0.6
            error = float(row["hypoperfusion_ml"]) - float(row["true_hypoperfusion_ml"])
            assert float(row["error_hypoperfusion_ml"]) == pytest.approx(error, abs=0.02)

    def test_agreement_over_the_cohort(self, whole):
        found = json.loads((whole[0] / "summary.json").read_text())
        assert (found["studies"], found["done"], found["failed"], found["with_truth"]) == (
            5, 3, 2, 3,
        )  # fmt: skip
        table = rows(whole[0] / "results.tsv")
        errors = [float(r["error_core_ml"]) for r in table]
        assert found["agreement"]["core"]["bias_ml"]["value"] == pytest.approx(
            sum(errors) / 3, abs=0.02
        )

    def test_page_links_the_reports(self, whole):
        page = (whole[0] / "index.html").read_text()
        for k in (1, 2, 3):
            assert f'href="sub-000{k}_ses-01/report.html"' in page
            assert (whole[0] / f"sub-000{k}_ses-01" / "report.html").exists()
        assert "research use only" in page.lower()
        assert "<script" not in page

    def test_nothing_is_done_twice(self, whole, patients):
        out, _ = whole
        before, written = tables(out), (out / "sub-0001_ses-01/summary.json").stat().st_mtime_ns
        began = time.monotonic()
        again = in_a_shell("cohort", patients, "-o", out, *QUICK)
        assert time.monotonic() - began < 15
        assert "5 of 5 studies were settled already" in again.out
        assert "(0 now)" in again.out
        assert tables(out) == before
        assert (out / "sub-0001_ses-01/summary.json").stat().st_mtime_ns == written

    def test_other_settings_are_refused(self, whole, patients):
        refused(strokect("cohort", patients, "-o", whole[0]), 2, "estimator", "--overwrite")

    def test_a_cohort_is_not_replaced_by_one_result(self, whole, patients):
        run = strokect("perfusion", patients / "sub-0001", "-o", whole[0], "--overwrite")
        refused(run, 2, "cohort")
        assert (whole[0] / "results.tsv").exists()


class TestInterrupted:
    def test_kill_9_of_the_whole_tree_loses_nothing(self, whole, patients, tmp_path):
        out = tmp_path / "out"
        running = start(patients, out)
        first = running.stdout.readline()
        assert "core" in first or "failed" in first
        time.sleep(0.3)  # into the next study
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
        done = {p.parent.name: p.stat().st_mtime_ns for p in out.glob("*/summary.json")}
        assert 1 <= len(done) < 3
        assert not (out / "results.tsv").exists()

        resumed = in_a_shell("cohort", patients, "-o", out, *QUICK)
        assert resumed.code == 1, resumed
        for name, written in done.items():
            assert (out / name / "summary.json").stat().st_mtime_ns == written, "run again"
        assert leftovers(out) == []
        assert sorted(p.name for p in out.iterdir() if p.name.startswith("sub-")) == [
            f"sub-000{k}_ses-01" for k in (1, 2, 3)
        ]
        assert tables(out) == tables(whole[0])

    def test_ctrl_c_says_that_it_goes_on(self, patients, tmp_path):
        out = tmp_path / "out"
        running = start(patients, out)
        running.stdout.readline()
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does: to the whole group
        _, err = running.communicate(timeout=30)
        assert running.returncode == 130
        assert "of 5 studies are settled and stay" in err
        assert "Run the same command again" in err
        assert err.count("\n") == 2, err
        assert leftovers(out) == []
        assert gone(running.pid), "a worker is left"

    def test_two_at_a_time_are_refused(self, patients, tmp_path):
        out = tmp_path / "out"
        running = start(patients, out)
        running.stdout.readline()
        try:
            refused(strokect("cohort", patients, "-o", out, *QUICK), 1, "another")
        finally:
            os.killpg(running.pid, signal.SIGKILL)
            running.communicate()


class TestRefusals:
    @pytest.mark.parametrize("name", ["missing", "void"])
    def test_no_studies(self, tmp_path, name):
        (tmp_path / "void").mkdir()
        refused(strokect("cohort", tmp_path / name, "-o", tmp_path / "out"), 2, name)
        assert not (tmp_path / "out").exists()

    def test_a_folder_of_other_things(self, patients, tmp_path):
        (tmp_path / "thesis.txt").write_text("x")
        refused(strokect("cohort", patients, "-o", tmp_path), 2, "not empty")
        refused(strokect("cohort", patients, "-o", patients), 2)

    def test_no_scheduler(self, patients, tmp_path):
        run = strokect("cohort", patients, "-o", tmp_path / "out",
                       "--scheduler", "tcp://127.0.0.1:1")  # fmt: skip
        refused(run, 2, "no dask scheduler")
