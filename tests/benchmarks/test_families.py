"""The list of the coverage run, and what becomes of a model that fails on its way."""

import timm
import transformers
from families import COLUMNS, STEPS, one_third
from family_list import family_models
from family_steps import Trial

from edgevit.errors import UnsupportedError

MODELS = family_models()


def test_the_list_is_as_long_as_it_has_to_be():
    families = {model.family for model in MODELS}
    mobile = {model.family for model in MODELS if model.is_mobile}
    assert len(MODELS) >= 150
    assert len(families) >= 119
    assert len(mobile) >= 17
    assert len({model.name for model in MODELS}) == len(MODELS)
    assert 3 * len(one_third(MODELS)) >= len(MODELS)


def test_every_model_is_one_of_its_library():
    for model in MODELS:
        if model.library == "timm":
            assert timm.is_model(model.name), model.name
        else:
            assert issubclass(getattr(transformers, model.name), transformers.PreTrainedModel)


class Failing(Trial):
    """A model that is captured and exported but does not run on the cpu."""

    def _captured(self):
        return {"input_size": "3x32x32"}

    def _on_cpu(self):
        raise UnsupportedError("EV312", "It can't be written.", where="blocks.0", why="So it is.")

    def _jetson(self):
        return {"jetson_errors": 0}

    def _sm89(self):
        raise RecursionError("too deep")


def test_a_step_that_fails_stops_those_that_need_it_and_no_others():
    row = list(Failing(model=MODELS[0], data=None, num_images=1).rows(STEPS))[-1]
    assert set(row) <= set(COLUMNS)
    assert [row[step] for step in STEPS] == ["yes", "EV312", "no", "yes", "RecursionError"]
    assert row["error"].startswith("on_cpu: EV312 It can't be written. blocks.0")
