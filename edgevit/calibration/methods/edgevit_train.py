"""EdgeViT's best method: after `edgevit`, every block is trained to undo what quantization did.

Part by part in execution order, with the input that the trained parts before it produce, the
layers of a part are decided as in `edgevit`, with codebook grids where the target runs them; then
weight codes, steps, biases and the affines of LayerNorms are trained on unlabelled images to give
back the float32 output of the part. This is the block-wise training of BRECQ (Li et al., arXiv
2102.05426) with straight-through rounding instead of its rounding regulariser, as in I&S-ViT (Zhong
et al., arXiv 2311.10126). The local loss weights every element by its Fisher information; where the
time can be afforded, the features that the float32 rest of the network makes of the output count
too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from edgevit.calibration.methods.edgevit import WITH_CODEBOOKS, plan_calibration
from edgevit.calibration.run import Method, Run
from edgevit.calibration.search.parallel import SearchChoices
from edgevit.calibration.search.sequential import walk_part
from edgevit.calibration.statistics.fisher import output_loss
from edgevit.calibration.statistics.ranges import batches
from edgevit.calibration.statistics.scores import class_scores_tensor
from edgevit.calibration.training.checkpoint import TrainingCheckpoint, fingerprint
from edgevit.calibration.training.devices import Workbench, default_device, device_of
from edgevit.calibration.training.trainable import TrainablePart, trainable_part
from edgevit.graph.interpret import Product, run_outputs, run_part
from edgevit.graph.layernorm import LayerNormFeed
from edgevit.graph.model import Graph, Role
from edgevit.graph.parts import Part, feeds_in, parts_of
from edgevit.quantizers.quantized_graph import QuantizedGraph

FAST_IMAGES = 64
HELD_OUT = 8  # one image in so many judges a part and is not trained on


@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings with which every part is trained.

    Args:
        iterations: Steps of Adam per part.
        batch_size: Images per step.
        code_rate: Learning rate of weight codes, in codes.
        other_rate: Learning rate of log-steps and of biases in their units.
        suffix: Weight of the error of the features that the float32 rest of the network makes of
            the part's output; 0 leaves it out.
        choices: How grids are chosen before training.
        device: Where parts are trained, as torch calls it; a GPU if torch has one, else the CPU.
    """

    iterations: int = 250
    batch_size: int = 32
    code_rate: float = 1e-2
    other_rate: float = 3e-3
    suffix: float = 0.0
    choices: SearchChoices = WITH_CODEBOOKS
    device: str | None = None


def train(run: Run, training: Training) -> QuantizedGraph:
    """Return the quantized graph, trained part by part."""
    kept = None
    if run.checkpoint is not None:
        kept = TrainingCheckpoint(folder=run.checkpoint, digest=fingerprint(run, repr(training)))
        kept.prepare()
    fast = replace(run, images=run.images[:FAST_IMAGES])
    plan = plan_calibration(fast, training.choices)
    quantized, few = plan.quantized, len(fast.images_at_once)
    parts = parts_of(run.graph)
    device = default_device() if training.device is None else torch.device(training.device)
    bench = Workbench(quantized=quantized, device=device)
    graph, start = bench.graph, graph_start(run.graph)
    importance = importance_of_parts(graph, run, parts)
    outputs = _run_all(graph, start, None, run.images, run.batch_size, None)
    behind = features_of(graph) if training.suffix else None
    features = None
    if behind is not None:
        features = _run_all(graph, start, behind, run.images, run.batch_size, None)
    fp32 = simulated = run.images
    for done, part in enumerate(parts, 1):
        wanted = _run_all(graph, part.start, part.stop, fp32, run.batch_size, None)
        streams = (fp32[:few], simulated[:few])  # decided for what the trained parts before give
        walk_part(fast, quantized, plan.decide, (part.start, part.stop), streams)
        lesson = PartTrainingData(
            part=part,
            inputs=simulated,
            wanted=wanted,
            importance=importance.get(part.stop or "", torch.ones(())),
            outputs=outputs if len(graph.outputs) == 1 else _behind(graph, part, wanted, run),
            behind=behind,
            features=features,
        )
        feeds = _feeds(quantized, part)
        affines = tuple(name for feed in feeds for name in (feed.weight, feed.bias))
        if kept is None or not kept.load(part.name, quantized, part.gemms, affines):
            there = bench.taken(part, feeds)
            gemms = [graph.gemm(name) for name in part.gemms]
            learner = trainable_part(there, gemms, plan.targets, feeds)
            if learner.layers:
                train_part(graph, learner, lesson, training, run.seed)
            bench.put_back(there, tuple(learner.constants()))
            if kept is not None:
                kept.save(part.name, quantized, part.gemms, tuple(learner.constants()))
        fp32 = wanted
        compute = bench.taken(part, feeds).compute
        simulated = _run_all(graph, part.start, part.stop, simulated, run.batch_size, compute)
        run.progress("training", done, len(parts))
    return quantized


