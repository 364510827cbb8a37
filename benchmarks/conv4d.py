"""Time and memory of Conv4d against the usual loop of 3D convolutions over frames.

python benchmarks/conv4d.py [--quick] [--only NAME ...]

Both sides take turns in one run; the ratio is that of the fastest of each, as other work on the
machine only adds. Memory is what forward and backward add to the peak of a process of their own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from common import Report, Section, run
from strokect.nets.conv4d import conv4d

#: LAYER_RATIO is "no slower", less the noise of a layer that takes 25 ms.
CPU_RATIO, GPU_RATIO, LAYER_RATIO, MEMORY_RATIO = 1.6, 4.0, 0.9, 2.0
THREADS = 2
Four = tuple[int, int, int, int]
Convolution = Callable[[Tensor, Tensor, Tensor, Four, Four], Tensor]


@dataclass(frozen=True)
class Layer:
    """A convolution of (2, channels, *size).

    first : its input needs no gradient. inner : input and gradient lie in memory as the layers
    around it leave them, channels last with conv4d, else first; where false, always first.
    """

    size: Four
    channels: int
    out: int
    kernel: Four = (3, 3, 3, 3)
    stride: Four = (1, 1, 1, 1)
    padding: Four = (1, 1, 1, 1)
    first: bool = False
    inner: bool = False


#: The layer of the limits, in both orders of time (30) and z (5): the loop is over the first.
MAIN = {
    "tzyx": Layer((30, 5, 64, 64), 8, 8),
    "ztyx": Layer((5, 30, 64, 64), 8, 8),
}
#: Layers as networks have them, (T, Z, Y, X): not slower than the loop.
LAYERS = {
    "first": Layer((30, 5, 64, 64), 1, 8, first=True),
    "first_strided": Layer((30, 5, 64, 64), 1, 8, stride=(2, 1, 1, 1), first=True),
    "strided": Layer((15, 5, 64, 64), 8, 16, stride=(3, 1, 1, 1), inner=True),
    "last": Layer((5, 5, 64, 64), 16, 16, (5, 3, 3, 3), padding=(0, 1, 1, 1), inner=True),
    "wide": Layer((10, 5, 32, 32), 16, 32, inner=True),
}


def usual_loop(x: Tensor, weight: Tensor, bias: Tensor, stride: Four, padding: Four) -> Tensor:
    """Output frame by output frame, tap by tap: 3D convolutions, summed, stacked."""
    return _loop(lambda i: x[:, :, i], x.shape[2], weight, bias, stride, padding)


def kinder_loop(x: Tensor, weight: Tensor, bias: Tensor, stride: Four, padding: Four) -> Tensor:
    """The same with the frames taken apart at once: far fewer zeros in its backward pass."""
    frames = x.unbind(2)
    return _loop(lambda i: frames[i], len(frames), weight, bias, stride, padding)


def _loop(
    frame: Callable[[int], Tensor], frames: int, weight: Tensor, bias: Tensor, stride: Four,
    padding: Four,
) -> Tensor:  # fmt: skip
    k, out = weight.shape[2], []
    for n in range((frames + 2 * padding[0] - k) // stride[0] + 1):
        inside = [(i, n * stride[0] - padding[0] + i) for i in range(k)]
        terms = [
            functional.conv3d(frame(m), weight[:, :, i], None, stride[1:], padding[1:])
            for i, m in inside if 0 <= m < frames
        ]  # fmt: skip
        out.append(sum(terms[1:], terms[0]) + bias.view(-1, 1, 1, 1))
    return torch.stack(out, 2)


def folded(x: Tensor, weight: Tensor, bias: Tensor, stride: Four, padding: Four) -> Tensor:
    return conv4d(x, weight, bias, stride, padding)


SIDES: dict[str, Convolution] = {"conv4d": folded, "loop": usual_loop, "kinder_loop": kinder_loop}


def job(layer: Layer, side: str, device: str = "cpu", dtype: torch.dtype = torch.float32):  # type: ignore[no-untyped-def]
    """Forward and backward of a layer by one side, as a function without arguments."""
    draw = torch.Generator().manual_seed(0)

    def tensor(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw).to(device, dtype)

    def lying(values: Tensor) -> Tensor:
        last = layer.inner and side == "conv4d"
        return values.movedim(1, -1).contiguous().movedim(-1, 1) if last else values

    x = lying(tensor(2, layer.channels, *layer.size)).requires_grad_(not layer.first)
    weight = tensor(layer.out, layer.channels, *layer.kernel).requires_grad_()
    bias = tensor(layer.out).requires_grad_()
    wanted = [weight, bias] if layer.first else [x, weight, bias]
    rows = zip(layer.size, layer.kernel, layer.stride, layer.padding, strict=True)
    towards = lying(tensor(2, layer.out, *[(n + 2 * p - k) // s + 1 for n, k, s, p in rows]))

    def both() -> list[Tensor]:
        out = SIDES[side](x, weight, bias, layer.stride, layer.padding)
        return [out.detach(), *torch.autograd.grad(out, wanted, towards)]

    return both


def seconds(work: Callable[[], object], cuda: bool = False) -> float:
    if cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def turns(
    layer: Layer, repeats: int, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> dict[str, float]:
    """Fastest of each side, s; all give the same."""
    jobs = {side: job(layer, side, device, dtype) for side in SIDES}
    results = {side: work() for side, work in jobs.items()}  # also warms up
    limit = 1e-3 if dtype == torch.float32 else 5e-2
    for got, want in zip(results["conv4d"], results["loop"], strict=True):
        if float((got - want).abs().max()) > limit * float(want.abs().max()):
            raise RuntimeError("Conv4d and the loop differ")
    del results
    times = {side: [] for side in jobs}
    for _ in range(repeats):
        for side, work in jobs.items():
            times[side].append(seconds(work, device == "cuda"))
    return {side: min(values) for side, values in times.items()}


def _report_time(
    report: Report, figure: str, best: dict[str, float], limit: float, name: str
) -> None:
    """Ratio to the usual loop, with its limit, and to the kinder one."""
    report.at_least(
        figure, best["loop"] / best["conv4d"], limit, unit="times", layer=name, seconds=best,
        over_kinder_loop=best["kinder_loop"] / best["conv4d"], load=os.getloadavg()[0],
    )  # fmt: skip


def cpu(report: Report, quick: bool) -> None:
    """The layer of the limits on two threads."""
    torch.set_num_threads(THREADS)
    for name, layer in MAIN.items():
        best = turns(layer, 3 if quick else 9)
        _report_time(report, "conv4d_speed_cpu", best, CPU_RATIO, name)


def layers(report: Report, quick: bool) -> None:
    """Layers of networks on two threads."""
    torch.set_num_threads(THREADS)
    for name, layer in LAYERS.items():
        best = turns(layer, 5 if quick else 15)
        _report_time(report, "conv4d_speed_layer", best, LAYER_RATIO, name)


def memory(report: Report, quick: bool) -> None:
    """Peak of each side in a process of its own."""
    if not Path("/proc/self/status").exists():
        report.skip("conv4d_memory_cpu", "needs /proc")
        return
    for name in MAIN:
        added = {side: _added_mb(side, name) for side in SIDES}
        report.at_most(
            "conv4d_memory_cpu", added["conv4d"] / added["loop"], MEMORY_RATIO, unit="times",
            layer=name, added_mb=added,
        )  # fmt: skip


def _added_mb(side: str, name: str) -> float:
    code = f"import conv4d; conv4d.print_peak({side!r}, {name!r})"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parent,
    )  # fmt: skip
    return float(json.loads(found.stdout))


def print_peak(side: str, name: str) -> None:
    """What two passes of one side add to the memory of this process, MB."""
    torch.set_num_threads(THREADS)
    job(Layer((3, 3, 8, 8), 8, 8), side)()  # what the library itself takes
    work = job(MAIN[name], side)
    before = _status_mb("VmRSS")
    for _ in range(2):
        work()
    print(json.dumps(_status_mb("VmHWM") - before))


def _status_mb(field: str) -> float:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise RuntimeError(f"no {field} in /proc/self/status")
    return int(found[1]) / 1024


def gpu(report: Report, quick: bool) -> None:
    """The layer of the limits on a GPU: time and memory, full and half precision."""
    if not torch.cuda.is_available():
        report.skip("conv4d_speed_gpu", "no GPU")
        return
    for dtype in (torch.float32, torch.bfloat16):
        for name, layer in MAIN.items():
            best = turns(layer, 5 if quick else 20, "cuda", dtype)
            label = f"{name} {str(dtype).removeprefix('torch.')}"
            _report_time(report, "conv4d_speed_gpu", best, GPU_RATIO, label)
            added = {side: _added_gpu_mb(job(layer, side, "cuda", dtype)) for side in SIDES}
            report.at_most(
                "conv4d_memory_gpu", added["conv4d"] / added["loop"], MEMORY_RATIO, unit="times",
                layer=label, added_mb=added,
            )  # fmt: skip


def _added_gpu_mb(work: Callable[[], object]) -> float:
    work()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


SECTIONS: dict[str, Section] = {"cpu": cpu, "layers": layers, "memory": memory, "gpu": gpu}

if __name__ == "__main__":
    sys.exit(run(SECTIONS, __doc__ or ""))
