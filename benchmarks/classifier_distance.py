"""How far generated images are from real ones, in the features of a small classifier.

::

    python benchmarks/classifier_distance.py --data ~/cifar10 final-srvae final-vae

The classifier, a residual network of 1.2 M parameters, is trained here on the images of
``--data``/train with their folders as labels, once; it is kept in ``--classifier`` with its
accuracy on the test images. Its 256 features before the last layer, averaged over the image,
take the place of Inception's in the Fréchet distance (Heusel et al. 2017, arXiv:1706.08500). **The
numbers are not FID, and cannot be compared with anything but each other.** Beside the models stand
distances between sets of known likeness: training and test images, test images with noise,
halved and upscaled, and with their blocks shuffled.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch_fidelity.metric_fid import (
    KEY_METRIC_FID,
    fid_features_to_statistics,
    fid_statistics_to_metric,
)
from torchvision.datasets import ImageFolder
from tqdm import tqdm

import srvae_pyro
from srvae_pyro.data.splits import evenly_spaced
from srvae_pyro.evaluation.fid import features_of, generated
from srvae_pyro.system.device import start
from srvae_pyro.system.files import write_json, write_whole

WIDTHS = (32, 64, 128, 256)


class Residual(nn.Module):
    """Two convolutions around which their input goes, at half the resolution if asked for."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.second = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(after), nn.BatchNorm2d(after)])
        self.skip = nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.norms[0](self.first(x)))
        return F.relu(self.norms[1](self.second(hidden)) + self.skip(x))


class Classifier(nn.Module):
    """uint8 images (B, 3, H, W) to the logits of their classes."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        strides = (1, 2, 2, 2)
        befores = (3, *WIDTHS[:-1])
        blocks = map(Residual, befores, WIDTHS, strides)
        self.body = nn.Sequential(*blocks)
        self.head = nn.Linear(WIDTHS[-1], classes)

    def features(self, images: Tensor) -> Tensor:
        """(B, 256)."""
        return self.body(images / 127.5 - 1).mean(dim=(-2, -1)).float()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def labelled(folder: Path) -> tuple[Tensor, Tensor, list[str]]:
    """Images, uint8 (N, 3, H, W), their classes' numbers, and the classes' names."""
    files = ImageFolder(str(folder))
    pairs = [(np.asarray(image), label) for image, label in tqdm(files, desc=folder.name)]
    images = torch.from_numpy(np.stack([image for image, _ in pairs])).permute(0, 3, 1, 2)
    return images.contiguous(), torch.tensor([label for _, label in pairs]), files.classes


def augmented(images: Tensor) -> Tensor:
    """Mirrored at random, and moved by up to 4 pixels."""
    images = torch.where(
        (torch.rand(len(images)) < 0.5)[:, None, None, None], images.flip(-1), images
    )
    top, left = torch.randint(0, 9, (2,)).tolist()
    height, width = images.shape[-2:]
    padded = F.pad(images.float(), (4, 4, 4, 4), mode="reflect")
    return padded[..., top : top + height, left : left + width]


def train(model: Classifier, images: Tensor, labels: Tensor, epochs: int) -> None:
    """Train by SGD with a rate that rises and falls once."""
    batch = 128
    steps = epochs * (len(images) // batch)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=steps)
    model.train()
    with tqdm(total=steps, desc="classifier") as bar:
        for _ in range(epochs):
            for own in torch.randperm(len(images))[: len(images) // batch * batch].split(batch):
                with torch.autocast("cpu", torch.bfloat16):
                    logits = model(augmented(images[own]))
                loss = F.cross_entropy(logits.float(), labels[own], label_smoothing=0.1)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update()
                bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    model.eval()


@torch.no_grad()
def over(images: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """The function's values for uint8 images."""
    return torch.cat([function(chunk.float()) for chunk in images.split(500)])


