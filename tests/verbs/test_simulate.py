"""The verb `simulate`: any method, no engine."""

import json
import math
import re
import shlex

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from edgevit.cli import main
from edgevit.data import open_images
from edgevit.errors import UnsupportedError, UsageError
from edgevit.report.simulation import Tally
from edgevit.runner.measure.statistics import drop_points
from edgevit.verbs.simulate import compare_methods, simulate
from edgevit.zoo import reference_images
from edgevit.zoo.embedded import embedded_config

IMAGES = reference_images("calibration")


def pixels(simulation, num=4):
    images = open_images(IMAGES).subset(num, 1)
    return np.concatenate([p for p, _, _ in images.batches(simulation.preprocessing, 4)])


def test_a_method_without_an_engine_can_be_simulated():
    made = simulate("vit_cifar10", IMAGES, bits=8, method="repq-vit", num_calib=8)
    shown = pixels(made)
    exact, found = made.logits_fp32(shown), made.logits(shown)
    assert found.shape == (4, 10)
    assert found.dtype == np.float32
    change = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    assert 0 < change < 0.1
    coarse = simulate("vit_cifar10", IMAGES, bits=3, method="repq-vit", num_calib=8)
    assert np.linalg.norm(coarse.logits(shown) - exact) > 2 * np.linalg.norm(found - exact)


def test_on_the_cpu_target_it_is_refused():
    with pytest.raises(UnsupportedError, match="EV306"):
        simulate("vit_cifar10", IMAGES, method="repq-vit", num_calib=2, target="cpu")


def test_on_the_cpu_target_it_is_what_quantize_simulates():
    import edgevit

    made = simulate("vit_cifar10", IMAGES, bits=4, method="minmax", num_calib=4, target="cpu")
    artefact = edgevit.quantize("vit_cifar10", IMAGES, bits=4, method="minmax", num_calib=4)
    assert np.array_equal(made.logits(pixels(made)), artefact.simulate(pixels(made)))


def test_what_can_not_be_simulated_is_refused_before_a_model_is_loaded():
    for wrong, code in (({"bits": 9}, "EV201"), ({"seed": -1}, "EV220")):
        with pytest.raises(UsageError, match=code) as caught:
            simulate("no_such_model", reference_images("calibration"), **wrong)
        assert caught.value.where.startswith("--")


