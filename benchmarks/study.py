"""The controlled small-scale study: which of the paper's ingredients earns its place?

    python benchmarks/study.py --root /path/to/data --out runs/study

Trains every variant with every seed by `ebapose.training.train`, on the same data, with the same budget of samples and
the same augmentation (`recipes/study/study_64x64.yaml`), evaluates each by `ebapose evaluate`'s function (annotated
boxes, flip test) and writes `study.md` and `study.json`: mean over the seeds and the spread, parameters, cost and, when
all runs are finished, the latency of each: the median of rounds in which all variants take turns. Each variant differs
from the one it is compared with in one thing.

It can be stopped at any time: the next call goes on with the interrupted run and passes over the finished ones, and the
table holds every finished run of the folder, none that did not happen. A run folder made by another recipe is refused,
so that a table never mixes budgets. `--known study.json` takes over the finished runs of another folder or machine:

    python benchmarks/study.py --root /path/to/data --out runs/rest --known study.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ebapose.atomic import write_text
from ebapose.benchmark.run import NetworkTiming, time_registered
from ebapose.cli.terminal import print_error
from ebapose.config import load_config
from ebapose.errors import EbaposeError, UsageError
from ebapose.evaluation.run import evaluate_model
from ebapose.models.complexity import measure_name
from ebapose.training import TrainConfig, load_train_config, train
from ebapose.training.checkpoint import CHECKPOINT_NAME
from ebapose.training.start import keep_freed_memory

RECIPE = Path(__file__).parents[1] / "recipes/study/study_64x64.yaml"
RESULT_NAME = "result.json"
NOT_MEASURED = "not measured"
EVALUATIONS = ("annotations/val.json", "annotations/val_everyday.json")

# name: what it shows, model, its options, further overrides of the recipe
VARIANTS: dict[str, tuple[str, str, dict[str, Any], tuple[str, ...]]] = {
    "heatmap": (
        "Simple Baseline's heatmaps, Mish",
        "simple_baseline18_64x64",
        {"activation": "mish", "sigma": 1.0},
        (),
    ),
    "simcc_one_hot": (
        "SimCC, one layer per axis, one-hot targets smoothed by 0.1, Mish",
        "simcc18_64x64",
        {"activation": "mish", "split_ratio": 2.0, "sigma": 3.0},
        ("--loss.targets", "one_hot", "--loss.label_smoothing", "0.1"),
    ),
    "simcc_slp": (
        "the same, Gaussian targets (SLP)",
        "simcc18_64x64",
        {"activation": "mish", "split_ratio": 2.0, "sigma": 3.0},
        (),
    ),
    "mlp": (
        "the same, two layers per axis (MLP)",
        "eba_prnetcc18_64x64",
        {"reduction": None, "split_ratio": 2.0, "sigma": 3.0},
        (),
    ),
    "mlp_attention": (
        "the same, bridge attention: EBA-PRNetCC18",
        "eba_prnetcc18_64x64",
        {"split_ratio": 2.0, "sigma": 3.0},
        (),
    ),
    "mlp_attention_relu": (
        "EBA-PRNetCC18 with ReLU",
        "eba_prnetcc18_64x64",
        {"activation": "relu", "split_ratio": 2.0, "sigma": 3.0},
        (),
    ),
    "tfpose_small": (
        "small TFPose, Mish in the ResNet, a third of the learning rate",
        "tfpose18_small_64x64",
        {"activation": "mish"},
        ("--loss.map_weight", "1.0", "--optim.lr", "3.0e-4"),
    ),
    "lite": (
        "EBA-PRNetCC lite18",
        "eba_prnetcc_lite18_64x64",
        {"split_ratio": 2.0, "sigma": 3.0},
        (),
    ),
}

# Keys that the study sets itself, run by run or for one of its variants.
_OWN = {"name", "data.root", "run.seed", "model.name", "model.options"} | {
    option.removeprefix("--") for *_, own in VARIANTS.values() for option in own[::2]
}


def variant_config(
    variant: str, seed: int, root: Path, overrides: Sequence[str] = (), recipe: Path = RECIPE
) -> TrainConfig:
    """The recipe of one run.

    Raises UsageError for overrides of what makes a variant, or a seed, what it is: the table would not say so.
    """
    _, model, options, own = VARIANTS[variant]
    for word in overrides:
        key = word.removeprefix("--").partition("=")[0]
        if word.startswith("--") and (key in _OWN or key.startswith("model.options.")):
            raise UsageError(f"--{key}: the study sets it; take --seeds, --variants, --root or another --recipe")
    fixed = ["--name", f"study_{variant}", "--data.root", json.dumps(str(root)), "--run.seed", str(seed)]
    fixed += ["--model.name", model, "--model.options", json.dumps(options)]
    return load_train_config(recipe, [*fixed, *own, *overrides])


def require_recipe(config: TrainConfig, folder: Path) -> None:
    """Raise UsageError where a run's folder was made by another recipe."""
    if (folder / "recipe.yaml").exists() and not is_made_by(config, folder):
        raise UsageError(f"{folder}: made by another recipe; choose another --out or remove it")


