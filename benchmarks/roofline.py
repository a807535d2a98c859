"""How near the network comes to what this machine can multiply, in float32, bfloat16 and int8.

    ebapose export eba_prnetcc18_256x192 --out /tmp/m
    ebapose export eba_prnetcc18_256x192 --out /tmp/m --precision int8
    python benchmarks/roofline.py /tmp/m/eba_prnetcc18_256x192.onnx /tmp/m/eba_prnetcc18_256x192.int8.onnx

The peak is the best rate of one large matrix product in OpenVINO, taken in turns with the network in the same rounds.
Shares are medians of the rounds' ratios: other load disturbs both alike.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from openvino import opset13 as ops

from ebapose.inference.runtime import OpenVINORuntime, available_cores, load_model_file
from ebapose.models.complexity import measure_name
from ebapose.models.registry import model_name


def matrix_product(side: int, precision: str) -> Callable[[], Any]:
    """`side`^3 multiply-accumulates per call."""
    rng = np.random.default_rng(0)
    a = ops.parameter([side, side], np.float32)
    b: Any = ops.constant(rng.uniform(-1, 1, (side, side)).astype(np.float32))
    left: Any = a
    if precision == "int8":
        low, high = np.float32(-1), np.float32(127 / 128)
        left = ops.fake_quantize(a, low, high, low, high, 256)
        b = ops.fake_quantize(b, np.float32(-1), np.float32(1), np.float32(-1), np.float32(1), 255)
    model = openvino.Model([ops.matmul(left, b, False, True)], [a])
    hint = "f32" if precision == "int8" else precision
    settings = {"INFERENCE_NUM_THREADS": available_cores(), "INFERENCE_PRECISION_HINT": hint}
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    values = rng.uniform(-1, 1, (side, side)).astype(np.float32)
    return lambda: request.infer([values], share_inputs=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--side", type=int, default=1536)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    calls: dict[str, tuple[float, Callable[[], Any]]] = {}
    for path in options.files:
        for precision in ("f32", "bf16"):
            runtime, card = load_model_file(path, "openvino", precision=precision)
            if runtime.precision == "bf16" and not OpenVINORuntime.has_bfloat16():
                continue
            name = model_name(card.architecture, card.input.size_hw)
            gmac = measure_name(name, card.skeleton.num_keypoints, **card.options).gmac() * options.batch_size
            crops = np.random.default_rng(0).integers(
                0, 256, (options.batch_size, *card.input.size_hw, 3), dtype=np.uint8
            )
            calls[runtime.precision] = (gmac, lambda runtime=runtime, crops=crops: runtime(crops))
    for precision in list(calls):
        calls[f"peak {precision}"] = (options.side**3 / 1e9, matrix_product(options.side, precision))
    rates: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(options.rounds + 2):
        for name, (gmac, call) in calls.items():
            start = time.perf_counter()
            call()
            if number >= 2:
                rates[name].append(gmac / (time.perf_counter() - start))
    for precision in [name for name in calls if not name.startswith("peak ")]:
        network, peak = np.array(rates[precision]), np.array(rates[f"peak {precision}"])
        print(
            f"{precision}: {calls[precision][0] / options.batch_size:.3f} GMAC per crop; peak best {peak.max():.0f}, "
            f"median {np.median(peak):.0f} GMAC/s; network best {network.max():.0f}, median {np.median(network):.0f} "
            f"GMAC/s; share of peak {np.median(network / peak):.2f} (median of ratios), "
            f"{network.max() / peak.max():.2f} (best of both)",
            flush=True,
        )


if __name__ == "__main__":
    main()
