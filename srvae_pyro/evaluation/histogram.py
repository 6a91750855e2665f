"""Baseline: an independent histogram for each dimension."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["histogram_nats"]


def histogram_nats(train: Tensor, test: Tensor, prior_weight: float = 100.0) -> float:
    """Negative log-likelihood, mean nats an image, by an independent histogram for each dimension.

    The factorial model: each channel of each pixel is drawn from the frequencies of its 256 levels
    in the training pictures, independently of all others. Frequencies are smoothed by the channel's
    frequencies over all pixels, which count for ``prior_weight`` pictures.

    Args:
        train: uint8 (N, C, H, W).
        test: uint8 (M, C, H, W).
        prior_weight: see above.
    """
    channels, dims = train.shape[1], train[0].numel()
    counts = torch.zeros(dims, 256)
    for part in train.split(10_000):  # int64 takes eight times the memory
        flat = part.reshape(len(part), dims).T.long()  # (D, N)
        counts.scatter_add_(1, flat, torch.ones(1).expand_as(flat))
    pooled = counts.reshape(channels, -1, 256).sum(dim=1) + 1
    pooled = (pooled / pooled.sum(dim=1, keepdim=True)).repeat_interleave(dims // channels, dim=0)
    smoothed = (counts + prior_weight * pooled) / (len(train) + prior_weight)
    scores = smoothed.log().gather(1, test.reshape(len(test), dims).T.long())  # (D, M)
    return -scores.sum().item() / len(test)
