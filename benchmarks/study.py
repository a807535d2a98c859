"""The controlled small-scale study: which of the paper's ingredients earns its place?

    python benchmarks/study.py --root /path/to/data --out runs/study

Trains every variant with every seed by `ebapose.training.train`, on the same data, with the same budget of samples and
the same augmentation (`recipes/study/study_64x64.yaml`), evaluates each by `ebapose evaluate`'s function (annotated
boxes, flip test) and writes `study.md` and `study.json`: mean over the seeds and the spread. Each variant differs from
the one it is compared with in one thing.

It can be stopped at any time: the next call goes on with the interrupted run and passes over the finished ones. A run
folder made by another recipe is refused, so that a table never mixes budgets.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ebapose.atomic import write_text
from ebapose.config import dump_yaml
from ebapose.errors import UsageError
from ebapose.evaluation.run import evaluate_model
from ebapose.models.complexity import measure_name
from ebapose.training import TrainConfig, load_train_config, train
from ebapose.training.checkpoint import CHECKPOINT_NAME

RECIPE = Path(__file__).parents[1] / "recipes/study/study_64x64.yaml"
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


def variant_config(
    variant: str, seed: int, root: Path, overrides: Sequence[str] = (), recipe: Path = RECIPE
) -> TrainConfig:
    """The recipe of one run."""
    _, model, options, own = VARIANTS[variant]
    fixed = ["--name", f"study_{variant}", "--data.root", json.dumps(str(root)), "--run.seed", str(seed)]
    fixed += ["--model.name", model, "--model.options", json.dumps(options)]
    return load_train_config(recipe, [*fixed, *own, *overrides])


def run_one(
    config: TrainConfig, folder: Path, evaluations: Sequence[str], images: Path | None
) -> dict[str, Any] | None:
    """Train and evaluate one run, or read what is there; None when the training was interrupted."""
    described = dump_yaml(config)
    result_file, recipe_file = folder / "result.json", folder / "recipe.yaml"
    if recipe_file.exists() and recipe_file.read_text(encoding="utf-8") != described:
        raise UsageError(f"{folder}: made by another recipe; choose another --out or remove it")
    if not result_file.exists():
        result = train(config, folder, resume=(folder / CHECKPOINT_NAME).exists())
        if result.finished == "interrupted":
            return None
    found: dict[str, Any] = json.loads(result_file.read_text(encoding="utf-8"))
    metrics = {}
    for relative in evaluations:
        name = Path(relative).stem
        report = folder / f"evaluation_{name}" / "metrics.json"
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
        content = json.loads(report.read_text(encoding="utf-8"))
        metrics[name] = {
            "PCK@0.2": content["pck"]["torso"]["PCK@0.2"],
            "AP": content["coco"]["AP"],
            "AR": content["coco"]["AR"],
            "persons": content["num_persons"],
        }
    return {"seed": config.run.seed, "samples": found["samples"], "seconds": found["elapsed_s"], "metrics": metrics}


def write_tables(out: Path, runs: dict[str, list[dict[str, Any]]], seeds: Sequence[int], samples: int) -> None:
    """`study.json` and `study.md` of what is finished so far."""
    rows = []
    for variant, (title, model, options, _) in VARIANTS.items():
        finished = runs.get(variant, [])
        cost = measure_name(model, **options)
        row: dict[str, Any] = {"variant": variant, "title": title, "model": model, "options": options, "runs": finished}
        row |= {"parameters": cost.num_parameters, "gmac_true": cost.gmac("true"), "summary": {}}
        for name in finished[0]["metrics"] if finished else ():
            for metric in ("PCK@0.2", "AP", "AR"):
                values = [run["metrics"][name][metric] for run in finished]
                known = [100 * value for value in values if value is not None]
                if known:
                    spread = {"mean": statistics.mean(known), "min": min(known), "max": max(known), "runs": len(known)}
                    row["summary"][f"{name} {metric}"] = spread
        rows.append(row)
    columns = list(dict.fromkeys(column for row in rows for column in row["summary"]))
    head = ["variant", "what", "M parameters", "GMAC", "seeds", *columns]
    lines = [head, ["---", "---", *["---:"] * (len(head) - 2)]]
    for row in rows:
        cells = [row["variant"], row["title"], f"{row['parameters'] / 1e6:.2f}", f"{row['gmac_true']:.3f}"]
        cells.append(f"{len(row['runs'])} of {len(seeds)}")
        for column in columns:
            value = row["summary"].get(column)
            cells.append(f"{value['mean']:.1f} ({value['min']:.1f}-{value['max']:.1f})" if value else "not run")
        lines.append(cells)
    text = (
        "# Small-scale study\n\n"
        f"64x64, ResNet-18, {samples} samples from scratch, the same data and augmentation for all; annotated boxes, "
        "flip test; per cent, mean over the seeds (smallest - largest).\n\n"
        + "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
        + "\n"
    )
    write_text(
        out / "study.json", json.dumps({"samples": samples, "seeds": list(seeds), "rows": rows}, indent=1) + "\n"
    )
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
    known, overrides = parser.parse_known_args(arguments)  # --run.samples 50000 and so on go to the recipe
    runs: dict[str, list[dict[str, Any]]] = {}
    samples = 0
    for seed in known.seeds:  # seed by seed: a whole table early, the spread later
        for variant in known.variants:
            config = variant_config(variant, seed, known.root, overrides, known.recipe)
            samples = config.run.samples or 0
            found = run_one(config, known.out / variant / f"seed{seed}", known.evaluate, known.images)
            if found is None:
                print(f"{variant}, seed {seed}: interrupted; the same command goes on")
                return 130
            runs.setdefault(variant, []).append(found)
            write_tables(known.out, runs, known.seeds, samples)
            print(f"{variant}, seed {seed}: {found['metrics']}", flush=True)
    print(known.out / "study.md")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
