"""The accuracy gate on the board: a variant is refused only where the paired interval says so."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from edgevit.report.build import build_table
from edgevit.runner.engines.tensorrt.gate import gate_against, judged
from edgevit.runner.engines.tensorrt.parity import EngineParity
from edgevit.runner.engines.tensorrt.policy import Trial, decide_variant
from edgevit.runner.measure.accuracy import Predictions
from edgevit.runner.measure.statistics import drop_points

SAME = EngineParity(num_images=32, agreement_percent=100, cosine=0.9999, max_error=0.01)


def predictions(wrong, num_images, labels=None):
    """Of two classes; class 0 is right, `wrong` are the images that get class 1."""
    top = np.zeros((num_images, 2), np.int64)
    top[list(wrong), 0], top[:, 1] = 1, 1
    top[list(wrong), 1] = 0
    labels = np.zeros(num_images, np.int64) if labels is None else labels
    return Predictions(top5=top, labels=labels, logits=np.zeros((0, 2), np.float32))


@pytest.mark.parametrize(
    ("lost", "num_images", "verdict"),
    [
        (0, 1000, "PASS"),
        (4, 100, "UNDECIDED"),  # 4 points, yet 100 images can't tell that from 1
        (40, 1000, "FAIL"),  # the same 4 points
        (0, 32, "UNDECIDED"),  # no drop at all; too few images to rule one out
    ],
)
def test_the_interval_decides_and_not_the_estimate(lost, num_images, verdict):
    gate = judged(predictions([], num_images), predictions(range(lost), num_images), 1.0)
    assert gate.verdict == verdict
    assert gate.drop_points == drop_points(lost, 0, num_images)
    assert gate.num_images == num_images
    assert gate.top1_percent == pytest.approx(100 - 100 * lost / num_images)
    assert f"{gate.drop_points.low:.2f} and {gate.drop_points.high:.2f}" in gate.reason
    assert (gate.images_needed == 0) == (verdict != "UNDECIDED")
    if verdict == "UNDECIDED":
        assert f"about {gate.images_needed} more images would tell" in gate.reason
        total = num_images + gate.images_needed
        scale = total / num_images
        sure = drop_points(lost * scale, 0, total)
        assert sure.high <= 1 or sure.low > 1


def test_the_interval_is_that_of_pairs():
    """Engines that err on the same images are known far better than by two separate intervals."""
    same = judged(predictions(range(300), 1000), predictions(range(300), 1000), 1.0)
    other = judged(predictions(range(300), 1000), predictions(range(300, 600), 1000), 1.0)
    assert (same.verdict, other.verdict) == ("PASS", "UNDECIDED")


def test_without_labels_nothing_is_judged():
    labels = np.full(8, -1)
    gate = judged(predictions([], 8, labels), predictions([], 8, labels), 1.0)
    assert (gate.verdict, gate.drop_points) == ("", None)


def test_engines_are_compared_image_by_image(pixels_to_input, bundle_path):
    from edgevit.bundle import open_bundle
    from edgevit.runner.engines.onnxruntime.session import session_from_bundle

    bundle = open_bundle(bundle_path)
    fp32, engine = (session_from_bundle(bundle, kind, threads=1) for kind in ("fp32", "engine"))
    pixels = np.random.default_rng(0).integers(0, 256, (100, 8, 8, 3)).astype(np.uint8)
    labels = fp32.run(pixels_to_input(pixels)).argmax(1)
    halves = [(pixels[at : at + 50], labels[at : at + 50], None) for at in (0, 50)]
    judge = gate_against(fp32, 1.0, lambda: iter(halves), pixels_to_input)
    assert judge("fp16", fp32).drop_points.value == 0
    lost = int((engine.run(pixels_to_input(pixels)).argmax(1) != labels).sum())
    assert judge("int8", engine).drop_points == drop_points(lost, 0, 100)


def test_the_report_shows_drop_interval_images_and_each_reason_once():
    bad = judged(predictions([], 1000), predictions(range(40), 1000), 1.0)
    unsure = judged(predictions([], 1000), predictions(range(9), 1000), 1.0)
    trials = [
        Trial("fp16", parity=SAME, gate=unsure, samples_ms=(1.0,) * 9),
        Trial("int8", parity=SAME, gate=bad),
        Trial("int8_attention", parity=SAME, gate=bad),
        Trial("fp8", failure="no FP8 here"),
    ]
    content = json.loads(json.dumps(decide_variant(trials).to_dict(), allow_nan=False))
    screen = io.StringIO()
    Console(file=screen, width=80).print(build_table(content))
    text = screen.getvalue()
    fp16, int8 = (
        next(line for line in text.splitlines() if line[:4] == n) for n in ("fp16", "int8")
    )
    assert "0.90 [0.47, 1.70] 1000 UNDECIDED" in " ".join(fp16.split())
    assert "4.00 [2.95, 5.40] 1000 FAIL" in " ".join(int8.split())
    assert " ".join(text.split()).count(bad.reason) == 1
    assert "int8, int8_attention: not used, accuracy FAIL" in text
    assert "fp8: not used, failed: no FP8 here" in text
    assert "FP16 is the only one" in text
    assert max(map(len, text.splitlines())) <= 80