def run_one(config: TrainConfig, folder: Path, evaluations: Sequence[str], images: Path | None) -> bool:
    """Train and evaluate what is not done yet of one run; False when the training was interrupted."""
    if not (folder / RESULT_NAME).exists():
        result = train(config, folder, resume=(folder / CHECKPOINT_NAME).exists())
        if result.finished == "interrupted":
            return False
    found: dict[str, Any] = json.loads((folder / RESULT_NAME).read_text(encoding="utf-8"))
    for relative in evaluations:
        report = report_file(folder, relative)
        if not report.exists():
            evaluate_model(
                folder / found["weights"],
                config.data.root / relative,
                report.parent,
                images_dir=images,
                runtime="torch",
                batch_size=64,
                worst=0,
                with_plots=False,
            )
    return True


def report_file(folder: Path, annotations: str) -> Path:
    """Where a run's evaluation on an annotation file stands."""
    return folder / f"evaluation_{Path(annotations).stem}" / "metrics.json"


def read_run(config: TrainConfig, folder: Path, evaluations: Sequence[str]) -> dict[str, Any] | None:
    """A finished run's numbers; None where it is not finished or was made by another recipe."""
    files = [folder / RESULT_NAME, folder / "recipe.yaml", *(report_file(folder, name) for name in evaluations)]
    if not all(file.exists() for file in files) or not is_made_by(config, folder):
        return None
    found = json.loads(files[0].read_text(encoding="utf-8"))
    metrics = {}
    for relative in evaluations:
        content = json.loads(report_file(folder, relative).read_text(encoding="utf-8"))
        metrics[Path(relative).stem] = {
            "PCK@0.2": content["pck"]["torso"]["PCK@0.2"],
            "AP": content["coco"]["AP"],
            "AR": content["coco"]["AR"],
            "persons": content["num_persons"],
        }
    return {
        "seed": config.run.seed,
        "recipe": recipe_digest(config),
        "samples": found["samples"],
        "seconds": found["elapsed_s"],
        "metrics": metrics,
    }


def is_made_by(config: TrainConfig, folder: Path) -> bool:
    """Whether a run's folder was made by this recipe."""
    try:
        return load_config(TrainConfig, folder / "recipe.yaml") == config
    except EbaposeError:  # of a version with other keys
        return False


def recipe_digest(config: TrainConfig) -> str:
    """Tells recipes apart, wherever their data lie; a key that came into being later changes nothing by its default."""
    content = config.model_dump(mode="json", exclude_defaults=True)
    content["data"].pop("root", None)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def read_known(file: Path, configs: Mapping[tuple[str, int], TrainConfig]) -> dict[tuple[str, int], dict[str, Any]]:
    """The finished runs of a `study.json`, by variant and seed; those that this study does not have are left out.

    Raises UsageError where the file is no study's, or one of the runs was made by another recipe.
    """
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
        runs = {(row["variant"], run["seed"]): run for row in rows for run in row["runs"]}
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"--known: {file}: not a study.json") from None
    for key in runs.keys() & configs.keys():
        if runs[key].get("recipe") != recipe_digest(configs[key]):
            raise UsageError(f"--known: {file}: {key[0]}, seed {key[1]}, was made by another recipe")
    return {key: run for key, run in runs.items() if key in configs}


