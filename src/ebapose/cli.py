"""The command line: verbs only. Each parses its arguments, calls one function of the package and prints.

Options and help come from the signatures and docstrings below. Everything heavy is imported inside the verbs, so that
`ebapose --help` is quick.

Exit codes: 0 all done, 1 some inputs failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import errno
import inspect
import logging
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import tyro

from ebapose.errors import EbaposeError, MissingDependencyError, ModelFileError, UsageError

Format: TypeAlias = Literal["overlay", "json", "coco", "csv", "parquet", "plots", "sheet"]
RuntimeName: TypeAlias = Literal["auto", "openvino", "onnxruntime", "torch"]


def predict(
    sources: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE...", help_behavior_hint="(required)")
    ],
    /,
    out: Path = Path("ebapose-out"),
    save: tuple[Format, ...] = ("overlay", "json"),
    model: str = "default",
    runtime: RuntimeName = "auto",
    boxes: Path | None = None,
    annotations: Path | None = None,
    flip_test: bool = False,
    whole_image: bool = False,
    detector_score: float = 0.35,
    batch_size: int = 16,
    threads: int | None = None,
    min_score: float = 0.2,
    draw_boxes: bool = True,
    draw_uncertainty: bool = False,
    smooth: bool = True,
    detect_every: float | None = None,
    show: bool = False,
    seconds: float | None = None,
    clip: bool = False,
    fps: float | None = None,
    quiet: bool = False,
) -> int:
    """Estimate the poses of all persons in pictures and videos.

    Args:
        sources: Picture, folder, glob pattern, video, list file (.txt), or - for paths on standard input. Also a
            camera (0), an address (rtsp://, http://) or pipe:0 for a video on standard input.
        out: Folder for the results.
        save: What to write: overlay (pictures, videos), json, coco, csv, parquet; of videos also plots, sheet.
        model: Name of a bundled model (see `ebapose models`) or a model file (.onnx, .xml, .safetensors).
        runtime: What runs the network; auto takes OpenVINO.
        boxes: Person boxes to use instead of the detector: COCO detections or annotations (JSON).
        annotations: COCO annotations that name the image ids for --save coco.
        flip_test: Also run mirror images and average: a little more accurate, twice the cost.
        whole_image: Do not look for persons: one person fills each picture.
        detector_score: Person boxes below this score are dropped.
        batch_size: Most persons that go through the network at once.
        threads: CPU threads; all available ones by default.
        min_score: Keypoints below this score are not drawn.
        draw_boxes: Draw the person boxes.
        draw_uncertainty: Draw the predicted uncertainty as ellipses.
        smooth: Videos: filter the keypoints over time.
        detect_every: Videos: look for persons at least every so many seconds; 0: in every frame. Default 0.1.
        show: Videos: open a window; q closes it.
        seconds: Videos: stop after so many seconds.
        clip: A folder is a video of numbered frames, and - a video on standard input.
        fps: Videos: frames per second of a folder of frames, or to overrule a file's.
        quiet: Print failures only.
    """
    from ebapose.inference.detector import GivenBoxes, NanoDet, PersonDetector
    from ebapose.inference.predictor import load
    from ebapose.inference.run import predict_sources
    from ebapose.inference.video import VideoOptions
    from ebapose.io.readers import read_detections

    if not sources:
        raise UsageError("predict: name at least one picture, folder, pattern, list file or -")
    if not save:
        raise UsageError("--save: name at least one of what there is to write, see ebapose predict --help")
    if boxes is not None and whole_image:
        raise UsageError("--boxes and --whole-image exclude each other")
    video = VideoOptions(smooth=smooth, detect_every_s=detect_every, show=show, seconds=seconds, fps=fps)
    detector: PersonDetector | Literal["whole-image"]
    if boxes is not None:
        given = _as_usage(read_detections, boxes)
        detector = GivenBoxes(given.boxes, unusable=given.unusable)
    elif whole_image:
        detector = "whole-image"
    else:
        detector = NanoDet(score_threshold=detector_score, threads=threads)
    predictor = load(model, runtime, detector=detector, flip_test=flip_test, batch_size=batch_size, threads=threads)
    with _Progress("predicting", "pictures", quiet) as progress:
        summary = predict_sources(
            predictor,
            sources,
            out,
            save,
            annotations=annotations,
            show_boxes=draw_boxes,
            show_uncertainty=draw_uncertainty,
            min_score=min_score,
            clips=clip,
            video=video,
            on_start=progress.start,
            on_image=progress.advance,
            on_failure=_print_error,
        )
    if not quiet:
        failed = f", {_count(len(summary.failures), 'problem')}" if summary.failures else ""
        if summary.images or not summary.videos:
            found = f"{_count(summary.images, 'image')}, {_count(summary.persons, 'person')}"
            print(f"{found}{failed} in {summary.seconds:.1f} s -> {out}")
            print(f"ms per image: {_stages(summary.milliseconds)}")
        for walked in summary.videos:
            print(f"{walked.line()} -> {out}")
            print(f"ms per frame: {_stages(walked.milliseconds)}")
        card = predictor.card
        print(f"model: {card.name} ({predictor.runtime.name}, {predictor.runtime.precision})")
    return 1 if summary.failures else 0


def models(json: bool = False, test: bool = False) -> int:
    """List the models: input, parameters, cost in three conventions, and whether weights are bundled.

    Args:
        json: Print JSON instead of a table.
        test: Also list the tiny models of the test suite.
    """
    from ebapose.models.overview import describe_models, models_table

    rows = describe_models(include_test=test)
    if json:
        _print_json([row.to_dict() for row in rows])
    else:
        _print(models_table(rows))
    return 0


def evaluate(
    model: tyro.conf.Positional[str | None] = None,
    /,
    *,
    annotations: Path,
    out: Path,
    images: Path | None = None,
    boxes: str | None = None,
    predictions: Path | None = None,
    skeleton: str | None = None,
    flip_test: bool = True,
    runtime: RuntimeName = "auto",
    detector_score: float = 0.0,
    batch_size: int = 16,
    threads: int | None = None,
    worst: int = 12,
) -> int:
    """Measure a model, or any tool's COCO results, on COCO keypoint annotations; writes a report folder.

    Args:
        model: Bundled model or model file; leave out with --predictions.
        annotations: COCO keypoint annotations.
        out: Folder for the report.
        images: Folder of the pictures; found beside the annotations if it has a usual name.
        boxes: gt for the annotated boxes (default for a model), or a COCO detections file.
        predictions: COCO results of any tool to judge instead of running a model.
        skeleton: Name (coco17, lsp14, mpii16, crowdpose14) or file of the skeleton; default: that of the annotations.
        flip_test: Average with the mirror image.
        runtime: What runs the network; auto takes OpenVINO.
        detector_score: With a detections file: boxes below this score are left out.
        batch_size: Most persons that go through the network at once.
        threads: CPU threads; all available ones by default.
        worst: How many of the worst poses to draw.
    """
    from ebapose.evaluation.run import evaluate as run_evaluation

    running: dict[str, Any] = {
        "flip_test": flip_test,
        "runtime": runtime,
        "detector_score": detector_score,
        "batch_size": batch_size,
        "threads": threads,
    }
    if predictions is not None:  # only what was asked for is refused there, not the defaults
        defaults = inspect.signature(evaluate).parameters
        running = {name: value for name, value in running.items() if value != defaults[name].default}
    with _Progress("evaluating", "pictures", quiet=predictions is not None) as progress:
        if predictions is None:
            running |= {"on_start": progress.start, "on_image": progress.advance}
        report = run_evaluation(
            model,
            annotations,
            out,
            predictions=predictions,
            images_dir=images,
            boxes=boxes,
            skeleton=skeleton,
            worst=worst,
            **running,
        )
    print(report.summary())
    print(f"report: {out / 'report.md'}")
    return 1 if report.metrics["unreadable_pictures"] else 0


def train(recipe: tyro.conf.Positional[Path], /, *, out: Path, resume: bool = False) -> int:
    """Train a model by a recipe (YAML). Any key of the recipe is an option too: --optim.lr 1e-4 --run.workers 4.

    Args:
        recipe: The recipe; see the folder recipes/ and docs/fine_tuning.md.
        out: Run folder for checkpoints, logs and the final weights.
        resume: Go on from the newest complete checkpoint in the run folder.
    """
    raise AssertionError(f"handled in main: {recipe} {out} {resume}")  # its free options need the raw arguments


def _train(arguments: Sequence[str]) -> int:
    from ebapose.training.config import TrainConfig, load_train_config

    own, overrides = _split_overrides(arguments, set(TrainConfig.model_fields))
    if not {"-h", "--help"} & set(own):
        if not any(word == "--out" or word.startswith("--out=") for word in own):
            raise UsageError("train: --out is missing: ebapose train RECIPE.yaml --out DIR")
        if len(own) == 1 or (len(own) == 2 and own[0] == "--out"):
            raise UsageError("train: the recipe is missing: ebapose train RECIPE.yaml --out DIR")
    options = tyro.cli(_TrainOptions, prog="ebapose train", args=own)
    config = load_train_config(options.recipe, overrides)
    from ebapose.training.loop import train as run_training  # a wrong recipe must not wait for torch

    result = run_training(config, options.out, options.resume)
    print(result.summary())
    return 130 if result.finished == "interrupted" else 0


def _split_overrides(arguments: Sequence[str], sections: set[str]) -> tuple[list[str], list[str]]:
    """The verb's own arguments, and those that are keys of a recipe, each with its value.

    Raises UsageError for a key without a value.
    """
    own: list[str] = []
    overrides: list[str] = []
    words = list(arguments)
    while words:
        word = words.pop(0)
        key, has_value, _ = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not ("." in key or key in sections):
            own.append(word)
            continue
        overrides.append(word)
        if not has_value:
            if not words or words[0].startswith("--"):
                raise UsageError(f"{word}: a value is missing")
            overrides.append(words.pop(0))
    return own, overrides


class _TrainOptions:
    def __init__(self, recipe: tyro.conf.Positional[Path], /, *, out: Path, resume: bool = False) -> None:
        self.recipe, self.out, self.resume = recipe, out, resume


_TrainOptions.__init__.__doc__ = train.__doc__


def export(
    model: tyro.conf.Positional[str],
    /,
    *,
    out: Path,
    format: Literal["onnx", "openvino"] = "onnx",  # noqa: A002 - the option's name
    precision: Literal["fp32", "fp16", "bf16", "int8"] = "fp16",
    annotations: Path | None = None,
    images: Path | None = None,
) -> int:
    """Write a model as a file that runs without PyTorch, and verify that it gives the same poses.

    Args:
        model: Weights (.safetensors), a bundled model, or a registered name (with random weights, for timing).
        out: Folder for the file and its card.
        format: onnx runs in ONNX Runtime and OpenVINO, openvino in OpenVINO.
        precision: fp32, fp16 (stored so), bf16 (calculated so), or int8 (quantised, sensitive layers left out).
        annotations: COCO keypoints that calibrate int8 and judge the file by its AP.
        images: Folder of their pictures; found beside the annotations if it has a usual name.
    """
    from ebapose.export.files import export_model

    result = export_model(model, out, format=format, precision=precision, annotations=annotations, images=images)
    print(result.summary())
    return 0


def benchmark(
    model: str = "default",
    systems: tuple[str, ...] = (),
    batch_sizes: tuple[int, ...] = (1, 2, 4, 8),
    repeats: int = 20,
    threads: int | None = None,
    compare: Path | None = None,
    out: Path | None = None,
) -> int:
    """Time the network in every installed runtime, and the whole way of a picture, side by side in one run.

    Args:
        model: Bundled model or model file.
        systems: Registered model names to time beside it (random weights), e.g. simcc50_256x192.
        batch_sizes: Persons per network call.
        repeats: Timed rounds; runtimes take turns within each.
        threads: CPU threads; all available ones by default.
        compare: Any other ONNX pose model (or this one in int8) to time on the same number of crops.
        out: Folder for benchmark.json and a plot of accuracy against latency.
    """
    from ebapose.benchmark import run_benchmark
    from ebapose.benchmark_report import benchmark_table

    result = run_benchmark(
        model, systems=systems, batch_sizes=batch_sizes, repeats=repeats, threads=threads, compare=compare, out=out
    )
    _print(benchmark_table(result))
    return 0


def tables(
    out: Path,
    reports: tuple[str, ...] = (),
    latency: bool = True,
    repeats: int = 20,
    threads: int | None = None,
    pictures: Path | None = None,
    model: str = "default",
) -> int:
    """Write the EBA-PRNetCC paper's tables and figures with our numbers beside the paper's.

    Args:
        out: Folder for tables.json, tables.md and the figures.
        reports: Evaluation reports (folder or metrics.json); MODEL=PATH says which model a report is about.
        latency: Time every system of the tables, all in one run.
        repeats: Timed rounds; the systems take turns within each.
        threads: CPU threads; all available ones by default.
        pictures: Folder of pictures for figure 6; examples/ where it exists.
        model: Bundled model or model file that predicts figure 6.
    """
    from ebapose.comparison import write_comparison

    print(
        write_comparison(
            out, reports, latency=latency, repeats=repeats, threads=threads, pictures=pictures, model=model
        ).summary()
    )
    return 0


def import_weights(
    checkpoint: tyro.conf.Positional[Path],
    /,
    *,
    out: Path,
    input_hw: tuple[int, int] | None = None,
    targets: Literal["gaussian", "one_hot"] = "gaussian",
    sigma: float | None = None,
    color: Literal["bgr", "rgb"] = "bgr",
    license: str = "",  # noqa: A002 - the card's word
) -> int:
    """Convert a published SimCC or Simple Baseline checkpoint (.pth) into weights with a card. Nothing is unpickled.

    Args:
        checkpoint: The published file; architecture and size are recognised by its tensors.
        out: The .safetensors file to write.
        input_hw: Input height and width, where neither the tensors nor the file name say it.
        targets: What SimCC was trained with.
        sigma: Of SimCC's Gaussian targets, in bins; default: the architecture's.
        color: Channel order of the training pictures; the published configurations say BGR.
        license: Of the checkpoint, for the card.
    """
    from ebapose.models.official import import_official

    card = import_official(
        checkpoint, out, input_hw=input_hw, targets=targets, sigma=sigma, color=color, license=license
    )
    print(f"{out}: {card.name}")
    return 0


def calibrate_weights(
    weights: tyro.conf.Positional[Path],
    /,
    *,
    annotations: tuple[Path, ...],
    images: Path | None = None,
) -> int:
    """Make scores and standard deviations mean what they say: measure them on data, correct them in the card.

    Args:
        weights: The .safetensors file whose card is replaced.
        annotations: COCO keypoint annotations of persons that the model was not trained on.
        images: Folder of the pictures; found beside the annotations if it has a usual name.
    """
    from ebapose.evaluation.run import calibrate_weights as run_calibration

    with _Progress("calibrating", "pictures", quiet=False) as progress:
        gain = run_calibration(
            weights, annotations, images_dir=images, on_start=progress.start, on_image=progress.advance
        )
    print(
        "on persons not fitted to: expected calibration error of the scores "
        f"{gain.score_error_before:.3f} -> {gain.score_error_after:.3f}, errors within one sigma "
        f"{gain.within_sigma_before:.3f} -> {gain.within_sigma_after:.3f} (0.683 is right)"
    )
    return 0


def data() -> int:
    """Check, show, convert or make training data: see `ebapose data --help`."""
    raise UsageError("data: name what to do: check, show, convert or synth")


def weights() -> int:
    """Import published checkpoints, calibrate trained ones: see `ebapose weights --help`."""
    raise UsageError("weights: name what to do: import or calibrate")


def _group(name: str) -> dict[str, Callable[..., int]] | None:
    """The verbs of a group of verbs."""
    if name == "data":
        from ebapose.data import commands

        return {"check": commands.check, "show": commands.show, "convert": commands.convert, "synth": commands.synth}
    if name == "weights":
        return {"import": import_weights, "calibrate": calibrate_weights}
    return None


VERBS: dict[str, Callable[..., int]] = {
    "predict": predict,
    "models": models,
    "evaluate": evaluate,
    "train": train,
    "export": export,
    "benchmark": benchmark,
    "tables": tables,
    "data": data,
    "weights": weights,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the `ebapose` command; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if arguments in (["--version"], ["-V"]):
        from ebapose import __version__

        print(f"ebapose {__version__}")
        return 0
    try:
        if arguments[:1] == ["train"]:
            return _train(arguments[1:])
        group = _group(arguments[0]) if len(arguments) > 1 else None
        if group is not None:
            return tyro.extras.subcommand_cli_from_dict(group, prog=f"ebapose {arguments[0]}", args=arguments[1:])
        return tyro.extras.subcommand_cli_from_dict(
            VERBS, prog="ebapose", description="2D human pose estimation: a photo in, poses out.", args=arguments
        )
    except (UsageError, ModelFileError, MissingDependencyError) as error:
        _print_error(str(error))
        return 2
    except EbaposeError as error:
        _print_error(str(error))
        return 1
    except KeyboardInterrupt:
        _print_error("interrupted; what was finished is written")
        return 130
    except BrokenPipeError:
        return 1
    except OSError as error:
        if error.filename is None and error.errno != errno.ENOSPC:
            raise
        place = "" if error.filename is None else f"{error.filename}: "
        _print_error(f"{place}{error.strerror}")
        return 1


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _stages(milliseconds: dict[str, float]) -> str:
    return ", ".join(f"{name} {ms:.1f}" for name, ms in milliseconds.items())


def _as_usage(function: Callable[[Path], Any], path: Path) -> Any:
    """Read a file that an option names: if it is wrong, so is the usage."""
    try:
        return function(path)
    except UsageError:
        raise
    except EbaposeError as error:
        raise UsageError(str(error)) from None


def _print(renderable: Any) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 160).print(renderable)


def _print_json(value: Any) -> None:
    import json

    print(json.dumps(value, indent=2))


def _print_error(line: str) -> None:
    """One line on standard error, also where a file's name holds line breaks or other control characters."""
    one_line = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda found: repr(found[0])[1:-1], line)
    print(f"ebapose: {one_line}", file=sys.stderr, flush=True)


class _Progress:
    """A progress bar on standard error where a person looks at it, nothing elsewhere."""

    def __init__(self, what: str, unit: str, quiet: bool) -> None:
        self._what, self._unit = what, unit
        self._visible = not quiet and sys.stderr.isatty()

    def __enter__(self) -> _Progress:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn(self._what),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(self._unit),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not self._visible,
            transient=True,
        )
        self._bar.__enter__()
        self._task = self._bar.add_task(self._what, total=None)
        return self

    def start(self, total: int) -> None:
        """Say how many there will be."""
        self._bar.update(self._task, total=total or None)

    def advance(self, name: str) -> None:
        """One more is done."""
        self._bar.advance(self._task)

    def __exit__(self, *error: object) -> None:
        self._bar.__exit__(None, None, None)
