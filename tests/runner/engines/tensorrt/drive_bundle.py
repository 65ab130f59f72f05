"""Opens a bundle's variants, twice, and lets the policy choose; prints what happened as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from edgevit.bundle import open_bundle
from edgevit.runner.engines import choice
from edgevit.runner.engines.tensorrt import ENGINE
from edgevit.runner.engines.tensorrt.building import BuildSettings
from edgevit.runner.engines.tensorrt.choosing import choose_variant, engine_tables
from edgevit.runner.engines.tensorrt.opening import EngineOptions, build_engine, engine_for
from edgevit.runner.engines.tensorrt.trial_plan import TrialPlan


def normalize(pixels):
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W]."""
    scaled = pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def main():
    bundle, cache = open_bundle(sys.argv[1]), Path(sys.argv[2])
    options = EngineOptions(settings=BuildSettings(max_batch=4), cache_folder=cache)
    first = build_engine(bundle, options=options)
    second = build_engine(bundle, options=options)
    (plan,) = cache.glob("*.plan")
    plan.write_bytes(plan.read_bytes() + b"!")  # damaged: its hash does not fit
    third = build_engine(bundle, options=options)
    golden = bundle.golden()
    image = normalize(golden["images"][:2])
    session = engine_for(bundle, options=options)
    engine_for(bundle, "fp32", options=options)  # another engine: float32, without TF32
    plans = sorted(path.read_bytes().decode() for path in cache.glob("*.plan"))
    rows, table = engine_tables(bundle, third, image, max_batch=4)
    plan = TrialPlan(golden=golden, normalize=normalize, rounds=5, warmup=1)
    decision, trials = choose_variant(bundle, plan, options=options)
    chosen = choice.choose_engine({"target": "jetson-orin-nano"}, "auto")
    built = [first, second, third]
    print(
        json.dumps(
            {
                "available": ENGINE.available() is None,
                "from_cache": [engine.build_seconds is None for engine in built],
                "where": first.where.to_dict(),
                "same": [bool((e.session.run(image) == session.run(image)).all()) for e in built],
                "files": sorted(path.suffix for path in cache.iterdir()),
                "plans": plans,
                "validate": [chosen.name, chosen.stands_in],
                "rows": [row.to_dict() for row in rows],
                "kernels": table.to_dict(),
                "decision": decision.to_dict(),
                "rounds": [len(trial.samples_ms) for trial in trials],
            }
        )
    )


if __name__ == "__main__":
    main()
