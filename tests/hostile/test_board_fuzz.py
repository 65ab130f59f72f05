"""Measurements and facts of a board with values exchanged at random: an error of ours, or a report.

What passes the checks goes all the way: report, tables, the doctor's list.
"""

from __future__ import annotations

import copy
import json
import os
import random

import numpy as np
import pytest
from board_replies import ESC
from recorded_trees import ORIN_NANO, write_tree
from rich.console import Console, Group

from edgevit.bundle import open_bundle
from edgevit.deploy.facts import facts_from_output
from edgevit.deploy.measured import content_of, measured_from_json
from edgevit.deploy.verifying import Sent, check_measured
from edgevit.doctor.board import board_findings
from edgevit.doctor.finding import report
from edgevit.errors import EdgeViTError
from edgevit.report.doctor import doctor_list
from edgevit.report.table import device_lines, validation_table
from edgevit.runner.board.exchange import measurements_from_dict
from edgevit.runner.board.facts import board_facts
from edgevit.runner.board.shipment import Shipment, files_digest
from edgevit.runner.engines import all_engines
from edgevit.runner.engines.tensorrt.compared_kernels import with_compared_kernels
from edgevit.runner.measure.conditions import Conditions
from edgevit.runner.measure.validation import validation_report

ROUNDS = int(os.environ.get("EDGEVIT_FUZZ", "400"))
ODD = (
    None, True, False, 0, 1, -1, 2, 5, 10**6, 2**63, 10**400, 0.5, -0.0, 1e300, float("nan"),
    float("inf"), "", "x", "1.2", "²", ESC, "x" * 600, "../../x", [], {}, [1], [[]], {"x": 1},
    {"before": 1, "highest": 2, "lowest": 1, "after": None},
)  # fmt: skip


def places(content, at=()):
    """Yield the path of everything in a tree."""
    steps = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in steps:
        yield (*at, key)
        if isinstance(value, dict | list):
            yield from places(value, (*at, key))


def mutated(content, draw):
    """Return a copy with one to three values removed, exchanged or put twice."""
    content = copy.deepcopy(content)
    for _ in range(draw.choice((1, 1, 2, 3))):
        *above, last = draw.choice(list(places(content)))
        parent = content
        for key in above:
            parent = parent[key]
        if draw.random() < 0.15:
            del parent[last]
        elif isinstance(parent, list) and draw.random() < 0.3:
            parent.append(copy.deepcopy(parent[last]))
        else:
            parent[last] = copy.deepcopy(draw.choice(ODD))
    return content


def telemetry():
    clock = {"before": 900.0, "lowest": 880.0, "highest": 1020.0, "after": None}
    energy = {"energy_mj": 5.0, "load_mw": 7000.0, "idle_mw": 5000.0, "rails": ["VDD_IN"]}
    energy.update(seconds=5.0, images=100, readings=50, reason="")
    return {
        "source": "sysfs", "interval_ms": 100, "num_readings": 20, "valid": None,
        "reasons": ["Timing was short."], "watched_clock": "gpu", "clock_drop_percent": 1.0,
        "clocks_mhz": {"gpu": clock, "cpu.policy0": dict(clock)},
        "temperatures_c": {"gpu": {"before": 40.0, "highest": 50.5, "after": 45}},
        "power_mw": {"rails": ["VDD_IN"], "before": 5000.0, "during": None},
        "power_mode": {"id": "2", "name": "MAXN", "modes": {"2": "MAXN"}},
        "energy": {"engine": dict(energy), "fp32": dict(energy)},
        "retimed_because": ["The gpu clock went down."],
    }  # fmt: skip


def build():
    drop = {"value": 0.5, "low": -0.5, "high": 1.5}
    gate = {"verdict": "PASS", "top1_percent": 70.0, "reason": "Small.", "drop_points": drop}
    gate.update(num_images=7, images_needed=0)
    engine = dict.fromkeys(("moves_ms", "attention_ms", "missed_ms", "products_ms", "total_ms"))
    engine.update(kernels=5, moves=1, attention=0, asked_low=1, got_low=1)
    row = {
        "variant": "int8", "failure": "", "gate": gate, "energy_mj": 5.0, "kernel_ms": 1.0,
        "parity": {"num_images": 5, "agreement_percent": 100.0, "cosine": 1.0, "max_error": 0.1},
        "engine": engine, "build_seconds": 60.0, "usable": True, "why_not": "", "p50_ms": 1.0,
        "p99_ms": 2.0, "latency_valid": True, "rounds": 5,
        "speedup_over_fp16": {"value": 1.5, "low": 1.4, "high": None},
    }  # fmt: skip
    names = ("name", "module", "asked_bits", "carrier", "asked", "chosen", "kernel")
    product = {**dict.fromkeys(names, "x"), "engine_layer": "y", "reason": "", "time_ms": 0.5}
    return {
        "kept": "int8", "reason": "It is fastest.", "fp16_reasons": [], "rows": [row],
        "telemetry": telemetry(), "layers": [product], "kernels": kernels(),
    }  # fmt: skip


