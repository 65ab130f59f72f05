"""Runs the published programs of PTQ4ViT and RepQ-ViT on one of the embedded models, on the CPU.

None of their code is here: a checkout of each is imported from where the user put it, and what is
changed from outside is written in each class: devices, memory budgets and differences of the
timm version they were written for. Their configurations, searches and grids are theirs.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

Outputs = dict[tuple[str, str], tuple[Tensor, Tensor]]
"""(module path, kind) -> (float32 output, quantized output) of a product on float32 inputs."""
CANDIDATES_AT_ONCE = 10  # PTQ4ViT's own budget, 3 to 15 GiB of a GPU, is not there


class Head(nn.Module):
    """timm's newer Swin pools inside its head; both programs know a linear called ``head``."""

    def __init__(self, fc: nn.Linear) -> None:
        super().__init__()
        self.head = fc

    def forward(self, x: Tensor) -> Tensor:  # [B, H, W, C]
        return self.head(x.mean((1, 2)))


def adapted(model: nn.Module, programs_model: Any) -> nn.Module:
    """Give a model of today's timm the form the programs' attention functions expect.

    Args:
        programs_model: The program's module with `attention_forward` and `MatMul`.
    """
    for module in model.modules():
        kind = type(module).__name__
        if kind in {"Attention", "WindowAttention"}:
            name = "attention_forward" if kind == "Attention" else "window_attention_forward"
            _replace_attention(module, getattr(programs_model, name), programs_model.MatMul)
        elif kind == "PatchMerging":
            _merge_in_three_dimensions(module)
        for name in ("norm", "q_norm", "k_norm"):  # today's placeholders, named as LayerNorms are
            if isinstance(module._modules.get(name), nn.Identity):
                del module._modules[name]
                setattr(module, name, lambda x: x)
    if type(model).__name__ == "SwinTransformer":
        model.head = Head(model.head.fc)
    return model.eval()


def _replace_attention(module: nn.Module, forward: Callable[..., Tensor], matmul: Any) -> None:
    module.matmul1, module.matmul2 = matmul(), matmul()

    def call(x: Tensor, mask: Tensor | None = None, **_: Any) -> Tensor:
        return forward(module, x) if mask is None else forward(module, x, mask)

    module.forward = call


def _merge_in_three_dimensions(module: nn.Module) -> None:
    """Give the reduction [B, T, C], as in the timm the programs were written for."""
    module.norm.register_forward_hook(lambda _m, _i, out: out.flatten(1, 2))
    module.register_forward_hook(
        lambda _m, _i, out: out.unflatten(1, [int(out.shape[1] ** 0.5)] * 2)
    )


@contextmanager
def checkout(path: Path) -> Iterator[None]:
    """Make a program's modules importable."""
    sys.path.insert(0, str(path))
    try:
        yield
    finally:
        sys.path.remove(str(path))


class Ptq4vit:
    """`configs/PTQ4ViT.py` as `example/test_all.py` runs it: parallel, mini-batches of 4.

    Changed: ``cuda()`` does nothing; candidates in portions of 10; with `fisher`, the gradient of
    a loss that is not zero (drawn labels) in the place of the program's, to see what it does.
    """

    name = "ptq4vit"

    def __init__(self, path: Path, *, fisher: bool = False) -> None:
        self.fisher = fisher
        Tensor.cuda = lambda self, *a, **k: self
        with checkout(path):
            self.models = importlib.import_module("utils.models")
            self.wrap = importlib.import_module("utils.net_wrap")
            self.calib = importlib.import_module("utils.quant_calib")
            self.config = importlib.import_module("configs.PTQ4ViT")

    def quantize(self, model: nn.Module, images: Tensor, bits: int) -> nn.Module:
        model = adapted(model, self.models)
        for widths in ("w_bit", "a_bit", "A_bit", "B_bit"):
            table = getattr(self.config, widths)
            table.update(dict.fromkeys(table, bits))
        self.wrapped = self.wrap.wrap_modules_in_net(model, self.config)
        for module in self.wrapped.values():
            module._initialize_calib_parameters = self._in_portions(module)
        loader = _Loader(images)
        calibrator = self.calib.HessianQuantCalibrator(
            model, self.wrapped, loader, sequential=False, batch_size=4
        )
        if self.fisher:
            self.calib.F = _with_drawn_labels()
        calibrator.batching_quant_calib()
        return model

    @staticmethod
    def _in_portions(module: Any) -> Callable[[], None]:
        original = module._initialize_calib_parameters

        def limited() -> None:
            original()
            module.parallel_eq_n = min(module.parallel_eq_n, CANDIDATES_AT_ONCE)

        return limited

    @torch.no_grad()
    def outputs(self, model: nn.Module, images: Tensor) -> Outputs:
        found: Outputs = {}
        for name, module in self.wrapped.items():

            def call(*x: Tensor, name: str = name, module: Any = module) -> Tensor:
                exact = type(module).forward(module, *x)
                found[product(name)] = exact, module.quant_forward(*x)
                return exact

            module.mode, module.forward = "raw", call
        model(images)
        for module in self.wrapped.values():
            module.mode = "quant_forward"
            del module.forward
        return found


