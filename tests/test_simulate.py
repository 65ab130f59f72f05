"""The verb `simulate`: any method, no engine."""

import numpy as np
import pytest

from edgevit.data import open_images
from edgevit.errors import UnsupportedError, UsageError
from edgevit.simulate import simulate
from edgevit.zoo import reference_images

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
