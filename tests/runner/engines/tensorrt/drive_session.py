"""Builds, runs, profiles and inspects through EdgeViT's session; prints what came out as JSON.

Runs in its own process, because which TensorRT is imported is decided by the environment.
"""

from __future__ import annotations

import ctypes
import json
import os
from functools import partial

import numpy as np

from edgevit.errors import DeviceError, EdgeViTError
from edgevit.runner.engines.tensorrt.bindings import MessageLog, load_tensorrt
from edgevit.runner.engines.tensorrt.building import BuildSettings, plan_from_onnx
from edgevit.runner.engines.tensorrt.cuda import open_device
from edgevit.runner.engines.tensorrt.inspecting import layers_from_inspector
from edgevit.runner.engines.tensorrt.session import TensorRTSession

DYNAMIC, FIXED = b"STUB -1 3 8 8 7", b"STUB 4 3 8 8 7"
SETTINGS = BuildSettings(min_batch=1, best_batch=2, max_batch=4)


def images(batch):
    """Images whose logits the stub's engine computes as (class + 1) * mean."""
    return np.random.default_rng(batch).normal(size=(batch, 3, 8, 8)).astype(np.float32)


def error_of(batch, session):
    """Largest difference from what the stub computes, in NumPy."""
    given = images(batch)
    expected = given.mean(axis=(1, 2, 3), dtype=np.float64)[:, None] * np.arange(1, 8)
    found = session.run(given)
    assert found.shape == (batch, 7)
    assert found.dtype == np.float32
    return float(np.abs(found - expected).max())


def refused(action):
    """Code and reason of the EdgeViTError that an action must raise."""
    try:
        action()
    except EdgeViTError as error:
        return [error.code, error.why]
    raise AssertionError("nothing was refused")


def launches():
    library = ctypes.CDLL(os.environ["EDGEVIT_CUDART"])
    return library.stub_graph_launches()


def built(trt):
    """What a build says and calls."""
    steps = []
    log = MessageLog()

    def progress(phase, done, total):
        steps.append([phase, done, total])
        return True

    plan = plan_from_onnx(trt, DYNAMIC, SETTINGS, log=log, progress=progress)
    again = plan_from_onnx(trt, DYNAMIC, SETTINGS, timing_cache=plan.timing_cache)
    foreign = MessageLog()
    plan_from_onnx(trt, DYNAMIC, SETTINGS, timing_cache=b"OTHER DEVICE", log=foreign)
    return {
        "plan": plan.data.decode(),
        "exact_plan": plan_from_onnx(
            trt, FIXED, BuildSettings(max_batch=4, tf32=False)
        ).data.decode(),
        "fixed_plan": plan_from_onnx(trt, FIXED, SETTINGS).data.decode(),
        "timings": [plan.timing_cache.decode(), again.timing_cache.decode()],
        "steps": steps,
        "warnings": list(plan.warnings),
        "foreign_timings": foreign.warnings,
        "unreadable": refused(lambda: plan_from_onnx(trt, b"not a graph", SETTINGS)),
        "too_big": refused(lambda: plan_from_onnx(trt, b"STUB -1 3 8 8 9999", SETTINGS)),
        "stopped": refused(
            lambda: plan_from_onnx(trt, DYNAMIC, SETTINGS, progress=lambda *_: False)
        ),
        "settings": refused(
            lambda: plan_from_onnx(trt, DYNAMIC, BuildSettings(min_batch=2, best_batch=1))
        ),
    }


class Short:
    """A device that has no more after so many allocations; counts what is not given back."""

    def __init__(self, device, after):
        self.device, self.after, self.held = device, after, 0

    def __getattr__(self, name):
        action = getattr(self.device, name)
        if name in {"allocate", "pinned", "stream"}:
            return lambda *arguments: self.taken(action, arguments)
        if name in {"release", "release_pinned", "release_stream"}:
            return lambda *arguments: self.returned(action, arguments)
        return action

    def taken(self, action, arguments):
        if self.held == self.after:
            raise DeviceError("EV758", "CUDA failed.", why="out of memory")
        self.held += 1
        return action(*arguments)

    def returned(self, action, arguments):
        self.held -= 1
        action(*arguments)


def out_of_memory(trt, device):
    """Error code and what is still held after each allocation that can fail."""
    found = []
    for after in range(5):
        short = Short(device, after)
        opened = partial(TensorRTSession, b"PLAN 4 4 4 3 8 8 7", trt=trt, device=short)
        code, _ = refused(opened)
        found.append([code, short.held])
    enough = Short(device, 5)
    with TensorRTSession(b"PLAN 4 4 4 3 8 8 7", trt=trt, device=enough):
        found.append(["held", enough.held])
    return [*found, ["closed", enough.held]]


def run(trt):
    """What a session computes, with and without graphs."""
    device = open_device()
    with TensorRTSession(b"PLAN -1 1 4 3 8 8 7", trt=trt, device=device) as session:
        before = launches()
        errors = [error_of(batch, session) for batch in (1, 1, 1, 1, 3, 1, 9, 2, 2, 2, 2)]
        used = launches() - before
        kernel = session.kernel_times_ms(images(2), 5)
        layers = session.layer_times_ms(images(2), 3)
        errors.append(error_of(2, session))  # the profiler is gone, the graph made anew
        inspected = layers_from_inspector(session.inspect())
        facts = {"provider": session.provider, "engine": session.engine, "threads": session.threads}
        wrong_shape = refused(lambda: session.run(np.zeros((1, 3, 9, 9), np.float32)))
        wrong_type = refused(lambda: session.run(np.zeros((1, 3, 8, 8), np.float64)))
        not_finite = refused(lambda: session.run(np.full((1, 3, 8, 8), np.inf, np.float32)))
    with TensorRTSession(b"PLAN 4 4 4 3 8 8 7", trt=trt, device=device) as fixed:
        padded = [error_of(batch, fixed) for batch in (1, 4, 6)]
    return {
        "errors": errors,
        "padded": padded,
        "graph_launches": used,
        "kernel_times": [len(kernel), bool((kernel >= 0).all())],
        "layers": layers,
        "inspected": [[layer.name, layer.precision, layer.onnx_nodes] for layer in inspected],
        "facts": facts,
        "adapter": device.adapter,
        "device": vars(device.facts()),
        "out_of_memory": out_of_memory(trt, device),
        "refused": [wrong_shape, wrong_type, not_finite],
        "foreign_plan": refused(lambda: TensorRTSession(b"PLAN?", trt=trt, device=device)),
    }


def main():
    trt = load_tensorrt()
    print(json.dumps({"version": trt.__version__, "built": built(trt), "run": run(trt)}))


if __name__ == "__main__":
    main()
