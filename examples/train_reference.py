"""Train the two small CIFAR-10 transformers that ship with EdgeViT, and their teacher.

Three models, one script:

* ``teacher``: a thin convolutional network (about 0.8 M parameters) trained on the labels;
* ``vit_cifar10``: a plain timm ``VisionTransformer`` trained on the teacher's soft labels;
* ``swin_cifar10``: a plain timm ``SwinTransformer`` trained the same way.

The data is a tar with ``train/<class>/*.jpg`` and ``test/<class>/*.jpg``; it is decoded once into
a ``.npz`` cache. A run is as long as ``--epochs`` says, or, with ``--minutes``, as long as the
clock says: the learning rate then follows the elapsed time, so that it reaches zero on time
on a machine of unknown (or varying) speed. Runs resume from a checkpoint, log one CSV row per
epoch, and save the weights as safetensors. No weights are chosen by test accuracy: what is saved
is what the schedule ends with.

Usage::

    python examples/train_reference.py --data cifar10.tar.gz --model teacher --epochs 3
    python examples/train_reference.py --data cifar10.tar.gz --model vit_cifar10 --epochs 13
    python examples/train_reference.py --data cifar10.tar.gz --model swin_cifar10 --epochs 10

The shipped weights come from one CPU thread each on a busy two-core machine, with their logs beside
this file. The teacher's first two epochs followed a plan of four epochs, its third the end of a
plan of three. The students ran by the clock; the plan was lengthened from 41 to 82 minutes after
their first epoch (``--resume --minutes 82``), so ``progress`` steps back there, and about ten
minutes passed on the clock with no training (Swin's sixth epoch, the ViT's ninth). A run by
``--epochs`` follows the same recipe, not the same numbers. Until the last row the logged accuracy
is of every fourth test image.

Sources of the tricks:

* Teacher: K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (arXiv:2404.00498): frozen
  whitening layer, identity-like convolution init, alternating flips, narrower here.
* Muon optimiser for the matrices: K. Jordan et al., "Muon: An optimizer for hidden layers in
  neural networks" (2024); matrices are orthogonalised by a Newton-Schulz iteration, here in fp32.
* Distillation from a convolutional teacher: G. Hinton et al. (arXiv:1503.02531) and H. Touvron
  et al., "DeiT" (arXiv:2012.12877). The teacher's logits are averaged over an image and its mirror
  image and computed once.
* Attention that looks at one neighbour per head at the start, so that a transformer begins like a
  convolution: S. d'Ascoli et al., "ConViT" (arXiv:2103.10697), A. Trockman and J. Z. Kolter,
  "Mimetic Initialization" (arXiv:2305.09828), and J. Zheng et al., "Structured Initialization
  for Attention in Vision Transformers" (arXiv:2404.01139). Only the initial values differ; the
  architectures are timm's own.
* For the first half of its run the ViT sees a random window of 6 x 6 of its 8 x 8 patches, as in
  Y. Li et al., "FLIP" (arXiv:2212.00794), but a window, which keeps neighbours together.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.layers import set_fused_attn
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)
MODELS = ("teacher", "vit_cifar10", "swin_cifar10")
BATCH = {"teacher": 500, "vit_cifar10": 200, "swin_cifar10": 200}
COLUMNS = ("epoch", "steps", "seconds", "progress", "lr_factor", "train_loss", "test_top1",
           "test_images", "images_per_s")  # fmt: skip


# --- data ---------------------------------------------------------------------------------------


def decode_tar(path: Path) -> dict[str, np.ndarray]:
    """Decode every JPEG of the tar; images are sorted by class and file name."""
    rows: dict[str, list[tuple[str, str, bytes]]] = {"train": [], "test": []}
    with tarfile.open(path) as tar:
        for member in tar:
            handle = tar.extractfile(member)
            if handle is not None:
                split, label, name = member.name.split("/")
                rows[split].append((label, name, handle.read()))
    arrays: dict[str, np.ndarray] = {}
    for split, entries in rows.items():
        entries.sort()
        labels = sorted({label for label, _, _ in entries})
        images = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for *_, data in entries]
        arrays[f"{split}_x"] = np.stack(images)
        arrays[f"{split}_y"] = np.array([labels.index(label) for label, _, _ in entries])
    return arrays


def load_data(tar: Path, cache: Path) -> dict[str, Tensor]:
    """Return uint8 NCHW images and int64 labels, from the cache when there is one."""
    if not cache.exists():
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez(cache, **decode_tar(tar))
    with np.load(cache) as arrays:
        data = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    for split in ("train", "test"):
        data[f"{split}_x"] = data[f"{split}_x"].permute(0, 3, 1, 2).contiguous()
    return data


def normalise(images: Tensor, device: torch.device) -> Tensor:
    """Turn uint8 images into normalised floats."""
    mean = torch.tensor(MEAN, device=device).view(1, 3, 1, 1)
    std = torch.tensor(STD, device=device).view(1, 3, 1, 1)
    return (images.to(device).float() / 255 - mean) / std


def augment(images: Tensor, flip: Tensor, pad: int, rng: torch.Generator) -> Tensor:
    """Shift each image by up to ``pad`` pixels (reflected border) and mirror where asked."""
    count, _, height, width = images.shape
    padded = F.pad(images.float(), (pad,) * 4, mode="reflect")
    shift = torch.randint(0, 2 * pad + 1, (2, count), generator=rng)
    rows = shift[0, :, None] + torch.arange(height)
    columns = torch.arange(width).expand(count, width)
    columns = shift[1, :, None] + torch.where(flip[:, None], columns.flip(1), columns)
    index = torch.arange(count)
    moved = padded.permute(0, 2, 3, 1)[index[:, None, None], rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2).contiguous()


def batches(
    data: dict[str, Tensor], size: int, pad: int, epoch: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield augmented training images and their indices; mirror sides alternate by epoch."""
    images = data["train_x"]
    first = torch.rand(len(images), generator=torch.Generator().manual_seed(seed)) < 0.5
    rng = torch.Generator().manual_seed(1_000_003 * seed + epoch)
    order = torch.randperm(len(images), generator=rng)
    for start in range(0, len(order) - size + 1, size):
        index = order[start : start + size]
        flip = first[index] ^ bool(epoch % 2)
        yield augment(images[index], flip, pad, rng), index


