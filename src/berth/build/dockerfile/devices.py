"""`RUN --device=[name=]NAME[,required]`, as in Dockerfile 1.14-labs. Pure."""

from berth.build.dockerfile.flags import BOOLEANS, UnknownWord
from berth.build.dockerfile.instructions import Device
from berth.build.dockerfile.mounts import FALSE, TRUE, fields
from berth.build.dockerfile.splitting import SplitError

_KEYS = ("name", "required")


def parse(text: str) -> Device:
    """SplitError for what is wrong. A name may have = in it: `vendor.example/class=one`."""
    name, required = "", False
    for field in fields(text, "devices"):
        key, equals, value = field.partition("=")
        if key.lower() == "required":
            if equals and value not in TRUE + FALSE:
                raise UnknownWord(f"invalid value for required: {value}", value, BOOLEANS)
            required = not equals or value in TRUE
        elif key.lower() == "name" and equals:
            if name:
                raise SplitError(f"device name already set to {name}", field)
            name = value
        elif not name:
            name = field
        elif equals:
            raise UnknownWord(f"unexpected key '{key}' in '{field}'", key, _KEYS)
        else:
            raise SplitError(f"invalid field '{field}' must be a key=value pair", field)
    if not name:
        raise SplitError("a device without a name", text or "--device")
    return Device(name, required)
