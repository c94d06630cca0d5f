"""`--change` of import and commit: instructions of a Dockerfile for an image's configuration. Pure."""

import json
import re
import shlex
from typing import Any

from berth import errors

_PORTS = re.compile(r"[0-9]{1,5}(-[0-9]{1,5})?(/(tcp|udp|sctp))?")
_CHANGES = ("CMD", "ENTRYPOINT", "ENV", "EXPOSE", "LABEL", "ONBUILD", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR")


def apply_changes(changes: list[str]) -> dict[str, Any]:
    """`--change` instructions -> an image's `config` section; InvalidParameter for any other instruction."""
    config: dict[str, Any] = {}
    for change in changes:
        word, _, rest = change.strip().partition(" ")
        word, rest = word.upper(), rest.strip()
        if word not in _CHANGES or not rest:
            raise errors.InvalidParameter(f"{word.lower()} is not a valid change command; known: {', '.join(_CHANGES)}")
        if word in ("CMD", "ENTRYPOINT", "VOLUME"):
            try:
                value = json.loads(rest) if rest.startswith("[") else None
            except (ValueError, RecursionError):
                value = [None]
            if value is not None and not all(isinstance(item, str) for item in value):
                raise errors.InvalidParameter(f"--change {change!r}: not a JSON list of strings")
            if word == "VOLUME":
                config["Volumes"] = {**config.get("Volumes", {}), **{path: {} for path in value or rest.split()}}
            else:
                config[word.capitalize()] = value if value is not None else ["/bin/sh", "-c", rest]
        elif word in ("ENV", "LABEL"):
            try:
                words = shlex.split(rest) if "=" in rest.split()[0] else []
            except ValueError as error:
                raise errors.InvalidParameter(f"--change {change!r}: {error}") from None
            pairs = [item.partition("=")[::2] for item in words] or [rest.partition(" ")[::2]]
            if not words and " " not in rest:
                raise errors.InvalidParameter(f"{word} must have two arguments")
            if word == "ENV":
                config["Env"] = config.get("Env", []) + [f"{key}={value}" for key, value in pairs]
            else:
                config["Labels"] = {**config.get("Labels", {}), **dict(pairs)}
        elif word == "EXPOSE":
            for port in rest.split():
                if not _PORTS.fullmatch(port):
                    raise errors.InvalidParameter(f"invalid containerPort: {port}")
            ports: dict[str, dict] = {port if "/" in port else f"{port}/tcp": {} for port in rest.split()}
            config["ExposedPorts"] = {**config.get("ExposedPorts", {}), **ports}
        elif word == "ONBUILD":
            config["OnBuild"] = [*config.get("OnBuild", []), rest]
        else:
            config[{"USER": "User", "WORKDIR": "WorkingDir", "STOPSIGNAL": "StopSignal"}[word]] = rest
    return config
