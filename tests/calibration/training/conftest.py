"""Graphs trained for a short time, each of them once: several tests compare with the same."""

import pytest
from short_training import SHORT, new_run

from edgevit.calibration.methods.edgevit_train import train


@pytest.fixture(scope="session")
def trained(images, tmp_path_factory):
    """Return a function GRAPH -> (it trained, the folder with its parts)."""
    kept = {}

    def once(graph):
        if id(graph) not in kept:
            folder = tmp_path_factory.mktemp("parts")
            kept[id(graph)] = train(new_run(graph, images, checkpoint=folder), SHORT), folder
        return kept[id(graph)]

    return once
