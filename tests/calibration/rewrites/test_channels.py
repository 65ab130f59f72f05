"""Evening out channels inside heads is exact and does what it says."""

import torch

from edgevit.calibration.rewrites.channels import equalize_channels, output_tops
from edgevit.calibration.rewrites.heads import scale_rows
from edgevit.calibration.run import Run
from edgevit.graph.channels import head_channels
from edgevit.targets.cpu.target import CpuTarget


def new_run(graph, images, bits=4):
    placement = CpuTarget().place(graph, weight_bits=bits, act_bits=bits)
    return Run(graph=graph.clone(), placement=placement, images=images)


def logits(graph, images):
    with torch.no_grad():
        return graph.forward(images)


def test_channels_are_even_and_the_function_is_the_same(graph, images):
    run = new_run(graph, images)
    torch.manual_seed(0)
    for gemm in run.graph.gemms:  # make the channels of q wide and those of k narrow
        if gemm.kind == "qk":
            for site, sign in ((gemm.left, 1.0), (gemm.right, -1.0)):
                linear, rows = head_channels(run.graph, site)
                factor = torch.linspace(-2, 2, rows.numel()).mul(sign).exp().reshape(rows.shape)
                scale_rows(run.graph, linear, rows, factor)
    before = logits(run.graph, images)
    changed = equalize_channels(run)
    assert len(changed) == 3 * sum(gemm.kind == "qk" for gemm in graph.gemms)
    assert (logits(run.graph, images) - before).norm() < 1e-5 * before.norm()
    tops = output_tops(run)
    for gemm in run.graph.gemms:
        if gemm.kind == "qk":
            found = [head_channels(run.graph, site) for site in (gemm.left, gemm.right)]
            query, key = (tops[linear][rows] for linear, rows in found)
            assert torch.allclose(query, key, rtol=1e-3)


def test_tops_are_the_means_of_the_images_largest_outputs(vit, images):
    run = new_run(vit, images)
    found = output_tops(run)
    gemm = next(g for g in run.graph.gemms if g.module == "blocks.0.mlp.fc1")
    outputs = {}
    from edgevit.graph.interpret import run_graph

    with torch.no_grad():
        run_graph(run.graph, images, observe=lambda n, v: outputs.update({n: v}))
    each = outputs[gemm.name].reshape(len(images), -1, outputs[gemm.name].shape[-1])
    assert torch.allclose(found[gemm.name], each.abs().amax(1).mean(0), rtol=1e-4)