def _behind(graph: Graph, part: Part, wanted: Tensor, run: Run) -> Tensor:
    """Return the float32 outputs that come behind a part, [N, elements]; `wanted` is its own."""
    if part.stop is None:
        return wanted
    return _run_all(graph, part.stop, None, wanted, run.batch_size, None)


def _feeds(quantized: QuantizedGraph, part: Part) -> tuple[LayerNormFeed, ...]:
    """Return the LayerNorms of a part whose readers are all quantized."""
    feeds = feeds_in(quantized.graph, part)
    return tuple(feed for feed in feeds if set(feed.linears) <= set(quantized.layers))


def features_of(graph: Graph) -> str | None:
    """Return the fx name of what the head reads, None without a single head."""
    heads = [gemm for gemm in graph.gemms if gemm.left.role is Role.HEAD_IN]
    return heads[0].left.producer if len(heads) == 1 else None


def graph_start(graph: Graph) -> str:
    """Return the fx name of the image."""
    name: str = next(n.name for n in graph.module.graph.nodes if n.op == "placeholder")
    return name


@dataclass(frozen=True, kw_only=True)
class PartTrainingData:
    """The inputs and the goal that one part is trained on.

    Args:
        part: The part.
        inputs: Output of the quantized parts before it, float32 [N, ...].
        wanted: Its float32 output, [N, ...].
        importance: Fisher weight of each element of the output, mean 1, without the first axis.
        outputs: The float32 network's outputs behind the part, [N, ...] as `run_part` gives them,
            of classifiers the logits; they judge the part.
        behind: fx name of the features that the head reads, None to leave them out.
        features: The float32 network's features, [N, ...].
    """

    part: Part
    inputs: Tensor
    wanted: Tensor
    importance: Tensor
    outputs: Tensor
    behind: str | None
    features: Tensor | None


def train_part(
    graph: Graph,
    learner: TrainablePart,
    lesson: PartTrainingData,
    training: Training,
    seed: int,
) -> None:
    """Train one part; put it into the quantized graph if held-out images find it better.

    They judge it by the outputs that the float32 rest of the network makes of its output.
    """
    count = len(lesson.inputs)
    held = torch.arange(0, count, HELD_OUT if count >= 2 * HELD_OUT else 1)
    seen = torch.tensor([i for i in range(count) if i % HELD_OUT or count < 2 * HELD_OUT])
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(
        [
            {"params": learner.codes(), "lr": training.code_rate},
            {"params": learner.others(), "lr": training.other_rate},
        ]
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, training.iterations)
    norms, before = _losses(graph, learner, lesson, held), _judge(graph, learner, lesson, held)
    for _ in range(training.iterations):
        chosen = seen[torch.randint(len(seen), (training.batch_size,), generator=generator)]
        with torch.enable_grad():
            losses = _losses(graph, learner, lesson, chosen)
            optimizer.zero_grad()
            _total(losses, norms, training).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        learner.forget()
    if _judge(graph, learner, lesson, held) < before:
        learner.bake()


@torch.no_grad()
def _judge(graph: Graph, learner: TrainablePart, lesson: PartTrainingData, chosen: Tensor) -> float:
    """Return the outputs' mean distance from float32, the rest of the network exact.

    Of logits it is the KL divergence, of other outputs the relative squared error.
    """
    total = 0.0
    for some in batches(chosen, HELD_OUT):
        output = _output(graph, learner, lesson, some)
        if lesson.part.stop is not None:
            output = run_part(graph, lesson.part.stop, output, None)
        distance = _divergence if graph.is_classifier else _relative_error
        total += distance(lesson.outputs[some].to(output.device), output)
    return total / len(chosen)


