"""Shipped images: what is written comes back, anything else is refused; so are full disks."""

import json

import numpy as np
import pytest

from edgevit.errors import DataError, EnvironmentError_
from edgevit.runner.board.__main__ import _write
from edgevit.runner.board.shipment import INDEX, Shipment, file_name, index_text, open_shipment


@pytest.fixture
def folder(tmp_path):
    pixels = np.arange(3 * 2 * 2 * 3, dtype=np.uint8)
    (tmp_path / file_name(0)).write_bytes(pixels[:24].tobytes())
    (tmp_path / file_name(1)).write_bytes(pixels[24:].tobytes())
    shipment = Shipment(
        folder=tmp_path, shape=(2, 2, 3), counts=(2, 1), labels=np.array([1, -1, 0]), skipped=("x",)
    )
    (tmp_path / INDEX).write_text(index_text(shipment))
    return tmp_path


def test_images_come_back_in_order(folder):
    shipment = open_shipment(folder)
    assert shipment.skipped == ("x",)
    batches = list(shipment.batches(2))
    assert [len(pixels) for pixels, _, _ in batches] == [2, 1]
    assert np.concatenate([pixels for pixels, _, _ in batches]).reshape(-1).tolist() == [*range(36)]
    assert np.concatenate([labels for _, labels, _ in batches]).tolist() == [1, -1, 0]


@pytest.mark.parametrize("data", [b"", bytes(11), bytes(13), bytes(24)])
def test_a_file_of_another_size_is_refused(folder, data):
    (folder / file_name(1)).write_bytes(data)
    with pytest.raises(DataError, match="EV110"):
        list(open_shipment(folder).batches(2))


@pytest.mark.parametrize("change", [{"counts": [2]}, {"shape": [2, 2]}, {"schema_version": 2}])
def test_an_index_that_does_not_fit_is_refused(folder, change):
    content = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps({**content, **change}))
    with pytest.raises(DataError, match="EV110"):
        open_shipment(folder)


def test_measurements_that_can_not_be_written_leave_nothing(tmp_path):
    (tmp_path / "out.json").mkdir()  # a folder is in the way
    with pytest.raises(EnvironmentError_, match="EV844"):
        _write(tmp_path / "out.json", "{}")
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
