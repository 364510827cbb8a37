"""Training: start on a large data set, memory over an epoch, and samples per second.

    python benchmarks/learning.py
    python benchmarks/learning.py --only index --quick

Standard output: one JSON line per figure. Exit code 1 where a limit is missed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch

from common import Report, run
from strokect.io.layouts import OwnLayout
from strokect.learn.data import SlabDataset
from strokect.network_input import CaseLoader
from strokect.training import find_patients
from strokect.training_settings import (
    TrainingSettings,
    build_loss,
    build_network,
    load_training_settings,
    needs_of,
    with_folder,
)

SETTINGS = Path(__file__).parents[1] / "settings" / "ctp"
PATIENTS = 1000
COMMAND = [sys.executable, "-c", "from strokect.cli import main; main()"]


def index(report: Report, quick: bool) -> None:
    """1,000 patients that share the files of a few: seconds to the first sample, and memory."""
    some, more = (10, 40) if quick else (50, 500)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "many"
        _many_patients(Path(folder) / "few", root, 2 if quick else 6)
        settings = with_folder(load_training_settings(SETTINGS / "small_4d.json"), root)
        start = time.perf_counter()
        patients = find_patients(settings)
        report.at_most("index_1000_s", time.perf_counter() - start, 5.0)
        cases = tuple(patients.cases)
        load = CaseLoader(
            cases, patients.layout, settings.input, settings.data.classes, Path(folder) / "cache"
        )
        needs = needs_of(build_network(settings))
        samples = SlabDataset(load, len(cases), needs, settings.slab, settings.augment, 0)
        _check_size(len(samples))
        process, held = psutil.Process(), 0.0
        for number in range(more):
            samples[0, number]
            if number == 0:
                report.at_most("first_sample_s", time.perf_counter() - start, 10.0)
            if number == some:
                held = process.memory_info().rss / 1e6
        grown = process.memory_info().rss / 1e6 - held
        report.at_most("memory_growth_mb", grown, 50.0, samples=[some, more], held_mb=held)


def _check_size(found: int) -> None:
    """Raises ValueError where patients were lost on the way."""
    if found != PATIENTS:
        raise ValueError(f"{found} patients instead of {PATIENTS}")


def throughput(report: Report, quick: bool) -> None:
    """Samples per second of a training step, samples of the small size in memory."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    names = ("small_2dt", "small_3dt", "small_4d")
    for name in (*names, "paper_4d") if device == "cuda" else names:
        settings = load_training_settings(SETTINGS / f"{name}.json")
        seconds = min(_step_s(settings, device) for _ in range(3 if quick else 10))
        report.info(
            f"{name}_samples_per_s", settings.training.batch_size / seconds, device=device,
            threads=torch.get_num_threads(),
        )  # fmt: skip


def _step_s(settings: TrainingSettings, device: str) -> float:
    network = build_network(settings).to(device)
    loss, needs = build_loss(settings).to(device), needs_of(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    batch, slices = settings.training.batch_size, settings.slab.slices or 8
    plane = settings.slab.tile or (96, 96)
    shape = (len(settings.input.channels), settings.input.time_points, slices + needs.n_slices - 1)
    image = torch.randn(batch, *shape, *plane, device=device)
    labels = torch.randint(settings.data.classes, (batch, slices, *plane), device=device)
    best = float("inf")
    for _ in range(3):  # the first compiles and warms caches
        start = time.perf_counter()
        optimizer.zero_grad()
        loss(network(image), labels, None).backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def _many_patients(few: Path, root: Path, n: int) -> None:
    """``root`` holds PATIENTS patients whose files are links to those of ``n`` virtual ones."""
    make = [*COMMAND, "phantom", "-o", str(few), "-n", str(n), "--size", "small"]
    subprocess.run(make, check=True, capture_output=True)
    lines = ["participant_id\tgroup\tsplit"]
    for number in range(1, PATIENTS + 1):
        old, new = OwnLayout(few, f"{1 + number % n:04d}"), OwnLayout(root, f"{number:04d}")
        pairs = [(old.scan("ctp"), new.scan("ctp"))]
        pairs += [(old.truth_mask(m), new.truth_mask(m)) for m in ("brain", "penumbra", "core")]
        pairs.append((_sidecar(old.scan("ctp")), _sidecar(new.scan("ctp"))))
        for source, link in pairs:
            link.parent.mkdir(parents=True, exist_ok=True)
            os.symlink(source.resolve(), link)
        lines.append(f"sub-{number:04d}\tLVO\ttrain")
    (root / "participants.tsv").write_text("\n".join(lines) + "\n")


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name.replace(".nii.gz", ".json"))


if __name__ == "__main__":
    sys.exit(run({"index": index, "throughput": throughput}, __doc__ or ""))
