"""Training on another device: what is moved, and that nothing is left behind.

There is no GPU where these tests run. Copies on the CPU show that taking and putting back lose
nothing; torch's `meta` device and its fake CUDA tensors refuse operators that mix devices.
"""

from contextlib import nullcontext

import pytest
import torch
from short_training import SHORT, new_run
from torch._subclasses.fake_tensor import FakeTensorMode

from edgevit.calibration.methods.edgevit import WITH_CODEBOOKS, plan_calibration
from edgevit.calibration.methods.edgevit_train import train
from edgevit.calibration.search.sequential import walk
from edgevit.calibration.training import devices
from edgevit.calibration.training.devices import Workbench, move_to_device
from edgevit.calibration.training.trainable import trainable_part
from edgevit.graph.interpret import run_part
from edgevit.graph.parts import feeds_in, parts_of


def copied(graph, device):
    """Stands for another device: a copy of every constant, still on the CPU."""
    copy = graph.clone()
    for name, buffer in list(copy.module.named_buffers()):
        setattr(copy.module, name, buffer.clone())
    return copy


def test_parts_trained_on_a_copy_are_the_same(graph, images, tmp_path, monkeypatch, trained):
    here, _ = trained(graph)
    monkeypatch.setattr(devices, "graph_on", copied)
    there = train(new_run(graph, images, checkpoint=tmp_path), SHORT)
    assert torch.equal(here.forward(images), there.forward(images))
    first = sorted(tmp_path.glob("*.safetensors"))[0]
    first.unlink()
    again = train(new_run(graph, images, checkpoint=tmp_path), SHORT)
    assert torch.equal(here.forward(images), again.forward(images))


def learners(graph, images, device, within=nullcontext):
    """Yield graph, part, input and trainable layers of every part, made on the device."""
    run = new_run(graph, images)
    plan = plan_calibration(run, WITH_CODEBOOKS)
    walk(run, plan.quantized, plan.decide, "layers")
    parts = parts_of(run.graph)
    with torch.no_grad():
        inputs = [run_part(run.graph, parts[0].start, images, part.start) for part in parts]
    feeds = [feeds_in(run.graph, part) for part in parts]
    with within():
        bench = Workbench(plan.quantized, torch.device(device))
        for part, value, fed in zip(parts, inputs, feeds, strict=True):
            gemms = [run.graph.gemm(name) for name in part.gemms]
            learner = trainable_part(bench.taken(part, fed), gemms, plan.targets, fed)
            yield bench, part, value.to(device), learner


def output(bench, part, value, learner):
    constants = learner.constants()
    return run_part(
        bench.graph, part.start, value, part.stop, gemm=learner.compute, constants=constants
    )


def test_a_training_step_stays_on_its_device(graph, images):
    for bench, part, value, learner in learners(graph, images, "meta"):
        parameters = [*learner.codes(), *learner.others()]
        with torch.enable_grad():
            output(bench, part, value, learner).square().mean().backward()
        assert {p.grad.device.type for p in parameters if p.grad is not None} == {"meta"}
        torch.optim.Adam(parameters).step()


def test_no_operator_of_a_part_mixes_devices(graph, images):
    """Fake CUDA tensors are stricter than meta ones, but have no backward pass without a driver."""

    def fake_cuda():
        return FakeTensorMode(allow_non_fake_inputs=True)

    with fake_cuda(), pytest.raises(RuntimeError, match="device"):
        torch.nn.functional.linear(torch.zeros(2, 2).to("cuda"), torch.zeros(2, 2))
    found = []
    for bench, part, value, learner in learners(graph, images, "cuda", fake_cuda):
        with torch.no_grad():
            found.append(output(bench, part, value, learner).device.type)
    assert found == ["cuda"] * len(parts_of(graph))


def test_moving_keeps_what_is_shared_and_what_is_there():
    from edgevit.quantizers.quantized_graph import IntegerMatmul
    from edgevit.quantizers.spec import GridSpec
    from edgevit.quantizers.uniform import UniformGrid

    grid = UniformGrid.from_range(GridSpec(bits=4), -1.0, 1.0)
    layer = IntegerMatmul(left=grid, right=grid)
    assert move_to_device(layer, torch.device("cpu")) is layer
    there = move_to_device(layer, torch.device("meta"))
    assert there.left is there.right
    assert there.left.scale.device.type == "meta"
    assert there.left.spec is grid.spec
