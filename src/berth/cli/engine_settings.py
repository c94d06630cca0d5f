"""What the flags of `berth engine` make together with daemon.json."""

import json
import os
from collections.abc import Callable
from typing import Any

from berth.cli.flags import Flag, Parsed
from berth.engine import config, config_other
from berth.engine.config_values import Mistake, boolean
from berth.engine.options import Options, from_settings
from berth.errors import InvalidParameter

# dockerd's flags that change nothing here or are refused: understood, for units that were written for it, and not advertised.
OTHER_FLAGS: tuple[Flag, ...] = tuple(
    (config.FLAG_NAMES.get(key, key), "", config_other.flag_kind(key), "", "") for key in config_other.CHECKS
)
_NO_SETTINGS = ("config-file", "ready-fd", "validate")
_PATHS = ("data-root", "exec-root", "pidfile", "init-path", "tlscacert", "tlscert", "tlskey", "seccomp-profile")
_KEYS = {flag: key for key, flag in config.FLAG_NAMES.items()}


def options_of(parsed: Parsed) -> tuple[Options, list[str]]:
    """Flags and configuration file together; and what the file says in vain."""
    flags = {name: value for name, value in parsed.values.items() if name not in _NO_SETTINGS}
    path = parsed.text("config-file", config.DEFAULT_PATH)
    settings = config.read(path, must_exist=parsed.given("config-file"), flags=_as_in_file(flags))
    problems, notes = [], config_other.notes(settings)
    for name, value in flags.items():
        key = _KEYS.get(name, name)
        try:
            if key in config_other.IDLE:
                notes.append(f"--{name} has no effect: {config_other.IDLE[key][1]}")
                continue
            if key in config_other.REFUSED:
                config_other.CHECKS[key](value)
                continue
            shaped = _SHAPES[name](value) if name in _SHAPES else _absolute(name, value)
            settings[key] = shaped if key == "runtimes" else config.KEYS[key](shaped)
        except Mistake as mistake:
            problems.append(f"--{name}: {value if isinstance(value, str) else json.dumps(value)} {mistake}")
    if not problems and {"log-driver", "log-opt"} & set(flags):
        problems += config.log_problems(settings)
    if problems:
        raise InvalidParameter("\n  ".join(problems))
    return from_settings(settings), notes


def _as_in_file(flags: dict[str, Any]) -> dict[str, Any]:
    """Values as the file would have them, for the message that compares both."""
    found = dict(flags)
    for name in _SHAPES.keys() & flags.keys():
        try:
            found[name] = _SHAPES[name](flags[name])
        except Mistake:
            continue
    return found


def _absolute(name: str, value: object) -> object:
    """Paths of the command line may be relative to where it was given."""
    if name == "seccomp-profile" and value in ("builtin", "unconfined"):
        return value
    return os.path.abspath(value) if name in _PATHS and isinstance(value, str) and value else value


def _pairs(value: object) -> dict[str, str]:
    """`NAME=VALUE` each."""
    found = {}
    for item in value if isinstance(value, list) else []:
        name, _, text = item.partition("=")
        if not name or not text:
            raise Mistake("is not NAME=VALUE")
        found[name] = text
    return found


def _ulimits(value: object) -> dict[str, dict[str, int]]:
    found = {}
    for name, text in _pairs(value).items():
        soft, _, hard = text.partition(":")
        try:
            found[name] = {"Soft": int(soft), "Hard": int(hard or soft)}
        except ValueError:
            raise Mistake("is not NAME=SOFT[:HARD]") from None
    return found


def _pools(value: object) -> list[dict[str, Any]]:
    """`base=10.10.0.0/16,size=24` each."""
    found = []
    for item in value if isinstance(value, list) else []:
        pairs = dict(part.partition("=")[::2] for part in item.split(","))
        if set(pairs) != {"base", "size"} or not pairs["size"].isdigit():
            raise Mistake("is not base=CIDR,size=BITS")
        found.append({"base": pairs["base"], "size": int(pairs["size"])})
    return found


def _network_options(value: object) -> dict[str, dict[str, str]]:
    """`bridge=com.docker.network.driver.mtu=1450` each."""
    found: dict[str, dict[str, str]] = {}
    for item in value if isinstance(value, list) else []:
        driver, _, rest = item.partition("=")
        key, equals, text = rest.partition("=")
        if not driver or not key or not equals:
            raise Mistake("is not DRIVER=KEY=VALUE")
        found.setdefault(driver, {})[key] = text
    return found


_SHAPES: dict[str, Callable[[object], Any]] = {
    "add-runtime": _pairs, "log-opt": _pairs, "default-ulimit": _ulimits, "init": boolean, "debug": boolean,
    "default-address-pool": _pools, "default-network-opt": _network_options,
}  # fmt: skip
