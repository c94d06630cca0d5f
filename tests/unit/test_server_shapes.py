"""Types of request fields: as Go reads them, and every wrong one named with its value."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("httptools", reason="the HTTP parser of the engine")

from berth.api import shapes
from berth.errors import InvalidParameter


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"Hostname": 1}, "Hostname: 1 is not a string"), ({"Tty": "yes"}, "Tty: 'yes' is not true or false"), ({"Env": "A=1"}, "Env: 'A=1' is not a list"),
        ({"Env": ["A=1", None]}, "Env[1]: null is not a string"), ({"Labels": ["a"]}, "Labels: ['a'] is not an object"),
        ({"Labels": {"a": 1}}, "Labels.a: 1 is not a string"), ({"HostConfig": []}, "HostConfig: [] is not an object"),
        ({"HostConfig": {"Memory": 1.5}}, "HostConfig.Memory: 1.5 is not a whole number"),
        ({"HostConfig": {"Memory": True}}, "HostConfig.Memory: true is not a whole number"),
        ({"HostConfig": {"Ulimits": [{"Soft": "x"}]}}, "HostConfig.Ulimits[0].Soft: 'x' is not a whole number"),
        ({"hostconfig": {"memory": "1"}}, "HostConfig.Memory: '1' is not a whole number"),
        ({"HostConfig": {"PortBindings": {"80/tcp": {}}}}, "HostConfig.PortBindings.80/tcp: {} is not a list"),
    ],
)  # fmt: skip
def test_wrong_types(value: dict, said: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        shapes.shaped(value, shapes.CREATE)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({}, {}), ({"Image": None, "HostConfig": {"Memory": None}}, {"HostConfig": {}}), ({"image": "x"}, {"Image": "x"}),
        ({"Cmd": "ls -l", "Entrypoint": ["a"]}, {"Cmd": ["ls -l"], "Entrypoint": ["a"]}), ({"Unknown": [1]}, {"Unknown": [1]}),
        ({"ExposedPorts": {"80/tcp": {}}, "Labels": {"Env": "x"}}, {"ExposedPorts": {"80/tcp": {}}, "Labels": {"Env": "x"}}),
    ],
)  # fmt: skip
def test_as_go_reads_them(value: dict, expected: dict) -> None:
    assert shapes.shaped(value, shapes.CREATE) == expected


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=8,
)  # fmt: skip


def conforms(value: Any, shape: Any) -> bool:
    if shape is object:
        return True
    if shape == shapes.WORDS:
        shape = [str]
    if isinstance(shape, list):
        return isinstance(value, list) and all(conforms(item, shape[0]) for item in value)
    if isinstance(shape, dict):
        kinds = (lambda key: shape["*"]) if "*" in shape else (lambda key: shape.get(key, object))
        return isinstance(value, dict) and all(conforms(item, kinds(key)) for key, item in value.items())
    return type(value) is shape


@given(st.dictionaries(st.sampled_from([*shapes.CREATE, "HostConfig", "cmd"]), ANYTHING), st.dictionaries(st.sampled_from([*shapes.HOST]), ANYTHING))
def test_what_passes_has_the_shape(config: dict, host: dict) -> None:
    try:
        found = shapes.shaped({**config, "HostConfig": host}, shapes.CREATE)
    except InvalidParameter:
        return
    assert conforms(found, shapes.CREATE)
    json.dumps(found)
