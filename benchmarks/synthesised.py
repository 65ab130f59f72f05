"""Images made from a model alone, to be calibrated on where there are none.

Source: Z. Li et al., "Patch Similarity Aware Data-Free Quantization for Vision Transformers"
(PSAQ-ViT), arXiv 2203.02250: from Gaussian noise, the entropy of the similarities between patches
(eq. 4 to 7) grows, while the image is driven to a class (eq. 8) and kept smooth (eq. 9).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from edgevit.zoo import LoadedModel

RATE, BETAS = 0.25, (0.5, 0.9)
CLASS_WEIGHT, SMOOTH_WEIGHT = 1.0, 0.05
JITTER = 32
PAIRS = 1024
BATCH = 16
CLASS_TOKENS = 1


def psaq_images(loaded: LoadedModel, *, num: int, steps: int, seed: int) -> Tensor:
    """Return float32 [num, 3, H, W], in the form the model takes them.

    Args:
        loaded: A model of timm with `blocks[i].attn`, as ViT and DeiT have.
    """
    generator = torch.Generator().manual_seed(seed)
    model = loaded.model.requires_grad_(False)
    attentions = [block.attn for block in model.blocks]
    parts = [
        _synthesised(model, attentions, loaded, min(BATCH, num - at), steps, generator)
        for at in range(0, num, BATCH)
    ]
    return torch.cat(parts)


def _synthesised(
    model: nn.Module,
    attentions: list[nn.Module],
    loaded: LoadedModel,
    num: int,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    images = torch.randn(num, *loaded.preprocessing.input_size, generator=generator)
    images.requires_grad_(True)  # [B, 3, H, W]
    classes = torch.randint(loaded.num_classes, (num,), generator=generator)  # [B]
    optimizer = torch.optim.Adam([images], lr=RATE, betas=BETAS)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        seen: list[Tensor] = []
        hooks = [a.register_forward_hook(_keeping_in(seen)) for a in attentions]
        logits = model(_jittered(images, generator))  # [B, classes]
        for hook in hooks:
            hook.remove()
        entropy = torch.stack([similarity_entropy(out, generator) for out in seen]).mean()
        loss = CLASS_WEIGHT * nn.functional.cross_entropy(logits, classes) - entropy
        loss = loss + SMOOTH_WEIGHT * roughness(images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return images.detach()


def _keeping_in(seen: list[Tensor]) -> Callable[[nn.Module, object, Tensor], None]:
    """Return a hook that appends a module's output."""
    return lambda module, given, output: seen.append(output)


def _jittered(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift images [B, 3, H, W] by up to `JITTER` pixels and mirror half of the calls."""
    shift = torch.randint(-JITTER, JITTER + 1, (2,), generator=generator).tolist()
    moved = torch.roll(images, shift, (2, 3))
    return moved.flip(3) if torch.rand(1, generator=generator) < 0.5 else moved


def similarity_entropy(tokens: Tensor, generator: torch.Generator) -> Tensor:
    """Return the differential entropy of the cosine similarities between patches, in nats.

    The density is a kernel estimate (Gaussian, Scott's bandwidth) over pairs drawn at random.

    Args:
        tokens: float32 [B, N, D], what an attention gives.
    """
    patches = nn.functional.normalize(tokens[:, CLASS_TOKENS:], dim=2)  # [B, P, D]
    count = patches.shape[1]
    first, second = torch.randint(count, (2, PAIRS), generator=generator)
    apart = first != second
    values = (patches[:, first[apart]] * patches[:, second[apart]]).sum(2)  # [B, S]
    width = 1.06 * values.detach().std(1, keepdim=True) * values.shape[1] ** -0.2  # [B, 1]
    at = torch.linspace(-1, 1, 64)  # [G]
    z = (at - values[:, :, None]) / width[:, :, None]  # [B, S, G]
    density = torch.exp(-z.square() / 2).mean(1) / (width * math.sqrt(2 * math.pi))  # [B, G]
    density = density / (density.sum(1, keepdim=True) * (at[1] - at[0]) + 1e-9)
    return -(density * torch.log(density + 1e-9)).sum(1).mean() * (at[1] - at[0])


def roughness(images: Tensor) -> Tensor:
    """Return the total variation: the mean distance of neighbours, also diagonal ones."""
    centre = images[:, :, 1:, 1:]
    others = (images[:, :, :-1, 1:], images[:, :, 1:, :-1], images[:, :, :-1, :-1])
    return sum((centre - other).square().mean((1, 2, 3)).sqrt().mean() for other in others)
