"""How fast this machine trains, samples and scores: ``python benchmarks/speed.py --help``.

Every setting runs in a process of its own, because the memory allocator is set once a process; the
processes take turns, one repeat each, and medians are reported, so that all settings meet the same
machine. GFLOP/s count the operations of the plain path (merged convolutions need fewer), forward
and backward, by PyTorch's counter; the ceiling is what large convolutions reach here.

``plain`` is the same model in float32, contiguous layout, with glibc's default allocator, stock
``Trace_ELBO`` and no merged convolutions, which is how the published code runs.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"precision": "fp32", "plain": True, "allocator": False},
    "plain, allocator set": {"precision": "fp32", "plain": True, "allocator": True},
    "fp32": {"precision": "fp32", "plain": False, "allocator": True},
    "bf16": {"precision": "bf16", "plain": False, "allocator": True},
    "bf16, default allocator": {"precision": "bf16", "plain": False, "allocator": False},
    "bf16, ELBO by hand": {"precision": "bf16", "plain": False, "allocator": True, "hand": True},
    "bf16, checkpointed": {
        "precision": "bf16",
        "plain": False,
        "allocator": True,
        "checkpoint": True,
    },
}


def work(pipe: Connection, setting: dict[str, Any], job: dict[str, Any]) -> None:
    """A process: makes its step, then runs it whenever asked and outputs with the seconds."""
    from srvae_pyro.system.device import choose_device

    device = choose_device()
    step = warm_step(setting, job, device)
    pipe.send("ready")
    while pipe.recv() == "go":
        pipe.send(timed(step, device))
    pipe.send(peak_memory(device))


def warm_step(setting: dict[str, Any], job: dict[str, Any], device: Any) -> Callable[[], Any]:
    """What is to be timed, run before."""
    from srvae_pyro.system.device import tune_allocator

    if setting["allocator"] and device.type == "cpu":
        tune_allocator()
    step = make_step(setting, job, device)
    step()
    if device.type == "cuda":
        step()
    return step


def timed(step: Callable[[], Any], device: Any) -> float:
    """Seconds that a step takes, by events on a GPU."""
    import torch

    if device.type != "cuda":
        start = time.perf_counter()
        step()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    step()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3


def peak_memory(device: Any) -> float:
    """Gigabytes (1e9) that the process has taken at most, of the GPU's memory if there is one."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def make_step(setting: dict[str, Any], job: dict[str, Any], device: Any) -> Callable[[], Any]:
    """What is to be timed, as a function without arguments."""
    import pyro
    import torch

    from srvae_pyro.inference.importance import estimate_log_likelihood
    from srvae_pyro.models import make_model
    from srvae_pyro.presets import preset
    from srvae_pyro.system import device as runtime

    if job["what"] == "ceiling":
        return ceiling_step(setting["precision"], device)
    if setting["plain"]:
        runtime.wake_vector_math = lambda: None
    pyro.enable_validation(False)
    torch.manual_seed(0)
    net = make_model(preset(job["preset"], job["model"])[0]).to(device)
    x = torch.randint(0, 256, (job["batch"], *net.config.image_shape), device=device) / 255
    net.initialize(x[:8])
    if setting["plain"]:
        make_plain(net)
    if setting.get("checkpoint"):
        from srvae_pyro.networks import checkpoint_blocks

        checkpoint_blocks(net)
    bf16 = setting["precision"] == "bf16"

    def autocast() -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=bf16)

    if job["what"] == "train":
        return train_step(setting, net, x, autocast)
    net.eval().requires_grad_(False)

    def generate() -> None:
        with autocast():
            net.generate(job["batch"], batch_size=job["batch"])["x"].sum().item()

    def likelihood() -> None:
        with autocast():
            if setting["plain"]:
                whole_model(net, x)
            else:
                estimate_log_likelihood(net, x[:1], job["batch"], at_once=job["batch"])

    return {"generate": generate, "likelihood": likelihood}[job["what"]]


def train_step(
    setting: dict[str, Any], net: Any, x: Any, autocast: Callable[[], Any]
) -> Callable[[], None]:
    """Forward, backward and update."""
    import torch
    from pyro.infer import Trace_ELBO

    from srvae_pyro.inference.elbo import TermsELBO

    optimizer = torch.optim.Adamax(net.parameters(), lr=1e-5)
    stock, terms = Trace_ELBO(), TermsELBO()

    def loss() -> Any:
        if setting.get("hand"):
            return elbo_by_hand(net, x)
        if setting["plain"]:
            return stock.differentiable_loss(net.model, net.guide, x)
        return terms.differentiable_loss(net.model, net.guide, x)

    def step() -> None:
        with autocast():
            value = loss() / len(x)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        value.item()

    return step


