"""Tables of a cohort, made from its result folders alone: the same results, the same bytes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from strokect.cohort_tasks import SCORE_FILE, Failure
from strokect.evaluate.agreement import Estimate, bland_altman, bootstrap_ci, icc, pearson
from strokect.io.layouts import Study
from strokect.io.nifti import read_json
from strokect.io.outputs import DONE_FILE, write_json, write_tsv
from strokect.report.cohort_page import write_index
from strokect.study import REGIONS

MISSING = "n/a"  # as BIDS writes it
VOLUMES = (
    "core", "penumbra", "hypoperfusion", "tmax_gt_4", "tmax_gt_6", "tmax_gt_8", "tmax_gt_10",
)  # fmt: skip
#: Dice is averaged over patients whose true region is no smaller.
LEAST_TRUE_ML = 1.0


def write_tables(
    out: Path, done: Sequence[Study], failed: Sequence[Failure], identity: Mapping[str, Any]
) -> None:
    """Write results.tsv, failures.tsv, timing.tsv, summary.json and index.html.

    Only timing.tsv depends on the machine and the hour.
    """
    summaries = {s.name: read_json(out / s.name / DONE_FILE) for s in done}
    scores = {s.name: _score(out / s.name) for s in done}
    results = [_row(s, summaries[s.name], scores[s.name]) for s in done]
    failures = [
        {"study": f.name, "error": f.error, "message": f.message, "fix": f.fix}
        for f in sorted(failed, key=lambda f: f.name)
    ]
    write_tsv(out / "results.tsv", _row(None, {}, {}), results)
    write_tsv(out / "failures.tsv", ("study", "error", "message", "fix"), failures)
    write_tsv(out / "timing.tsv", *_timing(summaries))
    agreement = cohort_agreement(done, scores)
    codes = Counter(q["code"] for s in summaries.values() for q in s["quality"])
    summary = {
        **identity,
        "studies": len(done) + len(failed),
        "patients": len({s.patient for s in done}),
        "done": len(done),
        "failed": len(failed),
        "with_truth": sum(any(r in s for r in REGIONS) for s in scores.values()),
        "truth_unusable": sorted(n for n, s in scores.items() if "error" in s),
        "quality_codes": dict(sorted(codes.items())),
        "agreement": agreement,
    }
    write_json(out / "summary.json", summary)
    reports = {s.name for s in done if (out / s.name / "report.html").exists()}
    write_index(out / "index.html", summary, results, failures, scores, reports)


def _score(folder: Path) -> dict[str, Any]:
    path = folder / SCORE_FILE
    found = read_json(path).get("agreement", {}) if path.exists() else {}
    return found if isinstance(found, dict) else {}


def _row(
    study: Study | None, summary: Mapping[str, Any], score: Mapping[str, Any]
) -> dict[str, str]:
    """One line of results.tsv; volumes in ml, distances in mm, errors as found minus true."""
    volumes, mismatch = summary.get("volumes_ml", {}), summary.get("mismatch", {})
    quality = summary.get("quality", [])
    out: dict[str, Any] = {"study": "" if study is None else study.name}
    out |= {f"{name}_ml": _number(volumes.get(name), 2) for name in VOLUMES}
    out["mismatch_ml"] = _number(mismatch.get("volume_ml"), 2)
    out["mismatch_ratio"] = _number(mismatch.get("ratio"), 3)
    out["hir"], out["cbv_index"] = (_number(summary.get(k), 3) for k in ("hir", "cbv_index"))
    out["side"] = summary.get("side", MISSING)
    status = {c["name"]: c["status"] for c in summary.get("criteria", [])}
    for trial in ("DEFUSE 3", "EXTEND", "DAWN"):
        out[trial.lower().replace(" ", "")] = status.get(trial, MISSING)
    for level in ("critical", "warning", "info"):
        out[level] = ",".join(q["code"] for q in quality if q["level"] == level) or "none"
    for name in REGIONS:
        found = score.get(name, {})
        error = found["found_ml"] - found["true_ml"] if found else None
        out[f"true_{name}_ml"] = _number(found.get("true_ml"), 2)
        out[f"error_{name}_ml"] = _number(error, 2)
        out[f"dice_{name}"] = _number(found.get("dice"), 4)
        out[f"hd95_{name}_mm"] = _number(found.get("hd95_mm"), 2)
    out["true_side"] = score.get("side") or MISSING
    return out


def _number(value: Any, digits: int) -> str:
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{round(value, digits) + 0.0:.{digits}f}"  # no "-0.00"


def _timing(
    summaries: Mapping[str, Mapping[str, Any]],
) -> tuple[list[str], list[dict[str, str]]]:
    stages = list(dict.fromkeys(k for s in summaries.values() for k in s["timing_s"]))
    columns = ["study", *(f"{k.replace(' ', '_')}_s" for k in stages), "peak_memory_mb"]
    rows = []
    for name, summary in summaries.items():
        cells = [_number(summary["timing_s"].get(k), 3) for k in stages]
        memory = _number(summary.get("peak_memory_mb"), 0)
        rows.append(dict(zip(columns, [name, *cells, memory], strict=True)))
    return columns, rows


# Agreement with truth over the cohort


def cohort_agreement(
    studies: Sequence[Study], scores: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Agreement of found with true volumes (ml) per region, and mean Dice; empty without truth.

    Volumes are compared over all patients with a truth, Dice over those whose true region has
    LEAST_TRUE_ML or more. Its interval is a bootstrap over patients, with a fixed seed.
    """
    out: dict[str, Any] = {}
    for name in REGIONS:
        pairs = [(s.patient, scores[s.name][name]) for s in studies if name in scores[s.name]]
        if not pairs:
            continue
        true = np.array([found["true_ml"] for _, found in pairs])
        found_ml = np.array([found["found_ml"] for _, found in pairs])
        limits = bland_altman(true, found_ml)
        affected = [(p, f["dice"]) for p, f in pairs if f["true_ml"] >= LEAST_TRUE_ML]
        overlap = bootstrap_ci(np.mean, [d for _, d in affected], [p for p, _ in affected])
        free = true < LEAST_TRUE_ML
        out[name] = {
            "n": len(pairs),
            "pearson": _estimate(pearson(true, found_ml)),
            "icc_2_1": _estimate(icc(np.column_stack([true, found_ml]))),
            "bias_ml": _estimate(limits.bias),
            "lower_limit_ml": _estimate(limits.lower),
            "upper_limit_ml": _estimate(limits.upper),
            "mean_absolute_error_ml": _round(float(np.abs(found_ml - true).mean())),
            "mean_dice": _estimate(overlap),
            "largest_where_there_is_none_ml": (
                _round(float(found_ml[free].max())) if free.any() else None
            ),
        }
    return out


def _estimate(found: Estimate) -> dict[str, Any]:
    return {"value": _round(found.value), "ci95": [_round(x) for x in found.ci], "n": found.n}


def _round(value: float) -> float | None:
    """Four decimals: the last digits of a sum are not the same on every machine."""
    return round(value, 4) + 0.0 if math.isfinite(value) else None