# --- teacher ------------------------------------------------------------------------------------


def conv3(inputs: int, outputs: int) -> nn.Conv2d:
    """Return a 3x3 convolution that starts as the identity on its first channels."""
    layer = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    nn.init.dirac_(layer.weight.data[:inputs])
    return layer


def norm(channels: int) -> nn.BatchNorm2d:
    """Return a batch norm with a fast running mean."""
    return nn.BatchNorm2d(channels, momentum=0.3)


def teacher_block(inputs: int, outputs: int) -> list[nn.Module]:
    """Return convolution, pooling by two, and a second convolution."""
    first = [conv3(inputs, outputs), nn.MaxPool2d(2), norm(outputs), nn.GELU()]
    return [*first, conv3(outputs, outputs), norm(outputs), nn.GELU()]


class Teacher(nn.Sequential):
    """A thin airbench-like network: whitening, three blocks, max pool, linear head."""

    def __init__(self, widths: tuple[int, int, int] = (48, 128, 192)) -> None:
        whiten = nn.Conv2d(3, 24, 2)
        blocks = [
            *teacher_block(24, widths[0]),
            *teacher_block(widths[0], widths[1]),
            *teacher_block(widths[1], widths[2]),
        ]
        head = nn.Linear(widths[2], 10, bias=False)
        super().__init__(whiten, nn.GELU(), *blocks, nn.MaxPool2d(3), nn.Flatten(), head)
        nn.init.zeros_(head.weight)

    @torch.no_grad()
    def whiten(self, images: Tensor) -> None:
        """Set the first layer to the whitening filters of 2x2 patches and their negatives."""
        patches = F.unfold(images, 2).transpose(1, 2).reshape(-1, 12)
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (vectors / (values + 5e-4).sqrt()).T.reshape(12, 3, 2, 2)
        layer = self[0]
        assert isinstance(layer, nn.Conv2d)
        assert layer.bias is not None
        layer.weight.copy_(torch.cat([filters, -filters]))
        layer.weight.requires_grad_(False)
        nn.init.zeros_(layer.bias)