# What a profile adds up; operations that are not here are "other".
KINDS = {
    "convolutions, backward": ("aten::mkldnn_convolution_backward", "aten::convolution_backward"),
    "convolutions, forward": ("aten::mkldnn_convolution", "aten::convolution"),
    "ELU, forward": ("aten::elu", "aten::elu_"),
    "ELU, backward": ("aten::elu_backward",),
    "copies, casts": ("aten::copy_",),
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"),
    "concatenation": ("aten::cat",),
    "sums": ("aten::add", "aten::add_", "aten::sum"),
    "products": ("aten::mul", "aten::mul_"),
    "zeroing": ("aten::fill_", "aten::zero_"),
}


def profile(setting: dict[str, Any], job: dict[str, Any]) -> None:
    """Print where the time of one step goes: seconds and shares of the thread that calls."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as watch

    from srvae_pyro.system.device import choose_device

    step = warm_step(setting, job, choose_device())
    with watch(activities=[ProfilerActivity.CPU]) as watched:
        step()
    kinds = {name: kind for kind, names in KINDS.items() for name in names}
    seconds: dict[str, float] = {}
    for event in watched.events():
        above, kind = event, kinds.get(event.name, "other")
        while above is not None:
            kind = "Adamax" if above.name.startswith("Optimizer.step") else kind
            above = above.cpu_parent
        seconds[kind] = seconds.get(kind, 0.0) + event.self_cpu_time_total / 1e6
    total = sum(seconds.values())
    print(f"{job['what']}, {job['preset']} {job['model']}, batch {job['batch']}: {total:.2f} s")
    for kind, spent in sorted(seconds.items(), key=lambda pair: -pair[1]):
        print(f"  {kind:26}{spent:9.3f} s{spent / total:7.1%}")


def elbo_by_hand(net: Any, x: Any) -> Any:
    """The negative ELBO from the same networks without Pyro's programs: what Pyro costs."""
    y = net.guide.d(x)
    q_u, q_z = net.guide.q_u(y), net.guide.q_z(x)
    u, z = q_u.rsample(), q_z.rsample()
    elbo = net.model.p_u().log_prob(u) - q_u.log_prob(u) - q_z.log_prob(z)
    elbo = elbo + net.model.p_y(u).log_prob(y) + net.model.p_z(y, u).log_prob(z)
    return -(elbo + net.model.p_x(y, z).log_prob(x)).sum()


def whole_model(net: Any, x: Any) -> None:
    """One sample of the likelihood for each image by traces of the whole guide and model."""
    import pyro
    import torch

    with torch.no_grad():
        guide = pyro.poutine.trace(net.guide).get_trace(x)
        model = pyro.poutine.trace(pyro.poutine.replay(net.model, trace=guide)).get_trace(x)
        model.compute_log_prob()
        guide.compute_log_prob()


def make_plain(net: Any) -> None:
    """Undo what makes the networks fast: merged convolutions, the layout, cached weights."""
    import torch

    from srvae_pyro.networks import DenseStep
    from srvae_pyro.networks import layers as convolution
    from srvae_pyro.networks import layers as layout

    layout.MEMORY_FORMAT = torch.contiguous_format
    convolution.cached = lambda owner, name, compute, device: compute()  # type: ignore[assignment]
    for module in net.modules():
        if isinstance(module, DenseStep):
            module.merge = False


CEILING = (32, 256, 32, 256)  # images, channels in, pixels a side, channels out
CEILING_FLOPS = 3 * 2 * 9 * 32 * 256 * 256 * 32 * 32


def ceiling_step(precision: str, device: Any) -> Callable[[], None]:
    """A large 3x3 convolution forward and backward, channels_last."""
    import torch

    images, channels, size, out = CEILING
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    options = {"device": device, "dtype": dtype}
    x = torch.randn(images, channels, size, size, **options).requires_grad_()
    w = torch.randn(out, channels, 3, 3, **options).requires_grad_()
    x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    w = w.detach().contiguous(memory_format=torch.channels_last).requires_grad_()

    def step() -> None:
        y = torch.nn.functional.conv2d(x, w, padding=1)
        torch.autograd.grad(y, (x, w), y.detach())

    return step