def kernels():
    half = {"name": "y", "precision": "fp16", "shape": [-1, 64]}
    layer = {"name": "y", "kind": "gemm", "inputs": [half], "constants": [], "outputs": [half]}
    layer.update(tactic="sm80_gemm", onnx_nodes=["x"])
    table = {"variant": "int8", "engine": "tensorrt 10.3", "capabilities": ["SM87"]}
    return {**table, "max_batch": 16, "layers": [layer], "list_sha256": ""}


@pytest.fixture(scope="module")
def sent(make_parts, tmp_path_factory):
    parts = make_parts()
    product = {"name": "x", "module": "head", "carrier": "s8 x s8"}
    parts.manifest.update(target="jetson-orin-nano", layers=[product])
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    compiled = {
        **kernels(),
        "engine": "tensorrt_rtx 1.7",
        "capabilities": ["SM86"],
        "list_sha256": "0" * 64,
    }
    bundle = open_bundle(parts.write(folder, kernel_tables=[compiled]))
    labels = np.arange(7)
    shipment = Shipment(folder=bundle.path, shape=(8, 8, 3), counts=(7,), labels=labels)
    hashes = {"images.json": "0" * 64}
    conditions = Conditions(rounds=5)
    return Sent(bundle=bundle, shipment=shipment, images_sha256=hashes, conditions=conditions)


def task():
    error = {"num_images": 7, "sqnr_db": 30.0, "cosine": 0.999, "cosine_low": 0.998}
    error.update(cosine_high=1.0, least_cosine=0.99, max_error=0.5)
    outputs = {"logits": error}
    return {"name": "classify", "num_images": 7, "main": "", "metrics": [], "outputs": outputs}


@pytest.fixture(scope="module")
def honest(sent):
    answers = {"top5": [[label, *[(label + n) % 7 for n in (1, 2, 3, 4)]] for label in range(7)]}
    answers["labels"] = list(range(7))
    check = {"num_images": 5, "agreement_percent": 100.0, "identical_percent": 100.0}
    check.update(max_error=0.0, rms_error=0.0, quantization_rms=None)
    check.update(max_error_relative=None, rms_error_relative=None)
    variant = sent.bundle.variants[0]
    content = {
        "schema_version": 1, "engine": answers, "fp32": copy.deepcopy(answers),
        "self_check": check, "latency_ms": {"engine": [1.0] * 5, "fp32": [2.0] * 5},
        "latency_conditions": {"threads": None, "batch": 1, "rounds": 5, "warmup": 10},
        "peak_memory_bytes": {}, "skipped_images": [], "warnings": ["one"],
        "engine_used": {"name": "tensorrt 10.3", "provider": "TensorRT", "stands_in": False,
                        "variant": variant},
        "telemetry": telemetry(), "build": build(), "task": task(),
        "machine": {"machine": "aarch64", "python": "3.10.12", "numpy": "1.26"},
        "of": {"bundle_sha256": sent.bundle.manifest["manifest_sha256"],
               "images_sha256": files_digest(sent.images_sha256)},
    }  # fmt: skip
    content["build"]["kept"] = content["build"]["rows"][0]["variant"] = variant
    return content


def shown(content):
    console = Console(width=100)
    with console.capture() as capture:
        console.print(content)
    said = capture.get()
    assert "\x1b" not in said
    return said


def taken(content, sent):
    """Take measurements as `edgevit deploy` does; return what is shown, or the error's code."""
    try:
        measured = measured_from_json(json.dumps(content).encode())
        check_measured(measured, sent)
        plain = content_of(measured)
        made = validation_report(sent.bundle, measurements_from_dict(plain), max_drop_points=1.0)
        made["build"] = with_compared_kernels(made["build"], sent.bundle)
    except EdgeViTError as error:
        return error.code
    facts = {"model": None, "power_mode": None}
    device = {"address": "board", **plain["machine"], "facts": facts, "run_again": None}
    json.dumps(made, allow_nan=False)
    return shown(Group(validation_table(made), device_lines(device)))


def test_honest_measurements_are_taken(sent, honest):
    said = taken(honest, sent)
    assert "power mode MAXN" in said
    assert "Variants on this device" in said
    assert "head (x here, fp16 compiled)" in said
    other = copy.deepcopy(honest)
    other["build"]["kernels"]["variant"] = "fp16"
    assert taken(other, sent) == "EV836"
    other["build"]["kernels"]["layers"] *= 5000
    assert taken(other, sent) == "EV833"


def test_measurements_with_odd_values(sent, honest):
    draw, seen = random.Random(0), []
    for _ in range(ROUNDS):
        seen.append(taken(mutated(honest, draw), sent))
    codes = {said for said in seen if said.startswith("EV")}
    assert codes <= {"EV833", "EV836"}
    assert len(codes) == 2
    assert any(not said.startswith("EV") for said in seen)


def test_facts_with_odd_values(tmp_path):
    modules = [engine.module for engine in all_engines().values()]  # as a board is asked
    facts = board_facts(write_tree(tmp_path / "tree", ORIN_NANO), modules=modules)
    draw, codes = random.Random(0), set()
    for _ in range(ROUNDS):
        try:
            found = facts_from_output(json.dumps(mutated(facts, draw)), "board")
        except EdgeViTError as error:
            codes.add(error.code)
            continue
        for target in (None, "cpu", "jetson-orin-nano"):
            shown(doctor_list(report(board_findings(found, target), device="board")))
    assert codes == {"EV782"}
