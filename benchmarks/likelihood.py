"""The importance-sampled likelihood against running the whole model for each sample.

``python benchmarks/likelihood.py --help``. Both score the same images of noise, with a model that
is initialised but not trained: the time does not depend on the weights.
"""

from __future__ import annotations

import argparse
import time

import pyro
import torch

from srvae_pyro.inference.importance import estimate_log_likelihood, evaluations_at_once
from srvae_pyro.models import make_model
from srvae_pyro.presets import PRESETS, preset
from srvae_pyro.system.device import choose_device, tune_allocator


def naive(net: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Log weights (B,) of one sample an image, by Pyro's traces of the whole guide and model."""
    guide = pyro.poutine.trace(net.guide).get_trace(x)
    model = pyro.poutine.trace(pyro.poutine.replay(net.model, trace=guide)).get_trace(x)
    model.compute_log_prob()
    guide.compute_log_prob()
    total = sum(model.nodes[name]["log_prob"] for name in ("x", "y", "z", "u"))
    return total - sum(guide.nodes[name]["log_prob"] for name in ("z", "u"))


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS, default="paper")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--naive-samples", type=int, default=20, help="measured, then scaled up")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--memory-gb", type=float, default=4.0)
    arguments = parser.parse_args()
    device = choose_device()
    if device.type == "cpu":
        tune_allocator()
    pyro.enable_validation(False)
    torch.manual_seed(0)
    net = make_model(preset(arguments.preset)[0]).to(device)
    x = torch.randint(0, 256, (arguments.images, 3, 32, 32), device=device) / 255
    net.initialize(x)
    net.eval().requires_grad_(False)
    with torch.autocast(device.type, torch.bfloat16, enabled=arguments.precision == "bf16"):
        naive(net, x)  # warm up
        start = time.perf_counter()
        for _ in range(arguments.naive_samples):
            naive(net, x).sum().item()
        one = (time.perf_counter() - start) / arguments.naive_samples
        at_once = evaluations_at_once(net, x, arguments.samples, arguments.memory_gb)
        start = time.perf_counter()
        for number, image in enumerate(x.split(max(at_once // arguments.samples, 1))):
            estimate_log_likelihood(
                net, image, arguments.samples, images=[number], at_once=at_once
            ).log_likelihood.sum().item()
        ours = time.perf_counter() - start
    evaluations = arguments.images * arguments.samples
    scaled = one * arguments.samples
    print(
        f"{arguments.preset}, {arguments.precision}, {arguments.images} images, {device}:\n"
        f"  the whole model for each sample: {scaled:.1f} s for {arguments.samples} samples "
        f"(scaled from {arguments.naive_samples}), {1e3 * one / arguments.images:.1f} ms each\n"
        f"  product estimator: {ours:.1f} s for {arguments.samples} samples and their "
        f"{arguments.samples**2:,} pairs, {1e3 * ours / evaluations:.1f} ms each\n"
        f"  {scaled / ours:.2f} times faster"
    )


if __name__ == "__main__":
    main()