def classifier(options: argparse.Namespace, images: Tensor, labels: Tensor) -> Classifier:
    """The trained classifier, from its file if it is there."""
    torch.manual_seed(0)
    model = Classifier(int(labels.max()) + 1).to(memory_format=torch.channels_last)
    if options.classifier.exists():
        model.load_state_dict(load_file(options.classifier))
        return model.eval()
    train(model, images, labels, options.epochs)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    write_whole(options.classifier, lambda partial: save_file(state, partial))
    return model


def yardsticks(test: Tensor) -> dict[str, Tensor]:
    """Test images made worse in ways whose order everybody sees."""
    generator = torch.Generator().manual_seed(0)
    values = test.float()
    small = F.interpolate(values, scale_factor=0.5, mode="bilinear", antialias=True)
    noise = torch.randn(values.shape, generator=generator)
    return {
        "test, noise of 5 levels": values + 5 * noise,
        "test, noise of 25 levels": values + 25 * noise,
        "test, halved and upscaled": F.interpolate(small, scale_factor=2, mode="bicubic"),
        "test, shuffled in 8x8 blocks": blocks_shuffled(values, 8, generator),
    }


def blocks_shuffled(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Each image's blocks in an order of its own."""
    size = images.shape[-2:]
    blocks = F.unfold(images, side, stride=side)
    orders = torch.rand(len(images), blocks.shape[-1], generator=generator).argsort(-1)
    blocks = blocks.gather(-1, orders[:, None].expand(-1, blocks.shape[1], -1))
    return F.fold(blocks, size, side, stride=side)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("runs", nargs="*", help="as evaluate has them")
    parser.add_argument("--data", required=True, type=Path, help="a folder with train/ and test/")
    parser.add_argument("--samples", type=int, default=5000, help="generated images of a run")
    parser.add_argument("--epochs", type=int, default=8, help="of the classifier's training")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--seed", type=int, default=0, help="of the generated images")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[1.0], help="of latents")
    parser.add_argument(
        "--classifier", type=Path, default=Path("runs/classifier/model.safetensors")
    )
    options = parser.parse_args()
    start(torch.device("cpu"), threads=options.threads)
    images, labels, _ = labelled(options.data / "train")
    test, wanted, _ = labelled(options.data / "test")
    begun = time.time()
    network = classifier(options, images, labels)
    right = over(test, network).argmax(-1) == wanted
    print(f"classifier: {100 * right.float().mean():.1f} % of {len(test):,} test images right")
    print(f"({time.time() - begun:.0f} s to train, or load, and test)", flush=True)
    real = {"test": test, "train": images}
    statistics = {
        name: fid_features_to_statistics(over(x, network.features)) for name, x in real.items()
    }
    rows: dict[str, dict[str, float]] = {}

    def report(name: str, generated: Tensor) -> None:
        own = fid_features_to_statistics(over(generated, network.features))
        rows[name] = {
            split: fid_statistics_to_metric(own, other, verbose=False)[KEY_METRIC_FID]
            for split, other in statistics.items()
        }
        print(f"| {name} | {rows[name]['test']:.2f} | {rows[name]['train']:.2f} |", flush=True)

    print("| Fréchet distance, classifier's features | to test | to train |\n|---|---|---|")
    report(f"{len(test):,} training images", evenly_spaced(images, len(test)))
    report(f"{len(test):,} test images", test)
    for name, images in yardsticks(test).items():
        report(name, images.clamp(0, 255).round())
    for run in options.runs:
        model = srvae_pyro.load(run)
        for temperature in options.temperatures:
            for decode in ("sample", "mode"):
                how = {"decode": decode, "temperature": temperature, "seed": options.seed}
                images_at, indices = generated(model, how), range(options.samples)
                made = features_of(images_at, indices, lambda x: x, label=run, progress=True)["x"]
                at = "" if temperature == 1 else f", temperature {temperature:g}"
                report(f"{run}, {decode}{at}", made)
    write_json(options.classifier.with_name("distances.json"), rows)


if __name__ == "__main__":
    main()