# --- optimiser ----------------------------------------------------------------------------------


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """Push the singular values of a matrix (or a stack of them) towards one."""
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if tall else matrix
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum with orthogonalised updates; fused query-key-value splits in three."""

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, momentum: float, decay: float
    ) -> None:
        super().__init__(list(params), {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is None:
                    continue
                state = self.state[param]
                buffer = state.setdefault("momentum", torch.zeros_like(param))
                buffer.lerp_(param.grad, 1 - group["momentum"])
                update = self._direction(param.grad.lerp(buffer, group["momentum"]))
                param.mul_(1 - group["lr"] * group["decay"])
                param.add_(update, alpha=-group["lr"])

    @staticmethod
    def _direction(grad: Tensor) -> Tensor:
        """Return the orthogonalised update in the shape of the gradient."""
        flat = grad.flatten(1)
        rows, columns = flat.shape
        if rows == 3 * columns:
            return orthogonalise(flat.view(3, columns, columns)).reshape(grad.shape)
        scale = max(1.0, rows / columns) ** 0.5
        return (orthogonalise(flat) * scale).view(grad.shape)


def optimisers(model: nn.Module, teacher: bool) -> list[torch.optim.Optimizer]:
    """Return Muon for the hidden matrices and AdamW for everything else."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, param in model.named_parameters():
        if not param.requires_grad:
            continue
        outer = param.ndim < 2 or len(param) == 10
        outer |= any(key in name for key in ("embed", "token", "bias_table", "head"))
        (others if outer else matrices).append(param)
    if teacher:
        adam = torch.optim.AdamW(others, lr=6e-3, betas=(0.85, 0.98), weight_decay=0.0)
        return [Muon(matrices, lr=0.24, momentum=0.6, decay=0.0), adam]
    adam = torch.optim.AdamW(others, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01)
    return [Muon(matrices, lr=0.02, momentum=0.95, decay=0.05), adam]


def fix_norms(model: nn.Module) -> None:
    """Scale the teacher's convolutions back to a fixed norm (batch norm follows each)."""
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d) and layer.weight.requires_grad:
                layer.weight.mul_(len(layer.weight) ** 0.5 / layer.weight.norm())


def lr_factor(progress: float, teacher: bool) -> float:
    """Return the learning-rate factor: short warm-up, plateau, linear decay to zero."""
    warm, plateau = (0.0, 0.0) if teacher else (0.02, 0.3)
    if progress < warm:
        return 0.1 + 0.9 * progress / warm
    return min(1.0, max(0.0, (1 - progress) / (1 - plateau)))


# --- students -----------------------------------------------------------------------------------

KWARGS: dict[str, dict[str, Any]] = {
    "vit_cifar10": {
        "img_size": 32, "patch_size": 4, "num_classes": 10, "embed_dim": 128, "depth": 6,
        "num_heads": 4, "mlp_ratio": 2.0,
    },
    "swin_cifar10": {
        "img_size": 32, "patch_size": 2, "window_size": 4, "num_classes": 10, "embed_dim": 48,
        "depths": [2, 2, 2], "num_heads": [3, 6, 8], "mlp_ratio": 2.0, "drop_path_rate": 0.0,
    },
}  # fmt: skip
NEIGHBOURS = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1))