class _Loader:
    def __init__(self, images: Tensor) -> None:
        self.images, self.batch_size = images, len(images)

    def __iter__(self) -> Iterator[tuple[Tensor, None]]:
        yield self.images, torch.zeros(len(self.images))


def _with_drawn_labels() -> SimpleNamespace:
    """Return torch's functional module with a KL divergence that is a Fisher sample's loss."""
    generator = torch.Generator().manual_seed(0)

    def kl_div(log_p: Tensor, _target: Tensor, reduction: str = "") -> Tensor:
        labels = torch.multinomial(log_p.detach().exp(), 1, generator=generator)
        return -log_p.gather(1, labels).sum()

    functional = torch.nn.functional
    return SimpleNamespace(
        kl_div=kl_div, log_softmax=functional.log_softmax, softmax=functional.softmax
    )


class Repq:
    """`classification/test_quant.py`'s own main function, with its defaults on the CPU.

    Changed: it gets our model and images in place of timm's and ImageNet's, and hands over the
    model where it would start to count accuracy.
    """

    name = "repq-vit"

    def __init__(self, path: Path) -> None:
        with checkout(path / "classification"):
            self.program = importlib.import_module("test_quant")
            self.models = importlib.import_module("utils.build_model")

    def quantize(self, model: nn.Module, images: Tensor, bits: int) -> nn.Module:
        model, program, kept = adapted(model, self.models), self.program, []
        kind = "swin" if type(model).__name__ == "SwinTransformer" else "deit"
        arguments = ["--model", f"{kind}_tiny", "--device", "cpu"]
        arguments += ["--w_bits", str(bits), "--a_bits", str(bits)]
        parser = program.argparse.ArgumentParser(parents=[program.get_args_parser()])
        program.args = parser.parse_args(arguments)
        program.build_dataset = lambda _args: (_Loader(images), None)
        program.build_model = lambda _name: model
        program.validate = lambda _a, _l, quantized, *_: (kept.append(quantized), 0, 0)
        program.main()
        self.layers = {
            name: module
            for name, module in model.named_modules()
            if type(module).__name__ in {"QuantConv2d", "QuantLinear", "QuantMatMul"}
        }
        return kept[0]

    @torch.no_grad()
    def outputs(self, model: nn.Module, images: Tensor) -> Outputs:
        found: Outputs = {}
        for name, module in self.layers.items():

            def call(*x: Tensor, name: str = name, module: Any = module) -> Tensor:
                module.set_quant_state(True, True)
                rounded = type(module).forward(module, *x)
                module.set_quant_state(False, False)
                exact = type(module).forward(module, *x)
                found[product(name)] = exact, rounded
                return exact

            module.forward = call
        model(images)
        for module in self.layers.values():
            module.set_quant_state(True, True)
            del module.forward
        return found


def product(name: str) -> tuple[str, str]:
    """Return (module path, kind) as edgevit names products."""
    parent, _, last = name.rpartition(".")
    if last in {"matmul1", "matmul2"}:
        kind = "qk" if last == "matmul1" else "pv"
        return f"{parent}.{kind}", kind
    return ("head.fc" if name == "head.head" else name), "linear"
