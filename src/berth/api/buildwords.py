"""The request of `berth build`, as its first frame brings it. Pure.

    dockerfile   {"text", "name"}, or {"url", "name"}: the engine fetches it; null where it is in the context, as `file`
    file         its path there
    context      {"kind": "local", "name"}: asked for by `list` and `files`; the name tells it from others
                 {"kind": "tar"}: asked for by `tar`; {"kind": "remote", "url"}: the engine fetches it; {"kind": "none"}
    contexts     {name: {"kind": "local", "name"}, {"kind": "other", "url"} or {"kind": "layout", "reference"}}: --build-context; of an OCI layout
                 `:TAG`, `@DIGEST` or '' says which image is meant, and its files are asked for by `list` and `files`
    target, build_args, labels, hosts, network, limits, platforms, no_cache, no_cache_stages, epoch, slot     see Options
    tags, pull, squash, outputs, cache_from, cache_to, attests, annotations, allow                        see engine.BuildRequest
    secrets, ssh     ids of those that the client has
    call             "build", "check", "outline" or "targets"; call_format: "json" or ""
    extra            anything else, by name
"""

import json
from collections.abc import Mapping
from typing import Any

from berth import errors
from berth.build import planning
from berth.build.options import OCI_LAYOUT, Options
from berth.engine.builds.request import BuildRequest
from berth.oci import digest, platforms, reference

LOCAL, TAR, REMOTE, NONE, OTHER, LAYOUT = "local", "tar", "remote", "none", "other", "layout"
_MOST_EPOCH = 1 << 40


class Words:
    """A request, its values of the types that they must have."""

    def __init__(self, value: Mapping[str, Any]) -> None:
        self._value = value
        given = self._of("dockerfile", dict, None)
        self.dockerfile_url = "" if given is None or "url" not in given else _string(given, "url")
        self.dockerfile = None if given is None or self.dockerfile_url else _string(given, "text").encode(errors="surrogateescape")
        self.dockerfile_name = "Dockerfile" if given is None else _string(given, "name")
        self.file = self._of("file", str, "") or "Dockerfile"
        self.context: dict[str, Any] = self._of("context", dict, {})
        self.contexts: dict[str, dict[str, Any]] = {name: each for name, each in self._of("contexts", dict, {}).items() if isinstance(each, dict)}
        self.secrets = frozenset(self._strings("secrets"))
        self.ssh = frozenset(self._strings("ssh"))
        self.call = self._of("call", str, "") or "build"
        self.call_format = self._of("call_format", str, "")

    def _of(self, name: str, kind: type, default: Any) -> Any:
        found = self._value.get(name)
        if found is None:
            return default
        if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
            raise errors.InvalidParameter(f"berth build: {name} is {json.dumps(found)[:200]}")
        return found

    def _strings(self, name: str) -> tuple[str, ...]:
        found = self._of(name, list, [])
        if not all(isinstance(each, str) for each in found):
            raise errors.InvalidParameter(f"berth build: {name} is no list of strings")
        return tuple(found)

    def _map(self, name: str) -> dict[str, str]:
        found = self._of(name, dict, {})
        if not all(isinstance(each, str) for each in found.values()):
            raise errors.InvalidParameter(f"berth build: {name} is no table of strings")
        return dict(found)

    def _maps(self, name: str) -> tuple[dict[str, str], ...]:
        found = self._of(name, list, [])
        if not all(isinstance(each, dict) and all(isinstance(word, str) for word in each.values()) for each in found):
            raise errors.InvalidParameter(f"berth build: {name} has something else than tables of strings")
        return tuple(found)

    def build_request(self) -> BuildRequest:
        """For the engine. InvalidParameter for values that cannot be."""
        tags = self._strings("tags")
        for tag in tags:
            reference.parse(tag)
        epoch = self._of("epoch", int, None)
        if epoch is not None and not 0 <= epoch < _MOST_EPOCH:
            raise errors.InvalidParameter(f"invalid SOURCE_DATE_EPOCH: {epoch}")
        options = Options(
            build_platform=str(platforms.host()), platforms=tuple(planning.platform_named(text) for text in self._strings("platforms")),
            target=self._of("target", str, ""), build_args=self._map("build_args"), labels=self._map("labels"),
            contexts={name: _meaning(name, each) for name, each in self.contexts.items()},
            hosts=self._strings("hosts"), network=_network(self._of("network", str, "")), limits=tuple(self._map("limits").items()),
            epoch=epoch, no_cache=self._of("no_cache", bool, False), no_cache_stages=frozenset(self._strings("no_cache_stages")),
            slot=self._of("slot", str, ""),
        )  # fmt: skip
        return BuildRequest(
            options=options, tags=tags, pull=self._of("pull", bool, False), squash=self._of("squash", bool, False),
            outputs=self._maps("outputs"), cache_from=self._maps("cache_from"), cache_to=self._maps("cache_to"),
            attests={each.pop("type", ""): each for each in self._maps("attests")}, annotations=self._strings("annotations"),
            allow=self._strings("allow"), layouts={name: _reference(each) for name, each in self.contexts.items() if each.get("kind") == LAYOUT},
            check_only=self.call == "check", extra=self._of("extra", dict, {}),
        )  # fmt: skip


def _meaning(name: str, context: Mapping[str, Any]) -> str:
    """Of a context, as Options has it."""
    kind = context.get("kind")
    return _string(context, "url") if kind == OTHER else f"{OCI_LAYOUT}{name}" if kind == LAYOUT else LOCAL


def _reference(context: Mapping[str, Any]) -> str:
    text = _string(context, "reference")
    if text.startswith("@") and not digest.is_known(text[1:]):
        raise errors.InvalidParameter(f"berth build: {text[1:]!r} is no digest: expected sha256: and 64 hexadecimal digits")
    return text


def _network(name: str) -> str:
    return "" if name == "default" else name


def _string(value: Mapping[str, Any], name: str) -> str:
    found = value.get(name)
    if not isinstance(found, str):
        raise errors.InvalidParameter(f"berth build: {name} is no string")
    return found
