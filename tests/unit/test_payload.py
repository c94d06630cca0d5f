"""Types of a create request: every field wrong in turn is a bad request that names it."""

import pytest

from berth.engine import payload
from berth.errors import InvalidParameter

FIELDS = [(where, kind, name) for where, table in (("config", payload._CONFIG), ("host", payload._HOST))
          for kind, names in table.items() for name in names.split()]  # fmt: skip
WRONG = [{"a": [1]}, [[1]], 1.5, "a\0b"]
GOOD = {
    payload._TEXT: "x", payload._NUMBER: 7, payload._FLAG: True, payload._TEXTS: ["x"], payload._MAP: {"k": "v"},
    payload._OBJECTS: [{}],
}  # fmt: skip


@pytest.mark.parametrize(("where", "kind", "name"), FIELDS)
def test_a_field_of_the_wrong_type_is_named(where, kind, name):
    for value in WRONG:
        bodies = {"config": {}, "host": {}}
        bodies[where][name] = value
        with pytest.raises(InvalidParameter, match=name):
            payload.check(bodies["config"], bodies["host"])
    for value in (None, GOOD[kind]):
        bodies = {"config": {}, "host": {}}
        bodies[where][name] = value
        payload.check(bodies["config"], bodies["host"])


@pytest.mark.parametrize(
    ("host", "path"),
    [
        ({"Memory": True}, "HostConfig.Memory"), ({"Memory": 1 << 63}, "HostConfig.Memory"),
        ({"Mounts": [{"Source": 3}]}, r"HostConfig.Mounts\[0\].Source"),
        ({"Mounts": [{}, {"BindOptions": []}]}, r"HostConfig.Mounts\[1\].BindOptions"),
        ({"Ulimits": [{"Name": "nofile", "Soft": "1"}]}, r"HostConfig.Ulimits\[0\].Soft"),
        ({"ConsoleSize": [1]}, "HostConfig.ConsoleSize"), ({"LogConfig": "json-file"}, "HostConfig.LogConfig"),
        ({"BlkioDeviceReadBps": [{"Path": "/dev/null", "Rate": "fast"}]}, r"BlkioDeviceReadBps\[0\].Rate"),
    ],
)  # fmt: skip
def test_what_is_inside(host, path):
    with pytest.raises(InvalidParameter, match=path):
        payload.check({}, host)
