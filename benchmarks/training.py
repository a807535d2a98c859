"""Training speed of the network alone, in one run: eager float32 against compiled, channels-last and bfloat16.

    python benchmarks/training.py --model eba_prnetcc18_128x96 --batch 32

Prints samples per second and the ratio to eager float32. The variants take turns, so that other load on the machine
meets all of them alike; each number is the best of several rounds. bfloat16 is measured where the device computes in it
natively (CUDA, or a CPU with AVX512-BF16 or AMX).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from ebapose.models.registry import create_model
from ebapose.training.config import LossConfig
from ebapose.training.loss import compute_loss
from ebapose.training.start import compile_model, keep_freed_memory


def has_fast_bfloat16(device: str) -> bool:
    if device == "cuda":
        return torch.cuda.is_bf16_supported()
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


class Variant:
    def __init__(self, name: str, model_name: str, batch: int, device: str) -> None:
        self.name, self.device, self.batch = name, device, batch
        torch.manual_seed(0)
        self.model = create_model(model_name).to(device).train()
        self.bf16 = "bf16" in name
        hw = self.model.input_hw
        self.images = torch.randn(batch, 3, *hw, device=device)
        if "channels_last" in name:
            self.model.to(memory_format=torch.channels_last)
            self.images = self.images.contiguous(memory_format=torch.channels_last)
        if "compiled" in name:
            compile_model(self.model, "regional" if "regional" in name else "whole")
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5)
        outputs = self.step_outputs()
        self.targets = tuple(torch.rand_like(o.float()) / o.shape[-1] for o in outputs)
        self.weights = torch.ones(outputs[0].shape[:2], device=device)

    def step_outputs(self) -> tuple[torch.Tensor, ...]:
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            return self.model(self.images)

    def step(self) -> None:
        loss, _ = compute_loss(
            self.step_outputs(), self.targets, self.weights, self.model.codec_spec.type, LossConfig()
        )
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def seconds(self, steps: int) -> float:
        begin = time.perf_counter()
        for _ in range(steps):
            self.step()
        if self.device == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - begin) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="eba_prnetcc18_128x96")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=2, help="steps per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's choice")
    parser.add_argument(
        "--give-memory-back", action="store_true", help="not as `ebapose train`, which keeps what it frees"
    )
    parser.add_argument("--variants", nargs="*", help="default: all that the device runs fast")
    args = parser.parse_args()
    if not args.give_memory_back:
        keep_freed_memory()
    if args.threads:
        torch.set_num_threads(args.threads)
    names = args.variants or ["eager", "eager channels_last", "compiled", "compiled channels_last", "compiled regional"]
    if not args.variants and has_fast_bfloat16(args.device):
        names += ["eager bf16", "compiled bf16", "compiled channels_last bf16"]
    variants = []
    for name in names:
        begin = time.perf_counter()
        variant = Variant(name, args.model, args.batch, args.device)
        variant.step()  # compile, and let the allocator settle
        print(f"{name}: ready after {time.perf_counter() - begin:.1f} s", flush=True)
        variants.append(variant)
    best = dict.fromkeys(names, float("inf"))
    for _ in range(args.rounds):
        for variant in variants:
            best[variant.name] = min(best[variant.name], variant.seconds(args.steps))
    base = best[names[0]]
    print(
        f"{args.model}, batch {args.batch}, {args.device}, torch {torch.__version__}, {torch.get_num_threads()} threads"
    )
    for name, seconds in best.items():
        print(f"{name:30} {args.batch / seconds:8.1f} samples/s   {base / seconds:5.2f} x {names[0]}")


if __name__ == "__main__":
    main()