def gigaflops(job: dict[str, Any]) -> float | None:
    """Operations of the plain path in a job's step, GFLOP."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from srvae_pyro.inference.elbo import TermsELBO
    from srvae_pyro.models import make_model
    from srvae_pyro.networks import DenseStep
    from srvae_pyro.presets import preset

    if job["what"] == "ceiling":
        return CEILING_FLOPS / 1e9
    if job["what"] != "train":
        return None
    net = make_model(preset(job["preset"], job["model"])[0])
    for module in net.modules():
        if isinstance(module, DenseStep):
            module.merge = False
    with FlopCounterMode(display=False) as counter:
        x = torch.randint(0, 256, (2, *net.config.image_shape)) / 255
        TermsELBO().differentiable_loss(net.model, net.guide, x).backward()
    return counter.get_total_flops() / 2 * job["batch"] / 1e9


def compare(job: dict[str, Any], settings: list[str], repeats: int) -> list[dict[str, Any]]:
    """Time a job under several settings, taking turns."""
    context = multiprocessing.get_context("spawn")
    workers = {}
    for name in settings:
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(theirs, SETTINGS[name], job), daemon=True)
        process.start()
        workers[name] = (ours, process)
        if ours.recv() != "ready":  # one after the other: starting is work too
            raise RuntimeError(name)
    times: dict[str, list[float]] = {name: [] for name in settings}
    for _ in range(repeats):
        for name, (pipe, _) in workers.items():
            pipe.send("go")
            times[name].append(pipe.recv())
    operations = gigaflops(job)
    rows = []
    for name, (pipe, process) in workers.items():
        pipe.send("stop")
        memory = pipe.recv()
        process.join()
        median = statistics.median(times[name])
        row = {**job, "setting": name, "seconds": median, "all_seconds": times[name]}
        row |= {"images_per_second": job["batch"] / median, "peak_gb": memory}
        row["gflops"] = operations / median if operations else None
        rows.append(row)
    return rows


def show(rows: list[dict[str, Any]], ceiling: dict[str, float]) -> None:
    """Print a job's rows, each with how many times faster than the first it is."""
    job = rows[0]
    print(f"\n{job['what']}, {job['preset']} {job['model']}, batch {job['batch']}")
    for row in rows:
        text = f"  {row['setting']:26}{row['seconds']:9.3f} s{row['images_per_second']:9.1f} /s"
        text += f"{rows[0]['seconds'] / row['seconds']:7.2f} x{row['peak_gb']:7.1f} GB"
        if row["gflops"]:
            text += f"{row['gflops']:8.0f} GFLOP/s"
            precision = SETTINGS[row["setting"]]["precision"]
            if precision in ceiling:
                row["of_ceiling"] = row["gflops"] / ceiling[precision]
                text += f"{row['of_ceiling']:6.2f} of {precision}'s ceiling"
        print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--what", nargs="+", default=["train", "generate", "likelihood"])
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--model", default="srvae")
    parser.add_argument("--batches", type=int, nargs="+", default=[32])
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=None)
    parser.add_argument("--plain", action="store_true", help="compare with plain and its allocator")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="print where a step's time goes")
    parser.add_argument("--json", type=Path, default=None, help="also write all numbers there")
    arguments = parser.parse_args()
    settings = arguments.settings or ["fp32", "bf16"]
    if arguments.plain:
        settings = [*(name for name in ("plain", "plain, allocator set")), *settings]
    base = {"preset": arguments.preset, "model": arguments.model}
    if arguments.profile:
        first = {**base, "what": arguments.what[0], "batch": arguments.batches[0]}
        profile(SETTINGS[settings[-1]], first)
        return
    rows = compare({**base, "what": "ceiling", "batch": CEILING[0]}, ["fp32", "bf16"], 5)
    ceiling = {row["setting"]: row["gflops"] for row in rows}
    print("large convolutions: " + ", ".join(f"{k} {v:.0f} GFLOP/s" for k, v in ceiling.items()))
    for what in arguments.what:
        for batch in arguments.batches:
            job = {**base, "what": what, "batch": batch}
            found = compare(job, list(dict.fromkeys(settings)), arguments.repeats)
            show(found, ceiling)
            rows += found
    if arguments.json:
        arguments.json.write_text(json.dumps({"command": sys.argv, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