def write_tables(
    out: Path,
    runs: Mapping[str, Sequence[dict[str, Any]]],
    seeds: Sequence[int],
    samples: int,
    timings: Mapping[str, NetworkTiming],
    about_latency: str,
) -> None:
    """`study.json` and `study.md` of what is finished so far.

    Args:
        out: their folder.
        runs: by variant, from `read_run`; what is missing or empty is not in the table.
        seeds: that belong to the study.
        samples: budget of each run.
        timings: by variant, from `time_registered`; a variant without one is "not measured".
        about_latency: how they were measured; empty: they were not.
    """
    rows = []
    for variant, (title, model, options, _) in VARIANTS.items():
        finished = runs.get(variant)
        if not finished:
            continue
        cost, timing = measure_name(model, **options), timings.get(variant)
        row: dict[str, Any] = {"variant": variant, "title": title, "model": model, "options": options, "runs": finished}
        row |= {"parameters": cost.num_parameters, "gmac_true": cost.gmac("true"), "summary": {}}
        row["latency"] = timing and {"ms_per_crop": timing.ms_per_crop, "quartiles_ms": list(timing.quartiles_ms)}
        for name in finished[0]["metrics"]:
            for metric in ("PCK@0.2", "AP", "AR"):
                values = [run["metrics"][name][metric] for run in finished]
                known = [100 * value for value in values if value is not None]
                if known:
                    spread = {"mean": statistics.mean(known), "min": min(known), "max": max(known), "runs": len(known)}
                    row["summary"][f"{name} {metric}"] = spread
        rows.append(row)
    columns = list(dict.fromkeys(column for row in rows for column in row["summary"]))
    head = ["variant", "what", "M parameters", "GMAC", "ms per crop", "seeds", *columns]
    lines = [head, ["---", "---", *["---:"] * (len(head) - 2)]]
    for row in rows:
        cells = [row["variant"], row["title"], f"{row['parameters'] / 1e6:.2f}", f"{row['gmac_true']:.3f}"]
        cells.append(f"{row['latency']['ms_per_crop']:.2f}" if row["latency"] else NOT_MEASURED)
        cells.append(f"{len(row['runs'])} of {len(seeds)}")
        for column in columns:
            value = row["summary"].get(column)
            cells.append(f"{value['mean']:.1f} ({value['min']:.1f}-{value['max']:.1f})" if value else NOT_MEASURED)
        lines.append(cells)
    missing = [variant for variant in VARIANTS if not runs.get(variant)]
    text = (
        "# Small-scale study\n\n"
        f"64x64, ResNet-18, {samples} samples from scratch, the same data and augmentation for all; annotated boxes, "
        "flip test; per cent, mean over the seeds (smallest - largest). GMAC: true 10^9 multiply-accumulates per crop. "
        f"Latency: {about_latency or NOT_MEASURED}.\n\n"
        + "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
        + (f"\n\nNot run: {', '.join(missing)}." if missing else "")
        + "\n"
    )
    content = {"samples": samples, "seeds": list(seeds), "latency": about_latency or None, "rows": rows}
    write_text(out / "study.json", json.dumps(content, indent=1) + "\n")
    write_text(out / "study.md", text)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of the data, as the recipe's data.root")
    parser.add_argument("--out", type=Path, required=True, help="a folder per run, study.md and study.json")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--evaluate", nargs="+", default=list(EVALUATIONS), help="annotation files, relative to --root")
    parser.add_argument("--images", type=Path, help="folder of their pictures, if it is not found beside them")
    parser.add_argument("--known", type=Path, help="study.json whose finished runs of the same recipe count, too")
    parser.add_argument("--repeats", type=int, default=20, help="timed rounds of the latencies; 0: do not measure them")
    known, overrides = parser.parse_known_args(arguments)  # --run.samples 50000 and so on go to the recipe
    keep_freed_memory()
    try:
        return run_study(known, overrides)
    except EbaposeError as error:
        print_error(str(error))
        return 2


def run_study(known: argparse.Namespace, overrides: Sequence[str]) -> int:
    """All runs that are asked for, and the table; returns the exit code.

    What is wrong with any of the runs is an EbaposeError before the first of them begins.
    """
    seeds = list(dict.fromkeys(known.seeds))  # the same seed twice is one run
    configs = {
        (variant, seed): variant_config(variant, seed, known.root, overrides, known.recipe)
        for seed in seeds  # seed by seed: a whole table early, the spread later
        for variant in VARIANTS
    }
    if known.repeats < 0:
        raise UsageError(f"--repeats: {known.repeats} rounds make no sense")
    if known.out.exists() and not known.out.is_dir():
        raise UsageError(f"{known.out}: is a file, not a folder for a study")
    stems = [Path(relative).stem for relative in known.evaluate]
    for relative, stem in zip(known.evaluate, stems, strict=True):
        if not (known.root / relative).is_file():
            raise UsageError(f"--evaluate: {known.root / relative}: no such file")
        if stems.count(stem) > 1:
            raise UsageError(f"--evaluate: several files are called {stem}, their reports would be mixed up")

    elsewhere = read_known(known.known, configs) if known.known else {}

    def folder_of(variant: str, seed: int) -> Path:
        return Path(known.out) / variant / f"seed{seed}"

    wanted = [key for key in configs if key[0] in known.variants and key not in elsewhere]
    for key in wanted:
        require_recipe(configs[key], folder_of(*key))
    samples = next(iter(configs.values())).run.samples or 0

    def finished() -> dict[str, list[dict[str, Any]]]:
        found = {
            key: elsewhere.get(key) or read_run(config, folder_of(*key), known.evaluate)
            for key, config in configs.items()
        }
        return {name: [run for (variant, _), run in found.items() if run and variant == name] for name in VARIANTS}

    for variant, seed in wanted:
        if not run_one(configs[variant, seed], folder_of(variant, seed), known.evaluate, known.images):
            print(f"{variant}, seed {seed}: interrupted; the same command goes on")
            return 130
        runs = finished()
        write_tables(known.out, runs, seeds, samples, {}, "")
        print(f"{variant}, seed {seed}: {next(r['metrics'] for r in runs[variant] if r['seed'] == seed)}", flush=True)
    runs = finished()
    models = {variant: VARIANTS[variant][1:3] for variant in runs if runs[variant]}
    timings = time_registered(models, known.repeats) if known.repeats else ({}, "")
    write_tables(known.out, runs, seeds, samples, *timings)
    print(known.out / "study.md")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
