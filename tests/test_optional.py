"""Upstreams that are there only where their key is."""

import pytest

from gwcore.optional import without_absent

UP = {"a": {"optional": True, "api_key": ""}, "b": {"optional": True, "api_key": "k"}, "c": {"optional": True}, "d": {}}


def test_absent_upstreams_take_their_models_along():
    models = {"x": "a/m", "y": ["a/m", "b/m"], "z": ["a/m"], "*": "pass", "w": "b/m"}
    kept = without_absent({"upstreams": UP, "models": models})
    assert set(kept["upstreams"]) == {"b", "d"}
    assert kept["models"] == {"y": ["b/m"], "*": "pass", "w": "b/m"}


@pytest.mark.parametrize(
    "data", [None, [], {}, {"upstreams": None}, {"upstreams": {"a": 1}}, {"upstreams": UP, "models": 7}]
)
def test_wrong_shapes_are_left_for_the_reader(data):
    assert without_absent(data) is data or isinstance(data, dict)