def init_linears(model: nn.Module) -> None:
    """Draw every linear layer; the ones that end a residual branch start small."""
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            small = name.endswith(("attn.proj", "fc2"))
            std = (0.4 if small else 1.0) * layer.in_features**-0.5
            nn.init.trunc_normal_(layer.weight, std=0.02 if "head" in name else std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def position_code(side: int) -> Tensor:
    """Return (side * side, 4 * side) sines and cosines whose dot products single out a shift."""
    frequency = math.pi * (torch.arange(side) + 0.5) / side
    angle = torch.arange(side)[:, None] * frequency
    axis = torch.stack([angle.cos(), angle.sin()], dim=2).flatten(1)
    rows = axis[:, None].expand(side, side, 2 * side)
    columns = axis[None].expand(side, side, 2 * side)
    return torch.cat([rows, columns], dim=2).flatten(0, 1)


def rotation(side: int, shift: tuple[int, int]) -> Tensor:
    """Return the matrix that turns the code of a position into the code of a shifted one."""
    blocks = []
    for amount in shift:
        for angle in (math.pi * (torch.arange(side) + 0.5) / side * amount).tolist():
            cos, sin = math.cos(angle), math.sin(angle)
            blocks.append(torch.tensor([[cos, -sin], [sin, cos]]))
    return torch.block_diag(*blocks)


@torch.no_grad()
def init_vit(model: VisionTransformer, sharpness: float = 1.6) -> None:
    """Let every head look at one neighbour first; the class token looks at all patches."""
    init_linears(model)
    side = model.patch_embed.grid_size[0]
    width = 4 * side
    model.pos_embed.zero_()
    model.pos_embed[0, 1:, :width] = position_code(side)
    patch = model.patch_embed.proj
    nn.init.trunc_normal_(patch.weight, std=patch.weight[0].numel() ** -0.5)
    patch.weight[:width].mul_(0.1)
    nn.init.zeros_(patch.bias)
    nn.init.normal_(model.cls_token[..., width:], std=0.5)
    for number, block in enumerate(model.blocks):
        point_heads(block.attn, number, side, sharpness)


def point_heads(attention: nn.Module, number: int, side: int, sharpness: float) -> None:
    """Set the query and key weights of one layer so that each head finds its neighbour."""
    weight = attention.qkv.weight
    embed, width = weight.shape[1], 4 * side
    heads, size = attention.num_heads, attention.head_dim
    query_key = weight[: 2 * embed].view(2, heads, size, embed)
    query_key.normal_(std=0.02)
    for head in range(heads):
        shift = NEIGHBOURS[(number * heads + head) % len(NEIGHBOURS)]
        query_key[0, head, :, :width] += sharpness * rotation(side, shift)[:size]
        query_key[1, head, :, :width] += sharpness * torch.eye(width)[:size]


@torch.no_grad()
def init_swin(model: SwinTransformer, sharpness: float = 4.0) -> None:
    """Let every head look at one neighbour first, by its table of relative positions."""
    init_linears(model)
    nn.init.trunc_normal_(model.patch_embed.proj.weight, std=12**-0.5)
    number = 0
    for layer in model.layers:
        for block in layer.blocks:
            attention, window = block.attn, block.attn.window_size[0]
            embed = attention.qkv.weight.shape[1]
            attention.qkv.weight[: 2 * embed].mul_(0.3)
            table = attention.relative_position_bias_table
            nn.init.normal_(table, std=0.02)
            for head in range(attention.num_heads):
                down, right = NEIGHBOURS[(number + head) % len(NEIGHBOURS)]
                row = (window - 1 - down) * (2 * window - 1) + window - 1 - right
                table[row, head] += sharpness
            number += attention.num_heads


def vit_on_window(model: VisionTransformer, images: Tensor, side: int) -> Tensor:
    """Run the transformer on a random ``side`` x ``side`` window of patches (cheaper)."""
    grid = model.patch_embed.grid_size[0]
    top, left = torch.randint(0, grid - side + 1, (2,)).tolist()
    patches = torch.arange(grid * grid).view(grid, grid)[top : top + side, left : left + side]
    keep = torch.cat([torch.zeros(1, dtype=torch.long), 1 + patches.flatten()])
    tokens = model.norm_pre(model._pos_embed(model.patch_embed(images)))
    tokens = model.blocks(tokens[:, keep.to(images.device)])
    return model.forward_head(model.norm(tokens))


# --- training -----------------------------------------------------------------------------------


def build(name: str) -> nn.Module:
    """Return an initialised model by name."""
    if name == "teacher":
        return Teacher().to(memory_format=torch.channels_last)
    if name == "vit_cifar10":
        vit = VisionTransformer(**KWARGS[name])
        init_vit(vit)
        return vit
    swin = SwinTransformer(**KWARGS[name])
    init_swin(swin)
    return swin


@torch.no_grad()
def logits(model: nn.Module, images: Tensor, device: torch.device) -> Tensor:
    """Return the logits of uint8 images, in batches."""
    model.eval()
    parts = [model(normalise(part, device)).float().cpu() for part in images.split(500)]
    model.train()
    return torch.cat(parts)


def top1(model: nn.Module, data: dict[str, Tensor], device: torch.device, stride: int = 1) -> float:
    """Return the top-1 accuracy in per cent on every ``stride``-th test image."""
    guess = logits(model, data["test_x"][::stride], device).argmax(1)
    return 100 * (guess == data["test_y"][::stride]).double().mean().item()


def soft_targets(
    path: Path, weights: Path, data: dict[str, Tensor], device: torch.device
) -> Tensor:
    """Return the teacher's training logits, averaged over each image and its mirror image."""
    if not path.exists():
        teacher = build("teacher").to(device)
        teacher.load_state_dict(load_file(weights))
        images = data["train_x"]
        mean = (logits(teacher, images, device) + logits(teacher, images.flip(3), device)) / 2
        save_atomic({"logits": mean}, path)
    return load_file(path)["logits"]


def save_atomic(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file beside its place and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file({key: value.contiguous() for key, value in tensors.items()}, part)
    part.chmod(0o644)
    part.replace(path)


def distillation(output: Tensor, labels: Tensor, soft: Tensor, heat: float = 1.0) -> Tensor:
    """Mix the divergence from the teacher (80 %) with the cross entropy of the labels (20 %)."""
    student = F.log_softmax(output / heat, dim=1)
    target = F.log_softmax(soft / heat, dim=1)
    divergence = F.kl_div(student, target, reduction="batchmean", log_target=True) * heat**2
    return 0.8 * divergence + 0.2 * F.cross_entropy(output, labels)


class Run:
    """One training run: model, optimisers, clock, log and checkpoint."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.device = torch.device(args.device)
        self.teacher = args.model == "teacher"
        self.data = load_data(args.data, args.cache)
        self.soft: Tensor | None = None
        if not self.teacher and not args.labels_only:
            path = args.out / "teacher_logits.safetensors"
            weights = args.out / "teacher.safetensors"
            self.soft = soft_targets(path, weights, self.data, self.device)
        torch.manual_seed(args.seed)
        self.model = build(args.model).to(self.device)
        if isinstance(self.model, Teacher):
            self.model.whiten(normalise(self.data["train_x"][::10], self.device))
            fix_norms(self.model)
        self.optimisers = optimisers(self.model, self.teacher)
        self.forward = torch.compile(self.model) if args.compile else self.model
        self.epoch, self.steps, self.seconds = 0, 0, 0.0
        self.size = BATCH[args.model]
        self.per_epoch = len(self.data["train_x"]) // self.size

    @property
    def progress(self) -> float:
        """Return how far the run is, from 0 to 1, by the clock or by the steps."""
        if self.args.minutes:
            return self.seconds / (60 * self.args.minutes)
        return self.steps / (self.per_epoch * self.args.epochs)

    def checkpoint(self) -> Path:
        """Return the path of the checkpoint."""
        return Path(self.args.out) / f"{self.args.model}.ckpt"

    def resume(self) -> None:
        """Continue from the checkpoint."""
        state = torch.load(self.checkpoint(), weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.epoch, self.steps, self.seconds = state["epoch"], state["steps"], state["seconds"]

    def save(self) -> None:
        """Write the checkpoint and the weights."""
        state: dict[str, Any] = {"model": self.model.state_dict(), "epoch": self.epoch}
        state |= {"steps": self.steps, "seconds": self.seconds}
        state["optimisers"] = [optimiser.state_dict() for optimiser in self.optimisers]
        part = self.checkpoint().with_suffix(".part")
        torch.save(state, part)
        part.replace(self.checkpoint())
        weights = {key: value.cpu() for key, value in self.model.state_dict().items()}
        save_atomic(weights, Path(self.args.out) / f"{self.args.model}.safetensors")

    def step(self, images: Tensor, index: Tensor) -> float:
        """Train on one batch and return the loss."""
        factor = lr_factor(self.progress, self.teacher)
        inputs = normalise(images, self.device)
        if self.teacher:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        labels = self.data["train_y"][index].to(self.device)
        output = self.output(inputs)
        if self.soft is None:
            loss = F.cross_entropy(output, labels, label_smoothing=0.1)
        else:
            loss = distillation(output, labels, self.soft[index].to(self.device))
        loss.backward()  # type: ignore[no-untyped-call]
        self.update(factor)
        return loss.item()

    def output(self, inputs: Tensor) -> Tensor:
        """Return the logits; the first half of a ViT's run sees 6 x 6 of the 8 x 8 patches."""
        if isinstance(self.model, VisionTransformer) and self.progress < 0.5:
            return vit_on_window(self.model, inputs, 6)
        return self.forward(inputs)

    def update(self, factor: float) -> None:
        """Let both optimisers step with the learning rates of this moment."""
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                base = group.setdefault("base_lr", group["lr"])
                group["lr"] = base * factor
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        if self.teacher:
            fix_norms(self.model)

    def run_epoch(self) -> dict[str, float]:
        """Train for one epoch (or to the end of the clock) and return the row for the log."""
        losses: list[float] = []
        first = time.perf_counter()
        for images, index in batches(self.data, self.size, 2, self.epoch, self.args.seed):
            start = time.perf_counter()
            losses.append(self.step(images, index))
            self.steps += 1
            self.seconds += time.perf_counter() - start
            if len(losses) % 25 == 0:
                print(f"  {self.progress:.3f} loss {sum(losses[-25:]) / 25:.4f}", flush=True)
            if self.progress >= 1:
                break
        self.epoch += 1
        speed = self.size * len(losses) / (time.perf_counter() - first)
        return {"train_loss": sum(losses) / len(losses), "images_per_s": speed}

    def row(self, measured: dict[str, float]) -> dict[str, float]:
        """Evaluate and complete the row: a quarter of the test images, all of them at the end."""
        stride = 4 if self.progress < 1 else 1
        self.model.eval()
        row = {"epoch": self.epoch, "steps": self.steps, "seconds": self.seconds}
        row |= {"progress": self.progress, "lr_factor": lr_factor(self.progress, self.teacher)}
        row |= {"test_top1": top1(self.model, self.data, self.device, stride)}
        return row | measured | {"test_images": len(self.data["test_y"][::stride])}

    def train(self) -> None:
        """Train to the end, logging and saving after each epoch."""
        log = Path(self.args.out) / f"train_reference_{self.args.model}.csv"
        if not self.epoch:
            log.write_text(",".join(COLUMNS) + "\n")
        while self.progress < 1:
            row = self.row(self.run_epoch())
            self.save()
            values = [round(row[key], 4) for key in COLUMNS]
            with log.open("a", newline="") as handle:
                csv.writer(handle, lineterminator="\n").writerow(values)
            print(dict(zip(COLUMNS, values, strict=True)), flush=True)


CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def export(args: argparse.Namespace) -> None:
    """Load the saved weights into a fresh timm model, measure it, and write both to a folder."""
    weights = load_file(args.out / f"{args.model}.safetensors")
    family = VisionTransformer if args.model == "vit_cifar10" else SwinTransformer
    model = family(**KWARGS[args.model])
    model.load_state_dict(weights, strict=True)
    data, device = load_data(args.data, args.cache), torch.device(args.device)
    accuracy = top1(model.to(device), data, device)
    save_atomic(weights, args.export / f"{args.model}.safetensors")
    listing = args.export / "reference_models.json"
    entries = json.loads(listing.read_text()) if listing.exists() else {}
    entries[args.model] = describe(args.model, model, accuracy)
    part = listing.with_suffix(".part")
    part.write_text(json.dumps(entries, indent=2) + "\n")
    part.replace(listing)
    print(f"{args.model}: {accuracy:.2f} % of {len(data['test_y'])} test images")


def describe(name: str, model: nn.Module, accuracy: float) -> dict[str, Any]:
    """Return what a reader needs to rebuild, feed and check an exported model."""
    return {
        "class": type(model).__name__,
        "kwargs": KWARGS[name],
        "input_size": [3, 32, 32],
        "mean": list(MEAN),
        "std": list(STD),
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "parameters": sum(param.numel() for param in model.parameters()),
        "top1_test8000": round(accuracy, 2),
        "classes": list(CLASSES),
    }


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train EdgeViT's reference models.")
    parser.add_argument("--data", type=Path, required=True, help="tar of train/ and test/ JPEGs")
    parser.add_argument("--cache", type=Path, default=Path("cifar10.npz"), help="decoded images")
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--minutes", type=float, default=0.0, help="run by the clock instead")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="checkpoints, logs, weights")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves the default")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="compile the forward pass")
    parser.add_argument("--labels-only", action="store_true", help="train without the teacher")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint")
    parser.add_argument("--export", type=Path, help="only measure the saved weights and copy them")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Train one model."""
    args = parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    set_fused_attn(enable=args.device != "cpu")  # plain attention is faster on a CPU here
    args.out.mkdir(parents=True, exist_ok=True)
    if args.export:
        export(args)
        return
    run = Run(args)
    if args.resume and run.checkpoint().exists():
        run.resume()
    run.train()


if __name__ == "__main__":
    main()
