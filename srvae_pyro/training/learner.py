"""A model with its optimiser, losses and random state."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from srvae_pyro.config import RunConfig
from srvae_pyro.data import augment
from srvae_pyro.errors import UserError
from srvae_pyro.inference.elbo import ElboTerms, TermsELBO
from srvae_pyro.models import ImageModel, make_model
from srvae_pyro.pixels import to_unit
from srvae_pyro.system.device import autocast, torch_seed
from srvae_pyro.system.parallel import ProcessGroup
from srvae_pyro.training.optimizer import Muon, check_optimizer
from srvae_pyro.training.restoration import RestorationObjective, restorer_of
from srvae_pyro.training.schedule import ExponentialAverage, GradientClip


class Randomness:
    """A process's generators: PyTorch's own, for latents, and augmentation's."""

    def __init__(self, seed: int, group: ProcessGroup) -> None:
        self.run_seed = seed
        self.group = group
        self.augmentation = torch.Generator().manual_seed(self._seed(0, "augmentation"))

    def seed(self, step: int) -> None:
        """Begin new streams at ``step``."""
        self.augmentation.manual_seed(self._seed(step, "augmentation"))
        self.seed_noise(step)

    def seed_noise(self, step: int) -> None:
        torch.manual_seed(self._seed(step, "noise"))

    def state(self) -> dict[str, Any]:
        noise = {"cpu": torch.get_rng_state()}
        if self.group.device.type == "cuda":
            noise["cuda"] = torch.cuda.get_rng_state(self.group.device)
        return {"augmentation": self.augmentation.get_state(), "random": noise}

    def restore(self, state: dict[str, Any], step: int) -> None:
        """Restore a :meth:`state` at ``step``; a device missing in it is seeded."""
        self.augmentation.set_state(state["augmentation"])
        self.seed_noise(step)
        noise = state["random"]
        torch.set_rng_state(noise["cpu"].cpu())
        if self.group.device.type == "cuda" and "cuda" in noise:
            torch.cuda.set_rng_state(noise["cuda"].cpu(), self.group.device)

    def _seed(self, step: int, purpose: str) -> int:
        return torch_seed(self.run_seed, self.group.rank, step, *purpose.encode())


