"""The Arm benchmark's own path, with this machine's Python in the place of the emulated one."""

import sys
from argparse import Namespace

import aarch64
import numpy as np
import pytest

from edgevit import api
from edgevit.deploy.thin_runner import thin_runner_files
from edgevit.zoo import reference_images

OPTIONS = Namespace(model="vit_cifar10", bits=6, num_images=1)


@pytest.fixture(scope="module")
def artefact():
    return api.quantize(
        "vit_cifar10", reference_images("calibration"), bits=6, method="minmax", num_calib=4
    )


@pytest.fixture(scope="module")
def work(artefact, tmp_path_factory):
    """A folder as the benchmark prepares it: a bundle, and the rooms a board gets."""
    folder = tmp_path_factory.mktemp("board")
    aarch64.install_rooms(folder / "rooms")
    artefact.save(folder / "bundle")
    return folder


@pytest.fixture(scope="module")
def board(work):
    """This Python with nothing of EdgeViT on its path but those rooms."""
    return aarch64.board_with([sys.executable], {}, work / "rooms")


def test_a_board_with_those_rooms_reproduces_golden_logits_and_every_code(artefact, work, board):
    rooms = work / "rooms"
    sent = {path.relative_to(rooms).as_posix() for path in rooms.rglob("edgevit/**/*.py")}
    assert sent == set(thin_runner_files())
    row = aarch64.measure(OPTIONS, "none", board, work, artefact)
    assert row["golden_agreement"] == 100
    assert row["exact_layers"] == row["exact_up_to_fusing"] == row["layers"] == 50
    assert row["outputs_rounded_once"] == row["wrong_outputs"] == 0
    assert row["codes"] > 0
    assert row["codes_unlike_host_run"] == 0
    assert row["kernels"] == "MatMulIntegerToFloat"
    assert aarch64.is_good(row)


def test_another_code_on_the_board_is_found(artefact, work, board):
    """The engine's answer has one code changed: one layer counts it, and the row is not good."""
    engine = aarch64.engine_on(board, work)

    def wrong(model, wanted, images):
        values, kernels = engine(model, wanted, images)
        name = next(n for n in wanted if values[n].dtype == np.uint8)
        values[name] = values[name].copy()
        values[name].flat[0] ^= 1
        return values, kernels

    images = np.zeros((1, 3, 32, 32), np.float32)
    rows = aarch64.integer_layer_parity(
        artefact.quantized, images, layers_at_once=1000, engine=wrong
    )
    assert sum(row.wrong_codes for row in rows) == 1
    assert sum(row.is_exact_up_to_fusing for row in rows) == len(rows) - 1


@pytest.mark.parametrize("wrong", ["golden_agreement", "exact_up_to_fusing", "layers"])
def test_a_row_is_good_only_if_everything_agrees(wrong):
    row = {"golden_agreement": 100.0, "exact_up_to_fusing": 50, "layers": 50}
    assert aarch64.is_good(row)
    assert not aarch64.is_good({**row, wrong: 49})
    assert not aarch64.is_good({**row, "exact_up_to_fusing": 0, "layers": 0})


def test_a_damaged_bundle_is_refused_on_the_board(work, board, tmp_path, capfd):
    copy = tmp_path / "bundle"
    copy.mkdir()
    for path in (work / "bundle").iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    weights = bytearray((copy / "weights.bin").read_bytes())
    weights[100] ^= 1
    (copy / "weights.bin").write_bytes(bytes(weights))
    with pytest.raises(SystemExit, match="status 1"):
        board("golden", copy)
    assert "EV405" in capfd.readouterr().err
