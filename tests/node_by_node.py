"""Gradients without PyTorch's engine, which does not run on CUDA tensors where there is no GPU.

Before the first of autograd's nodes it asks each device up to theirs for its context
(``GraphTask::stash_current_streams``), and there is none. The nodes themselves, which hold the
formulas, run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction


def backward(loss: Tensor) -> None:
    """``loss.backward()`` of a scalar without PyTorch's engine, see :func:`leaf_gradients`."""
    for leaf, gradient in leaf_gradients(loss):
        leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient


def grad(loss: Tensor, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """``torch.autograd.grad(loss, inputs)`` of leaves in the same way."""
    found = {id(leaf): gradient for leaf, gradient in leaf_gradients(loss)}
    return tuple(found[id(leaf)] for leaf in inputs)


@torch.no_grad()
def leaf_gradients(loss: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The gradients of a scalar by autograd's own nodes, called one after another.

    As the engine does, a gradient is summed over what was broadcast, brought to the type of what it
    is the gradient of, and refused on another device.

    Raises:
        RuntimeError: a gradient is on another device than its tensor.
    """
    assert loss.dim() == 0
    root = loss.grad_fn
    edges: Counter[Any] = Counter()  # into a node, over which nothing has come yet
    found, stack = {root}, [root]
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is not None:
                edges[node] += 1
                if node not in found:
                    found.add(node)
                    stack.append(node)
    gradients: dict[Any, dict[int, Tensor]] = {root: {0: torch.ones_like(loss)}}
    ready, leaves = [root], []
    while ready:
        node = ready.pop()
        given = gradients.pop(node, {})
        if hasattr(node, "variable"):
            leaves += [(node.variable, gradient) for gradient in given.values()]
            continue
        for (target, slot), gradient in zip(node.next_functions, called(node, given), strict=True):
            if target is None:
                continue
            if gradient is not None:
                slots = gradients.setdefault(target, {})
                gradient = suited(gradient, target._input_metadata[slot])
                slots[slot] = slots[slot] + gradient if slot in slots else gradient
            edges[target] -= 1
            if not edges[target]:
                ready.append(target)
    return leaves


def called(node: Any, given: dict[int, Tensor]) -> tuple[Tensor | None, ...]:
    """A node's gradients of what it was computed from, by those of its outputs."""
    if not given:
        return (None,) * len(node.next_functions)
    slots = [given.get(slot) for slot in range(len(node._input_metadata))]
    if isinstance(node, BackwardCFunction):  # of a torch.autograd.Function, all of tensors
        metadata = node._input_metadata
        zeros = [torch.zeros(of.shape, dtype=of.dtype, device=of.device) for of in metadata]
        out = node.apply(*(zeros[i] if slot is None else slot for i, slot in enumerate(slots)))
    else:
        out = node(*slots)
    return out if isinstance(out, tuple) else (out,)


def suited(gradient: Tensor, of: Any) -> Tensor:
    """A gradient as the engine hands it on to a tensor of such metadata."""
    if gradient.device != of.device:
        raise RuntimeError(f"a gradient on {gradient.device} of a tensor on {of.device}")
    if gradient.shape != torch.Size(of.shape):
        gradient = gradient.sum_to_size(tuple(of.shape))
    return gradient.to(of.dtype)