def run(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def report_of(*words, tmp_path):
    path = tmp_path / "report.json"
    result = run("simulate", "--model", "vit_cifar10", *words, "--json", path)
    assert result.exit_code == 0, result.output
    return json.loads(path.read_text()), result.output


def flat_folder(folder, count=6):
    folder.mkdir()
    for at, pixels in enumerate(np.random.default_rng(0).integers(0, 255, (count, 40, 40, 3))):
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{at}.png")
    return folder


def by_hand(simulation, shown, labels):
    """Return (drop in percent, agreement, KL, SQNR), image by image."""
    exact, found = simulation.logits_fp32(shown), simulation.logits(shown)
    divergences = []
    for p, q in zip(exact.astype(float), found.astype(float), strict=True):
        p, q = np.exp(p) / np.exp(p).sum(), np.exp(q) / np.exp(q).sum()
        divergences.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    right, right_too = exact.argmax(1) == labels, found.argmax(1) == labels
    noise = ((found - exact).astype(float) ** 2).sum()
    return (
        drop_points(int((right & ~right_too).sum()), int((right_too & ~right).sum()), len(labels)),
        100 * np.mean(exact.argmax(1) == found.argmax(1)),
        np.mean(divergences),
        10 * math.log10((exact.astype(float) ** 2).sum() / noise),
    )


def test_the_report_is_what_the_logits_say_image_by_image():
    methods = ("fq-vit", "minmax")
    report = compare_methods("vit_cifar10", methods=methods, bits=4, num_calib=8, num=70, seed=3)
    assert [row["method"] for row in report["methods"]] == list(methods)
    test = open_images(reference_images("test")).subset(70, 3)
    for row in report["methods"]:
        made = simulate("vit_cifar10", bits=4, method=row["method"], num_calib=8, seed=3)
        batches = list(test.batches(made.preprocessing, 70))
        shown = np.concatenate([pixels for pixels, _, _ in batches])
        names = [item.folder for item in test.items]
        labels = np.array([embedded_config("vit_cifar10")["classes"].index(n) for n in names])
        drop, agreement, kl, sqnr = by_hand(made, shown, labels)
        assert row["drop_points"] == drop.to_dict()
        assert report["top1_fp32"]["value"] - row["top1"] == pytest.approx(drop.value)
        assert row["agreement"] == pytest.approx(agreement)
        assert row["kl"] == pytest.approx(kl, rel=1e-5)
        assert row["sqnr_db"] == pytest.approx(sqnr, rel=1e-5)
    assert report["flops"] == 58_002_176


def test_the_command_shows_several_methods_in_one_table(tmp_path):
    words = ("--method", "repq-vit", "--method", "minmax", "--bits", 3, "--num-calib", 8)
    report, shown = report_of(*words, "--num", 40, tmp_path=tmp_path)
    assert report["schema_version"] == 1
    assert (report["num_images"], report["target"]) == (40, "simulation")
    assert "W3A3  40 images, simulated" in shown
    for row in report["methods"]:
        assert re.search(rf"^{row['method']} .*{row['drop_points']['low']:.2f}", shown, re.M)
        assert f"{row['agreement']:.2f} %" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_images_without_labels_give_agreement_and_kl_alone(tmp_path):
    words = ("--method", "minmax", "--num-calib", 8, "--data", flat_folder(tmp_path / "flat"))
    report, shown = report_of(*words, tmp_path=tmp_path)
    [row] = report["methods"]
    assert (report["top1_fp32"], row["top1"], row["drop_points"]) == (None, None, None)
    assert row["agreement"] >= 50
    assert row["kl"] > 0
    assert "top-1" not in shown


def test_class_folders_of_another_task_are_only_folders_without_labels(tmp_path):
    flat_folder(tmp_path / "flat")
    (tmp_path / "other").mkdir()
    (tmp_path / "flat").rename(tmp_path / "other" / "violins")
    words = ("--method", "minmax", "--num-calib", 8, "--data", tmp_path / "other")
    refused = run("simulate", "--model", "vit_cifar10", *words)
    assert "EV105" in refused.output
    report, _ = report_of(*words, "--no-labels", tmp_path=tmp_path)
    assert (report["num_images"], report["top1_fp32"]) == (6, None)


def test_a_recipe_says_what_is_left_out(tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'model = "vit_cifar10"\nmethod = "minmax"\nweight_bits = 4\nact_bits = 8\n'
        'num_calib = 8\nfloat_layers = ["head"]\ntarget = "cpu"\n'
    )
    path = tmp_path / "report.json"
    result = run("simulate", "--recipe", recipe, "--num", 10, "--json", path)
    assert result.exit_code == 0, result.output
    report = json.loads(path.read_text())
    assert report["bits"] == {"weights": 4, "activations": 8}
    assert report["float_layers"] == ["head"]
    assert [row["method"] for row in report["methods"]] == ["minmax"]
    assert report["target"] == "simulation"


def test_without_images_to_compare_on_nothing_is_loaded():
    refused = run("simulate", "--model", "deit_t", "--no-pretrained", "--calib", IMAGES)
    assert refused.exit_code == 2
    assert "EV250" in refused.output
    assert "load model" not in refused.output


@pytest.mark.parametrize(
    "refused",
    [
        "quantize --model vit_cifar10 --method fq-vit --bits 4 -o {out}",
        "quantize --model vit_cifar10 --method repq-vit --float-layer head -o {out}",
        "quantize --model vit_cifar10 --method minmax --target simulation -o {out}",
    ],
)
def test_each_advice_to_simulate_is_a_command_that_works(refused, tmp_path):
    result = run(*shlex.split(refused.format(out=tmp_path / "out")))
    assert result.exit_code == 4
    said = " ".join(result.output.split())
    [advice] = re.findall(r"`edgevit (simulate [^`]*)`", said)
    done = run(*shlex.split(advice), "--num", 10, "--num-calib", 8)
    assert done.exit_code == 0, done.output
    for option in ("--method", "--bits", "--float-layer"):
        if option in refused:
            assert re.findall(rf"{option} \S+", refused) == re.findall(rf"{option} \S+", advice)


def test_what_sensitivity_advises_is_its_own_option(tmp_path):
    words = ("--model", "vit_cifar10", "--method", "fq-vit", "--num-calib", 4)
    output = ("-o", tmp_path / "out.csv")
    refused = run("sensitivity", *words, *output)
    assert refused.exit_code == 4
    assert "try: --target simulation" in refused.output
    assert run("sensitivity", *words, *output, "--target", "simulation").exit_code == 0


def test_identical_logits_have_no_noise_to_divide_by():
    tally = Tally()
    logits = np.float32([[1.0, 2.0, 0.0]])
    tally.add(logits, logits, np.array([1]))
    assert (tally.kl, tally.sqnr_db, tally.agreeing) == (0, None, 1)
