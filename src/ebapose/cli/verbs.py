"""The verbs that work with a model that exists: predict, list, evaluate, export, time, compare."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import tyro

from ebapose.cli.terminal import ProgressBar, count_of, list_stages, print_error, print_json, print_rich
from ebapose.errors import EbaposeError, UsageError

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
    detector_score: float | None = None,
    detector_tiles: int = 1,
    batch_size: int = 16,
    threads: int | None = None,
    min_score: float = 0.3,
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
        detector_score: Person boxes below this score are dropped, and no others. If not given: none of those of
            --boxes, and of the detector's those whose pose does not convince, between scores of 0.2 and 0.5.
        detector_tiles: Look for small people, too, in so many by so many enlarged parts of the picture (2 or 3 for
            crowds and wide views): the detector then works 5 or 10 times as long.
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
    from ebapose.inference.detector import GivenBoxes, PersonDetector
    from ebapose.inference.loading import bundled_detector, load
    from ebapose.inference.run import predict_sources
    from ebapose.inference.video import VideoOptions
    from ebapose.io.readers import read_detections

    if not sources:
        raise UsageError("predict: name at least one picture, folder, pattern, list file or -")
    if not save:
        raise UsageError("--save: name at least one of what there is to write, see ebapose predict --help")
    if boxes is not None and whole_image:
        raise UsageError("--boxes and --whole-image exclude each other")
    if whole_image and detector_score is not None:
        raise UsageError("--detector-score: with --whole-image there is no detector")
    if detector_tiles != 1 and (whole_image or boxes is not None):
        raise UsageError(f"--detector-tiles: with {'--whole-image' if whole_image else '--boxes'} there is no detector")
    video = VideoOptions(smooth=smooth, detect_every_s=detect_every, show=show, seconds=seconds, fps=fps)
    detector: PersonDetector | Literal["whole-image"]
    if boxes is not None:
        given = _as_usage(read_detections, boxes)
        detector = GivenBoxes(given.boxes, detector_score or 0.0, given.unusable)
    elif whole_image:
        detector = "whole-image"
    else:
        detector = bundled_detector(detector_score, tiles=detector_tiles, threads=threads)
    predictor = load(model, runtime, detector=detector, flip_test=flip_test, batch_size=batch_size, threads=threads)
    with ProgressBar("predicting", "pictures", quiet) as progress:
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
            on_failure=print_error,
        )
    if not quiet:
        failed = f", {count_of(len(summary.failures), 'problem')}" if summary.failures else ""
        if summary.images or not summary.videos:
            found = f"{count_of(summary.images, 'image')}, {count_of(summary.persons, 'person')}"
            print(f"{found}{failed} in {summary.seconds:.1f} s -> {out}")
            print(f"ms per image: {list_stages(summary.milliseconds)}")
        for walked in summary.videos:
            print(f"{walked.line()} -> {out}")
            print(f"ms per frame: {list_stages(walked.milliseconds)}")
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
        print_json([row.to_dict() for row in rows])
    else:
        print_rich(models_table(rows))
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
    category: str | None = None,
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
        images: Folder of the pictures; of a model found beside the annotations if it has a usual name. With
            --predictions none are drawn without it.
        boxes: gt for the annotated boxes (default for a model), or a COCO detections file.
        predictions: COCO results of any tool to judge instead of running a model.
        skeleton: Name (coco17, lsp14, mpii16, crowdpose14) or file of the skeleton; default: that of the annotations.
        category: Name of the category, if several have keypoints.
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
    with ProgressBar("evaluating", "pictures", quiet=predictions is not None) as progress:
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
            category=category,
            worst=worst,
            **running,
        )
    print(report.summary())
    print(f"report: {out / 'report.md'}")
    return 1 if report.metrics["unreadable_pictures"] else 0


def export(
    model: tyro.conf.Positional[str],
    /,
    *,
    out: Path,
    format: Literal["onnx", "openvino"] = "onnx",  # noqa: A002 - the option's name
    precision: Literal["fp32", "fp16", "bf16", "int8"] = "fp16",
    annotations: Path | None = None,
    images: Path | None = None,
    skeleton: str | None = None,
    category: str | None = None,
) -> int:
    """Write a model as a file that runs without PyTorch, and verify that it gives the same poses.

    Args:
        model: Weights (.safetensors), a bundled model, or a registered name (with random weights, for timing).
        out: Folder for the file and its card.
        format: onnx runs in ONNX Runtime and OpenVINO, openvino in OpenVINO.
        precision: fp32, fp16 (stored so), bf16 (calculated so), or int8 (quantised, sensitive layers left out).
        annotations: COCO keypoints that calibrate int8 and judge the file by its AP.
        images: Folder of their pictures; found beside the annotations if it has a usual name.
        skeleton: Name (coco17, lsp14, mpii16, crowdpose14) or file of the skeleton; default: that of the annotations.
        category: Name of the category, if several have keypoints.
    """
    from ebapose.export.files import export_model

    result = export_model(
        model,
        out,
        format=format,
        precision=precision,
        annotations=annotations,
        images=images,
        skeleton=skeleton,
        category=category,
    )
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
    from ebapose.benchmark.report import benchmark_table
    from ebapose.benchmark.run import run_benchmark

    result = run_benchmark(
        model, systems=systems, batch_sizes=batch_sizes, repeats=repeats, threads=threads, compare=compare, out=out
    )
    print_rich(benchmark_table(result))
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


def _as_usage(function: Callable[[Path], Any], path: Path) -> Any:
    """Read a file that an option names: if it is wrong, so is the usage."""
    try:
        return function(path)
    except UsageError:
        raise
    except EbaposeError as error:
        raise UsageError(str(error)) from None