class Objective(nn.Module):
    """The loss as a module, so that ``DistributedDataParallel`` can wrap it.

    Each level of absolute error of a point estimate of x costs ``estimate_weight`` nats.
    """

    def __init__(self, model: ImageModel, elbo: TermsELBO, estimate_weight: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.elbo = elbo
        self.estimate_weight = estimate_weight

    def forward(
        self, x: Tensor, kl_weights: Mapping[str, float] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of x (B, C, H, W), and its terms (B), in nats, ``error_x`` in levels."""
        terms = self.elbo.terms(self.model.model, self.model.guide, x)
        loss = weighted_loss(terms, kl_weights)
        values = terms.named()
        for name, error in terms.errors.items():
            values[f"error_{name}"] = error / x[0].numel()
            if self.estimate_weight > 0:
                loss = loss + self.estimate_weight * error.mean()
        return loss, {**values, "total": terms.total}


def weighted_loss(terms: ElboTerms, kl_weights: Mapping[str, float] | None = None) -> Tensor:
    """The mean loss of a batch, nats an image: the negative ELBO with weights on its KL terms.

    Weights are by site, 1 if not given (Sonderby et al., Ladder Variational Autoencoders, 2016,
    arXiv:1602.02282).
    """
    loss = torch.zeros(())
    for term in terms.reconstruction.values():
        loss = term.mean() + loss
    for site, term in terms.kl.items():
        loss = loss + (kl_weights or {}).get(site, 1.0) * term.mean()
    return loss


@dataclass(frozen=True)
class Outcome:
    """The result of a step."""

    loss: Tensor  # mean over this process's images, nats an image, a scalar on the device
    terms: dict[str, Tensor]  # the ELBO's terms and their total, nats, (B) each
    norm: Tensor  # of the gradient before clipping, a scalar on the device
    votes: list[float]  # summed over the processes
    fault: str = ""  # what was not finite, so that an update was skipped


class Learner:
    """A model that learns from batches, and an average of its weights.

    ``batch_size`` counts images over all processes. Gradients of ``accumulate`` parts of a batch
    are summed before the update.
    """

    def __init__(
        self,
        config: RunConfig,
        batch_size: int,
        group: ProcessGroup = ProcessGroup(),
        accumulate: int = 1,
    ) -> None:
        settings = config.training
        if batch_size % (group.size * accumulate):
            raise UserError(
                f"a batch of {batch_size} images cannot be shared evenly by "
                f"{group.size} processes in {accumulate} parts: choose another number of "
                "them, or another `batch_size`"
            )
        if settings.estimate_weight > 0 and not config.model.has_point_estimate:
            raise UserError(
                "`estimate_weight` needs a model that estimates x: set it to 0, or "
                "model.groups.estimate to true"
            )
        self.config, self.settings = config, settings
        self.batch_size, self.group, self.accumulate = batch_size, group, accumulate
        torch.manual_seed(torch_seed(settings.seed, *b"weights"))
        self.model: ImageModel = make_model(config.model).to(group.device)
        self.randomness = Randomness(settings.seed, group)
        objective: nn.Module
        if settings.inputs == "damaged":
            self.model.requires_grad_(False)  # it stays as it is
            learning = restorer_of(self.model).requires_grad_(True)
            objective = RestorationObjective(learning, self.randomness.augmentation)
        else:
            if restorer := getattr(self.model, "restorer", None):
                restorer.requires_grad_(False)  # no part of the ELBO
            elbo = TermsELBO(analytic_kl=settings.analytic_kl)
            objective = Objective(self.model, elbo, settings.estimate_weight)
        learnt = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        kind = Muon if settings.optimizer == "muon" else torch.optim.Adamax
        self.optimizer = kind(learnt, lr=settings.lr, betas=settings.betas, eps=settings.eps)
        self.objective = objective
        self.parallel: nn.Module = objective  # as all processes share it
        self.clip = GradientClip(settings.clip_factor)
        self.average = ExponentialAverage(self.model, settings.ema_half_life)

    @property
    def averaged(self) -> ImageModel:
        """The model with the EMA weights; rank 0's is up to date."""
        return self.average.module

    def initialize(self, images: Tensor) -> None:
        """Data-dependent initialisation on uint8 images."""
        self.model.initialize(to_unit(images.to(self.group.device)))
        self.average = ExponentialAverage(self.model, self.settings.ema_half_life)

    def distribute(self) -> None:
        """Learn together with the other processes, from rank 0's weights."""
        damaged = self.settings.inputs == "damaged"  # a step uses the head of one factor
        self.parallel = self.group.data_parallel(self.objective, unused=damaged)

    def step(
        self,
        images: Tensor,
        *,
        rate: float,
        kl_weights: Mapping[str, float],
        images_seen: int,
        votes: Callable[[], list[float]],
    ) -> Outcome:
        """Learn from this process's part of a batch, uint8 (B, C, H, W) on the device.

        An update that is not finite is skipped. ``images_seen`` is before this batch; ``votes``
        are numbers to sum over the processes.
        """
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        if self.config.data.augment != "none":
            shift = self.config.data.augment == "shifts" and self.config.data.crops is None
            images = augment(images, self.randomness.augmentation, shift)
        self.optimizer.zero_grad(set_to_none=True)
        loss, terms = self.backward(to_unit(images), kl_weights)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        total_norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
        norm, batch_loss, counted = self.reduce(total_norm, loss, votes)
        if not (math.isfinite(norm) and math.isfinite(batch_loss)):
            return Outcome(loss, terms, total_norm, counted, self.fault(terms))
        scale = self.clip.scale(norm)
        if scale < 1:
            torch._foreach_mul_(gradients, scale)
        self.optimizer.step()
        if self.group.main:
            self.average.update(images_seen + self.batch_size, self.batch_size)
        return Outcome(loss, terms, total_norm, counted)

    def backward(
        self, x: Tensor, kl_weights: Mapping[str, float]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Gradients of x (B, C, H, W), part by part; the loss, and the terms, (B) each."""
        losses, parts_terms = [], []
        parts = x.chunk(self.accumulate)
        for part in parts:
            # Processes exchange gradients in the last part.
            hold = self.group.size > 1 and part is not parts[-1]
            with self.parallel.no_sync() if hold else nullcontext():  # type: ignore[operator]
                with self.autocast():
                    loss, terms = self.parallel(part, kl_weights)
                share = len(part) / len(x)
                (loss * share).backward()
            losses.append(loss.detach() * share)
            parts_terms.append({name: term.detach() for name, term in terms.items()})
        joined = {name: torch.cat([t[name] for t in parts_terms]) for name in parts_terms[0]}
        return torch.stack(losses).sum(), joined

    def autocast(self) -> torch.autocast:
        return autocast(self.settings.precision, self.group.device)

    def reduce(
        self, norm: Tensor, loss: Tensor, votes: Callable[[], list[float]]
    ) -> tuple[float, float, list[float]]:
        """Gradient norm, mean loss and summed votes: an update's one synchronisation."""
        if self.group.size == 1:
            values = torch.stack([norm, loss]).tolist()
            return values[0], values[1], votes()
        ballot = torch.tensor(votes(), dtype=torch.float64, device=self.group.device)
        sums = self.group.sum(torch.cat([loss.double()[None], ballot]))
        first, total, *counted = torch.cat([norm.double()[None], sums]).tolist()
        return first, total / self.group.size, counted

    def fault(self, terms: dict[str, Tensor]) -> str:
        """The sites, or else the parameter's gradient, that were not finite."""
        sites = [
            name.partition("_")[2]
            for name, term in terms.items()
            if name != "total" and not bool(term.isfinite().all())
        ]
        if sites:
            return f"site {', '.join(sites)}"
        for name, parameter in self.model.named_parameters():
            if parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
                return f"gradient of {name}"
        return "gradient norm"

    def state(self) -> dict[str, Any]:
        """The part of a checkpoint that all processes share."""
        return {
            "model": self.model.state_dict(),
            "average": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "norms": self.clip.norms,
        }

    def restore(self, state: dict[str, Any]) -> None:
        check_optimizer(state["optimizer"], self.optimizer)
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.clip.norms = [float(norm) for norm in state["norms"]]

    def restart_from_average(self) -> None:
        """Take the EMA weights, and forget the optimiser's moments."""
        self.model.load_state_dict(self.averaged.state_dict())
        self.optimizer.state.clear()