def _divergence(wanted: Tensor, found: Tensor) -> float:
    """Return the sum over images of the KL divergence of logits [B, classes]."""
    wanted, found = (class_scores_tensor(one).log_softmax(1) for one in (wanted, found))
    return float((wanted.exp() * (wanted - found)).sum())


def _relative_error(wanted: Tensor, found: Tensor) -> float:
    """Return the sum over images of |found - wanted|^2 / |wanted|^2, of outputs [B, ...]."""
    error, power = ((one.flatten(1) ** 2).sum(1) for one in (found - wanted, wanted))
    return float((error / power.clamp_min(1e-12)).sum())


def _losses(
    graph: Graph, learner: TrainablePart, lesson: PartTrainingData, chosen: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the local loss and the loss at the features (0 if not asked for)."""
    part, output = lesson.part, _output(graph, learner, lesson, chosen)
    wanted, importance = (x.to(output.device) for x in (lesson.wanted[chosen], lesson.importance))
    local = ((output - wanted).square() * importance).mean()
    if part.stop is None or lesson.behind is None or lesson.features is None:
        return local, torch.zeros(())
    features = run_part(graph, part.stop, output, lesson.behind)
    return local, (features - lesson.features[chosen].to(output.device)).square().mean()


def _output(
    graph: Graph, learner: TrainablePart, lesson: PartTrainingData, chosen: Tensor
) -> Tensor:
    """Return the part's output for some of the images, differentiably."""
    return run_part(
        graph,
        lesson.part.start,
        lesson.inputs[chosen].to(device_of(graph)),
        lesson.part.stop,
        gemm=learner.compute,
        constants=learner.constants(),
    )


def _total(
    losses: tuple[Tensor, Tensor], norms: tuple[Tensor, Tensor], training: Training
) -> Tensor:
    """Return the sum of both losses, each in units of what it was before training."""
    local = losses[0] / norms[0].detach().clamp_min(1e-12)
    behind = losses[1] / norms[1].detach().clamp_min(1e-12)
    return local + training.suffix * behind


@torch.no_grad()
def _run_all(
    graph: Graph,
    start: str,
    stop: str | None,
    values: Tensor,
    batch_size: int,
    compute: Product | None,
) -> Tensor:
    """Run one part over all images in batches, on the graph's device; all of it is on the CPU."""
    device = device_of(graph)
    found = [
        run_part(graph, start, some.to(device), stop, gemm=compute).cpu()
        for some in batches(values, batch_size)
    ]
    return torch.cat(found)


def importance_of_parts(graph: Graph, run: Run, parts: tuple[Part, ...]) -> dict[str, Tensor]:
    """Return part output -> squared loss gradient of each of its elements, of mean 1."""
    wanted = {part.stop for part in parts if part.stop is not None}
    generator = torch.Generator().manual_seed(run.seed)
    sums: dict[str, Tensor] = {}
    for batch in batches(run.images[:FAST_IMAGES], run.batch_size):
        for name, squares in _squared_gradients(graph, batch, wanted, generator):
            sums[name] = sums[name] + squares if name in sums else squares
    return {name: value / value.mean().clamp_min(1e-30) for name, value in sums.items()}


def _squared_gradients(
    graph: Graph, images: Tensor, wanted: set[str], generator: torch.Generator
) -> Iterator[tuple[str, Tensor]]:
    kept: dict[str, Tensor] = {}

    def keep(name: str, value: Tensor) -> None:
        if name in wanted:
            value.retain_grad()
            kept[name] = value

    with torch.enable_grad():
        outputs = run_outputs(
            graph, images.to(device_of(graph), copy=True).requires_grad_(), observe=keep
        )
        output_loss(outputs, generator).backward()  # type: ignore[no-untyped-call]
    for name, value in kept.items():
        if value.grad is not None:
            yield name, value.grad.square().sum(0).cpu()


def calibrate(run: Run) -> QuantizedGraph:
    """Return the quantized graph."""
    return train(run, Training())


EDGEVIT_TRAIN = Method(
    name="edgevit-train",
    summary="edgevit-codebook, then every block trained on unlabelled images",
    source="this project: arXiv 2102.05426, 2311.10126 and 1902.08153 together",
    calibrate=calibrate,
    num_images=1024,
    needs="codebook grids where offered, else those of edgevit",
    cost="minutes to hours: some hundred training steps per block",
    takes_long=True,
    order=0,
)
