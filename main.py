"""The older command line: ``python main.py gpu sname [options]``, a thin adapter to strokect.

Reads setting files of today and of the source's systems, trains, predicts the test patients and
evaluates. ``strokect experiment`` does the same for many settings.
"""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
SETTINGS = (ROOT / "settings" / "multi_input", ROOT / "settings" / "ctp")
#: Debug mode: virtual patients, and channels of a network's first level.
DEBUG_PATIENTS, DEBUG_WIDTH = 8, 4


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        prog="main.py", description="Train and test one model. Research use only."
    )
    add = out.add_argument
    add("gpu", help='id of the gpu, several as "0,1", or "cpu"')
    add("sname", help="setting file, or its name in settings/multi_input or settings/ctp")
    add("-v", "--verbose", action="store_true", help="say more")
    add("-d", "--debug", action="store_true", help="quick trial: 1 epoch, a small network, "
        "virtual patients where no data set is given")  # fmt: skip
    add("-o", "--original", action="store_true",
        help="results on the scan's own grid, time first: always so here")  # fmt: skip
    add("-s", "--setting_filename", metavar="SETTING", help="setting file, instead of sname")
    add("-t", "--tile", type=int, help="pixels of a tile (M x M); older files: 16")
    add("-dim", "--dimension", type=int, help="pixels of a slice (width x height)")
    add("-c", "--classes", type=int, choices=(2, 3, 4), help="number of classes; older files: 4")
    add("-pm", "--pm", action="store_true", help="the network sees parametric maps")
    add("-w", "--weights", type=float, nargs="+", help="weight of each class in the loss")
    add("-e", "--exp", help="number or name of the experiment, added to that of the run")
    add("-j", "--jump", action="store_true", help="no training: test what is trained")
    add("--data", type=Path, metavar="DIR", help="data set, instead of that of the settings")
    add("--out", type=Path, metavar="DIR", default=Path("runs"), help="results (runs)")
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; returns the exit code: 0 done, 1 failure, 2 bad input."""
    args = parser().parse_args(argv)
    from strokect.core.errors import StrokeCTError

    if not args.verbose:  # what libraries have to say is not for users
        warnings.simplefilter("ignore")
        logging.disable()
    try:
        _run(args)
    except StrokeCTError as error:
        print(f"main.py: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("main.py: interrupted. Run the same command again to go on", file=sys.stderr)
        return 130
    return 0


def _run(args: argparse.Namespace) -> None:
    devices = _devices(args.gpu)
    from strokect import RESEARCH_USE_ONLY
    from strokect.training_settings import parse_training_settings

    path = setting_file(args.setting_filename or args.sname)
    contents = _contents(path, args)
    for content in contents:  # as it stands, so that there is something to override
        parse_training_settings(content, path)
    contents = [_overridden(content, args) for content in contents]
    chosen = [parse_training_settings(content, path) for content in contents]
    for settings in chosen:
        _check(settings, args)
    if args.original:
        print("-o: predictions always lie on the scan's own grid, time first")
    from strokect.experiment import ExperimentOptions, run_experiment
    from strokect.learn.predict import UncertaintyOptions
    from strokect.learn.train import Machine

    flips = UncertaintyOptions("none") if args.debug else UncertaintyOptions()
    options = ExperimentOptions(Machine(_found(devices)), rules=False, uncertainty=flips)
    run_experiment(chosen, args.data, args.out, options, print)
    for settings in chosen:
        folder = args.out / settings.name
        print(f"model: {folder / 'model'}")
        print(f"predictions: {folder / 'predictions'}")
        print(f"evaluation: {folder / 'evaluation' / 'table.md'}")
    print(f"comparison: {args.out / 'comparison' / 'table.md'}")
    if args.debug:
        print("debug mode: these figures mean nothing")
    print(RESEARCH_USE_ONLY)


def setting_file(name: str) -> Path:
    """The file that a path names, or a name in the folders of settings."""
    from strokect.core.errors import SettingsError

    tries = [Path(name), *(folder / end for folder in SETTINGS for end in (name, f"{name}.json"))]
    for path in tries:
        if path.is_file():
            return path
    known = [p.stem for folder in SETTINGS for p in sorted(folder.glob("*.json"))]
    near = difflib.get_close_matches(Path(name).stem, known, 3)
    hint = f"Did you mean {', '.join(near)}?" if near else f"Known: {', '.join(known)}"
    raise SettingsError("no such setting file", name, hint)


def _contents(path: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """What stands in a file, in the form of today."""
    from strokect.cli_settings import patients_in
    from strokect.core.json_files import read_json_object
    from strokect.legacy import LegacyOptions, is_legacy, upgrade

    content = read_json_object(path, '{"name": "mine", "network": {"name": "multi_input"}}')
    if not is_legacy(content):
        return [content]
    options = LegacyOptions(
        path.stem,
        args.classes or 4,
        args.tile,
        args.dimension,
        True if args.pm else None,
        patients_in(args.data) if args.data else (),
    )
    done = upgrade(content, options=options, path=path)
    shown = [n for n in done.notes if args.verbose or n.action == "dropped"]
    print(f"{path}: an older setting file; {len(done.notes)} keys read, what is not used:")
    for note in shown:
        print(f"  {note.action:<7} {note.key}: {note.text}")
    if args.data is None:
        return list(done.settings)
    return [_with_layout(content, args.data) for content in done.settings]


def _with_layout(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """An older file's content for a data set that need not lie as the source's."""
    from strokect.io.cases import guess_layout

    layout = guess_layout(folder)
    if layout in (None, "slices"):
        return content
    data = {**content["data"], "layout": layout, "layout_options": {}}
    seen = content["input"]
    seen = {**seen, "source": "computed"} if seen["kind"] == "maps" else seen
    return {**content, "data": data, "input": seen}


def _overridden(content: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """The content with what the command line says instead."""
    out = dict(content)

    def put(room: str, **values: Any) -> None:
        out[room] = {**out.get(room, {}), **values}

    if args.classes is not None:
        put("data", classes=args.classes)
    if args.dimension is not None:
        put("input", pixels=args.dimension, spacing_mm=None)
    if args.tile is not None:
        whole = args.dimension is not None and args.tile >= args.dimension
        window = None if whole else [args.tile, args.tile]
        put("slab", tile=window)
        put("tiling", tile=window)
    if args.weights is not None:
        options = out.get("loss", {}).get("options", {})
        put("loss", options={**options, "class_weights": args.weights})
    if args.exp is not None:
        out["name"] = f"{out.get('name', 'run')}_{args.exp}"
    return _debugged(out, args.data is not None) if args.debug else out


def _debugged(content: dict[str, Any], has_data: bool) -> dict[str, Any]:
    """The content of a trial that is done in minutes."""
    out = {**content, "name": f"{content.get('name', 'run')}_debug"}
    network = out.get("network", {})
    config = {**network.get("config", {})}
    if "width" in config or network.get("name") in ("multi_input", "mjnet_2dt", "mjnet_3dt"):
        config["width"] = DEBUG_WIDTH
        print(f"debug mode: width {DEBUG_WIDTH}, 1 epoch of each stage")
    out["network"] = {**network, "config": config, "encoder_weights": ""}
    out["training"] = {**out.get("training", {}), "epochs": 1, "validate_every": 1}
    out["finetune"] = [
        {**stage, "epochs": min(stage.get("epochs") or 1, 1)} for stage in out.get("finetune", [])
    ]
    slab = out.get("slab", {})
    out["slab"] = {**slab, "per_case": min(slab.get("per_case", 1), 4)}
    data = out.get("data", {})
    if has_data or data.get("folder"):
        return out
    print(f"debug mode: {DEBUG_PATIENTS} virtual patients, as no data set is given")
    out["data"] = {
        "classes": data.get("classes", 4),
        "split": "random",  # so few may all have been given to training
        "fractions": [0.5, 0.25, 0.25],
        "virtual": {"patients": DEBUG_PATIENTS, "seed": 100, "size": "small"},
    }
    if out.get("input", {}).get("kind") == "maps":
        out["input"] = {**out["input"], "source": "computed"}
    return out


def _check(settings: Any, args: argparse.Namespace) -> None:
    from strokect.core.errors import SettingsError
    from strokect.training import is_trained

    if args.pm and settings.input.kind != "maps":
        raise SettingsError(
            f"{settings.name} sees the scan", "-pm", 'Leave -pm out, or set input.kind to "maps"'
        )
    if args.jump and not is_trained(args.out / settings.name):
        raise SettingsError(
            "no trained model", args.out / settings.name, "Leave -j out to train it first"
        )


def _devices(text: str) -> tuple[str, ...]:
    """Ids of GPUs, none for the CPU; others are hidden from every library from here on."""
    from strokect.core.errors import SettingsError

    ids = () if text.strip().lower() == "cpu" else tuple(p.strip() for p in text.split(","))
    if not all(i.isdecimal() for i in ids) or len(set(ids)) < len(ids):
        raise SettingsError(f"{text!r} is no gpu", "gpu", 'Give e.g. "0", "0,1" or "cpu"')
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(ids) or "-1"
    return ids


def _found(ids: tuple[str, ...]) -> int:
    """How many devices to train on. Says so where a GPU that is asked for is not there."""
    import torch

    count = torch.cuda.device_count() if ids else 0
    if count < len(ids):
        print(f"gpu {','.join(ids)}: {count} found" + ("" if count else "; the CPU is used"))
    return max(1, count)


if __name__ == "__main__":
    sys.exit(main())
