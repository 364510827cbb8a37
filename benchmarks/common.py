"""What the benchmarks share: one JSON line per figure, limits, the command line, truth figures."""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from strokect import catalog
from strokect.core.result import PerfusionResult
from strokect.evaluate.overlap import dice
from strokect.perfusion.deconvolution import ResidueFit
from strokect.phantom.patient import PatientConfig, VirtualPatient
from strokect.settings import PerfusionSettings

#: Estimators that cannot follow a delay; measured for information only.
DELAY_SENSITIVE = ("ssvd",)


@dataclass
class Report:
    """Prints figures as JSON lines and remembers which missed their limit."""

    missed: list[str] = field(default_factory=list)

    def at_least(self, figure: str, value: float, limit: float, **context: Any) -> None:
        self._line(figure, value, bool(value >= limit), limit=limit, sense=">=", **context)

    def at_most(self, figure: str, value: float, limit: float, **context: Any) -> None:
        self._line(figure, value, bool(value <= limit), limit=limit, sense="<=", **context)

    def info(self, figure: str, value: Any, **context: Any) -> None:
        """A figure without a limit."""
        self._line(figure, value, None, limit=None, **context)

    def skip(self, figure: str, why: str) -> None:
        print(json.dumps({"figure": figure, "skipped": why}), flush=True)

    def error(self, figure: str, problem: Exception) -> None:
        self.missed.append(figure)
        found = f"{type(problem).__name__}: {problem}"
        print(json.dumps({"figure": figure, "error": found, "ok": False}), flush=True)

    def _line(self, figure: str, value: Any, ok: bool | None, **context: Any) -> None:
        if ok is False:
            self.missed.append(figure)
        row = {"figure": figure, "value": value, "ok": ok, **context}
        print(json.dumps({k: short(v) for k, v in row.items()}), flush=True)


def note(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def short(value: Any) -> Any:
    """A value as JSON, floats to five digits."""
    if isinstance(value, dict):
        return {k: short(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [short(v) for v in value]
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, float | np.floating):
        return float(f"{float(value):.5g}") if np.isfinite(value) else None
    return value.item() if isinstance(value, np.integer) else value


Section = Callable[[Report, bool], None]


def run(sections: dict[str, Section], doc: str, arguments: list[str] | None = None) -> int:
    """Run sections, each called as section(report, quick). Returns 1 where a limit is missed."""
    parser = argparse.ArgumentParser(description=doc.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer patients and repeats")
    parser.add_argument("--only", nargs="+", choices=sections, metavar="NAME", default=[*sections],
                        help=", ".join(sections))  # fmt: skip
    options = parser.parse_args(arguments)
    report = Report()
    for name in options.only:
        note(f"{name} ...")
        start = time.perf_counter()
        try:
            sections[name](report, options.quick)
        except Exception as problem:  # the other sections still run; this one counts as missed
            traceback.print_exc()
            report.error(name, problem)
        note(f"{name}: {time.perf_counter() - start:.0f} s")
    for figure in report.missed:
        note(f"missed: {figure}")
    return 1 if report.missed else 0


def solver(name: str, settings: PerfusionSettings) -> Callable[..., ResidueFit]:
    """An estimator of the catalog as f(curves, aif, interval_s), with its own default options.

    The options in the settings are for denoised curves; curves here have independent noise.
    """
    estimator = catalog.load("estimators", name)
    options = type(getattr(settings, catalog.ESTIMATORS[name].options))()
    return lambda curves, aif, interval_s: estimator(curves, aif, interval_s, options)


def stroke_of(config: PatientConfig) -> PatientConfig:
    """A stroke as treated in trials: core 15-60 ml, hypoperfusion 100-210 ml, drawn per seed.

    Strokes of every size and site are in the section "sites" of accuracy.py.
    """
    if config.occlusion == "none" or config.core_ml is not None:
        return config
    core, hypoperfusion = np.random.default_rng([config.seed, 7]).uniform([15, 100], [60, 210])
    return replace(config, core_ml=float(core), hypoperfusion_ml=float(hypoperfusion))


def aif_area_ratio(patient: VirtualPatient, result: PerfusionResult) -> float:
    """Area of the arterial curve found over that of the true one, on the axis of the analysis."""
    time_s, true = result.curves.time_s, patient.curves
    expected = np.interp(time_s, true["dense_time_s"], true["dense_aif_hu"], left=0.0)
    return float(np.trapezoid(result.curves.aif.curve_hu, time_s) / np.trapezoid(expected, time_s))


def grey_bias_percent(
    patient: VirtualPatient, result: PerfusionResult, name: str
) -> tuple[float, float]:
    """Median of a map in healthy grey matter, and its difference from the truth in percent."""
    true = {key: mask.data for key, mask in patient.masks.items()}
    healthy = true["grey"] & (patient.maps["tmax"].data < 4) & result.masks["brain"].data
    middle, truth = (float(np.median(m[name].data[healthy])) for m in (result.maps, patient.maps))
    return middle, 100 * (middle / truth - 1)


def figures(patient: VirtualPatient, result: PerfusionResult) -> dict[str, Any]:
    """Figures of one patient. Volumes in ml, biases and errors in percent of the truth."""
    found = {name: mask.data for name, mask in result.masks.items()}
    true = {name: mask.data for name, mask in patient.masks.items()}
    out: dict[str, Any] = {
        "aif_in_artery": bool(true["artery"][tuple(result.curves.aif.voxels.T)].all()),
        "aif_area_ratio": aif_area_ratio(patient, result),
        "side_right": result.summary["side"] == (patient.side or "none"),
        "dice_brain": dice(found["brain"], true["brain"]),
    }
    for name in ("hypoperfusion", "core"):
        volume, expected = result.masks[name].volume_ml, patient.masks[name].volume_ml
        out[f"dice_{name}"] = dice(found[name], true[name])
        out[f"{name}_ml"] = volume
        out[f"{name}_true_ml"] = expected
        out[f"{name}_error_ml"] = volume - expected
        out[f"{name}_error_percent"] = 100 * (volume / expected - 1) if expected else None
    for name in ("cbf", "cbv"):
        out[f"grey_{name}_median"], out[f"grey_{name}_bias_percent"] = grey_bias_percent(
            patient, result, name
        )
    return out
