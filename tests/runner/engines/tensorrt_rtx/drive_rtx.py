"""Opens a bundle with TensorRT for RTX in every way there is; prints what happened as JSON."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgevit.bundle import open_bundle
from edgevit.errors import EdgeViTError
from edgevit.runner.engines.tensorrt.building import BuildSettings
from edgevit.runner.engines.tensorrt.caching import EngineCache
from edgevit.runner.engines.tensorrt.cuda import open_device
from edgevit.runner.engines.tensorrt.library import BundledEngine
from edgevit.runner.engines.tensorrt.opening import EngineOptions, build_engine
from edgevit.runner.engines.tensorrt.session import TensorRTSession
from edgevit.runner.engines.tensorrt_rtx import ENGINE
from edgevit.runner.engines.tensorrt_rtx.library import RTX
from edgevit.runner.measure.conditions import Conditions

PLAN = b"PLAN -1 1 4 3 8 8 7"


def normalize(pixels):
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W]."""
    scaled = pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def options(folder, **changed):
    return EngineOptions(
        settings=BuildSettings(max_batch=4), cache_folder=folder, library=RTX, **changed
    )


def refused(action):
    """Code, reason and remedy of the EdgeViTError that an action must raise."""
    try:
        action()
    except EdgeViTError as error:
        return [error.code, error.why, error.try_next]
    raise AssertionError("nothing was refused")


@contextmanager
def environment(**names):
    os.environ.update(names)
    yield
    for name in names:
        del os.environ[name]


def kept(bundle, image, folder):
    """What the first, a second and later sessions find in the cache."""
    given, found = options(folder), []
    for batches in ((1, 2, 1), (2,), (1,), (1,)):
        built = build_engine(bundle, options=given)
        for batch in batches:
            built.session.run(np.repeat(image, batch, axis=0))
        (kernels,) = folder.glob("kernels-*.cache")
        text = kernels.read_bytes()[32:].decode()
        found.append([built.build_seconds is None, list(built.notes), text])
        if len(found) == 2:
            kernels.write_bytes(kernels.read_bytes() + b"!")  # damaged
        if len(found) == 3:
            foreign = b"KERNELS OF ANOTHER DRIVER"  # whole, and refused by the library
            kernels.write_bytes(hashlib.sha256(foreign).digest() + foreign)
    return found


def from_bundle(bundle, folder):
    """Whether an engine that a bundle holds is run, and what is noted."""

    def opened(name, data=PLAN, version="", sms=("SM86", "SM89"), batch=16, **changed):
        own = RTX.load().__version__
        engine = BundledEngine(
            version=version or own, capabilities=sms, max_batch=batch, read=lambda: data
        )
        library = replace(RTX, bundled=lambda *_: engine)
        given = replace(options(folder / name, **changed), library=library)
        if name == "own":
            EngineCache(folder / name).remember_compiled(hashlib.sha256(data).hexdigest())
        built = build_engine(bundle, options=given)
        return [built.build_seconds is None, list(built.notes)]

    return {
        "foreign": opened("foreign"),
        "trusted": opened("trusted", trust_code=True),
        "own": opened("own"),
        "card": opened("card", sms=("SM86", "SM120"), trust_code=True),
        "version": opened("version", version="1.2.0.54", trust_code=True),
        "small": opened("small", batch=2, trust_code=True),
        "damaged": opened("damaged", data=b"no engine", trust_code=True),
    }


def diagnoses():
    """What each of the library's diagnoses becomes."""
    known = RTX.load().EngineInvalidityDiagnostics
    found = {}
    for name in known.__members__:
        with environment(STUB_DIAGNOSIS=str(int(getattr(known, name)))):
            found[name] = refused(lambda: TensorRTSession(PLAN, library=RTX))
    return found


def machines(bundle, folder):
    """What is said of machines that can't run it."""
    found = {}
    for name, value in (
        ("STUB_NO_GPU", "1"),
        ("STUB_DRIVER", "12040"),
        ("STUB_DRIVER", "0"),
        ("STUB_CAPABILITY", "90"),
        ("STUB_NO_MEMORY", "1"),
    ):
        before = dict(os.environ)
        os.environ[name] = value
        found[f"{name} {value}"] = refused(lambda: build_engine(bundle, options=options(folder)))
        os.environ.update(before)
        if name not in before:
            del os.environ[name]
    return found


def validated(bundle):
    """What `edgevit validate` opens, and what it reports of it."""
    golden = bundle.golden()
    labelled = golden["images"], np.zeros(len(golden["images"]), np.int64), [""] * 99
    opened = ENGINE.open(
        bundle,
        Conditions(rounds=5),
        lambda: [labelled],
        normalize,
        lambda *_: None,
        stands_in=False,
    )
    session = opened.sessions["engine"]
    return {
        "engine": session.engine,
        "provider": session.provider,
        "variant": opened.variant,
        "kept": opened.build["kept"],
        "layers": opened.build["layers"],
        "warnings": list(opened.warnings),
    }


def main():
    bundle, folder = open_bundle(sys.argv[1]), Path(sys.argv[2])
    image = normalize(bundle.golden()["images"][:1])
    device = open_device().facts()
    print(
        json.dumps(
            {
                "device": device.compute_capability,
                "kept": kept(bundle, image, folder / "kept"),
                "bundled": from_bundle(bundle, folder),
                "diagnoses": diagnoses(),
                "machines": machines(bundle, folder / "machines"),
                "validated": validated(bundle),
            }
        )
    )


if __name__ == "__main__":
    main()
