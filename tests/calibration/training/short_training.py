"""A short training run of a small graph, the same wherever tests compare with one."""

from edgevit.calibration.methods.edgevit_train import Training
from edgevit.calibration.run import Run
from edgevit.targets.cpu.target import CpuTarget

SHORT = Training(iterations=25, batch_size=4)


def new_run(graph, images, bits=3, **changes):
    placement = CpuTarget().place(graph, weight_bits=bits, act_bits=bits)
    return Run(graph=graph.clone(), placement=placement, images=images, **changes)
