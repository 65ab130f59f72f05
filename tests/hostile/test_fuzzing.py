"""A slice of the fuzz target (benchmarks/hostile.py runs all of it): nothing does harm."""

import fuzzing
import pytest

SLICE = {"manifests": 300, "graphs": 200}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    return fuzzing.base_bundles(tmp_path_factory.mktemp("bases"))


@pytest.mark.parametrize("kind", fuzzing.KINDS)
def test_changed_bundles_do_no_harm(judge, bases, kind, tmp_path):
    tally = fuzzing.fuzz(kind, range(SLICE[kind]), bases, judge, tmp_path)
    assert not tally.examples, fuzzing.described(tally)
    assert tally.tried == SLICE[kind]
    assert sum(tally.refused.values()) + tally.opened == tally.tried
    # Changes reach the parsers, the lists and the inference, and some change nothing that counts.
    assert tally.opened > 0.02 * tally.tried
    assert len(tally.refused) >= 3, tally.refused


def test_a_change_is_the_same_in_every_run(bases, judge, tmp_path):
    two = [fuzzing.fuzz("graphs", range(8), bases, judge, tmp_path / name).refused for name in "ab"]
    assert two[0] == two[1]
