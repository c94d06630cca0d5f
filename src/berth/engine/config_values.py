"""What a value of daemon.json may be: one check a kind, each giving the value as the engine wants it. Pure but for files named."""

import ipaddress
import json
import urllib.parse
from collections.abc import Callable
from typing import Any

from berth.errors import InvalidParameter

LOG_LEVELS = {"debug": 10, "info": 20, "warn": 30, "warning": 30, "error": 40, "fatal": 50}
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_MAX_PROFILE_BYTES = 1 << 20

Check = Callable[[object], Any]


class Mistake(ValueError):
    """What is wrong with a value, to follow the key and the value."""


def string(value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise Mistake("is not a string")
    return value


def path(value: object) -> str:
    text = string(value)
    if not text.startswith("/"):
        raise Mistake("is not an absolute path")
    return text


def boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise Mistake("is not true or false")
    return value


def seconds(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not -1 <= value < 1 << 31:
        raise Mistake("is not a number of seconds")
    return value


def whole_number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 31:
        raise Mistake("is not a number of 0 or more")
    return value


def positive_number(value: object) -> int:
    if not whole_number(value):
        raise Mistake("is not a number above 0")
    return whole_number(value)


def level(value: object) -> str:
    text = string(value)
    if text not in LOG_LEVELS:
        raise Mistake(f"is not one of {', '.join(LOG_LEVELS)}")
    return text


def strings(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Mistake("is not a list of strings")
    return value


def a_list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise Mistake("is not a list")
    return value


def an_object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Mistake("is not an object")
    return value


def string_map(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise Mistake("is not an object of strings")
    return value


def one_of(*words: str) -> Callable[[object], str]:
    def check(value: object) -> str:
        if value not in words:
            raise Mistake(f"is not one of {', '.join(words)}")
        return str(value)

    return check


def address(value: object) -> str:
    text = string(value)
    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise Mistake(f"has {text}, which is not an ip address" if text else "is not an ip address") from None
    return text


def addresses(value: object) -> list[str]:
    return [address(item) for item in strings(value)]


def subnet(value: object) -> str:
    """An address with the length of its network, as in 10.1.0.1/24; '' for none."""
    text = string(value)
    try:
        if text:
            ipaddress.ip_interface(text)
    except ValueError:
        raise Mistake("is not an address with the length of its network, such as 10.1.0.1/24") from None
    return text


def hosts(value: object) -> list[str]:
    for item in strings(value):
        if not item.startswith(("unix:///", "tcp://", "fd://")):
            raise Mistake(f"has {json.dumps(item)}: expected unix:///path, tcp://host:port or fd://")
    return strings(value)


def labels(value: object) -> list[str]:
    """`key=value` each, every key once."""
    seen: dict[str, str] = {}
    for item in strings(value):
        key, equals, text = item.partition("=")
        if not key or not equals:
            raise Mistake(f"has {json.dumps(item)}: expected key=value")
        if seen.setdefault(key, text) != text:
            raise Mistake(f"has two values for {key}")
    return list(dict.fromkeys(strings(value)))


def runtimes(value: object) -> dict[str, str]:
    found = {}
    for name, entry in an_object(value).items():
        if not isinstance(entry, dict) or not isinstance(entry.get("path"), str) or not entry["path"]:
            raise Mistake(f'has no "path" for {json.dumps(name)}')
        more = [key for key in entry if key != "path" and entry[key]]
        if more:
            raise Mistake(f"has {json.dumps(more[0])} for {json.dumps(name)}: this version of berth takes the path alone")
        found[name] = entry["path"]
    return found


def size_bytes(value: object) -> int:
    """67108864, "64m", "64MiB"."""
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    else:
        text = string(value).strip().lower()
        digits = text.rstrip("kmgtib")
        unit = text[len(digits) :].removesuffix("ib").removesuffix("b") if text != digits else ""
        if not (digits.isascii() and digits.isdigit() and unit in _UNITS and len(digits) < 20):
            raise Mistake('is not a size such as "64m"')
        number = int(digits) * _UNITS[unit]
    if not 0 < number < 1 << 62:
        raise Mistake("is not a size above 0")
    return number


def ulimits(value: object) -> list[dict[str, Any]]:
    found = []
    for name, limit in an_object(value).items():
        numbers = [limit.get(key) for key in ("Soft", "Hard")] if isinstance(limit, dict) else []
        if not numbers or not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
            raise Mistake(f'has no {{"Soft": NUMBER, "Hard": NUMBER}} for {json.dumps(name)}')
        found.append({"Name": name, "Soft": numbers[0], "Hard": numbers[1]})
    return found


def exec_opts(value: object) -> list[str]:
    for item in strings(value):
        if item != "native.cgroupdriver=cgroupfs":
            raise Mistake(f"has {json.dumps(item)}: this version of berth has native.cgroupdriver=cgroupfs alone")
    return strings(value)


def seccomp_profile(value: object) -> dict[str, str]:
    """{"name": what was given, "option": what --security-opt seccomp= would be given}."""
    name = string(value)
    if name in ("", "builtin", "unconfined"):
        return {"name": name or "builtin", "option": name or "builtin"}
    try:
        with open(path(name), "rb") as file:
            data = file.read(_MAX_PROFILE_BYTES)
        profile = json.loads(data)
    except OSError as error:
        raise Mistake(f"cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise Mistake(f"is not JSON: {error}") from None
    if not isinstance(profile, dict) or not profile.get("defaultAction"):
        raise Mistake("has no defaultAction")
    return {"name": name, "option": data.decode()}


# -- registries -----------------------------------------------------------------------------------------------


def mirrors(value: object) -> list[str]:
    """URLs of registries, each with its one slash at the end as Docker shows them."""
    return [_mirror(item) for item in strings(value)]


def _mirror(text: str) -> str:
    try:
        url = urllib.parse.urlsplit(text)
        url.port  # noqa: B018 - raises for what is none
    except ValueError as error:
        raise Mistake(f"has {json.dumps(text)}: {error}") from None
    if url.scheme not in ("http", "https"):
        raise Mistake(f'has {json.dumps(text)}: unsupported scheme "{url.scheme}"; expected http:// or https://')
    if not url.hostname or url.path not in ("", "/") or url.query or url.fragment:
        raise Mistake(f"has {json.dumps(text)}: path, query, or fragment at end of the URI")
    if url.username is not None:
        raise Mistake(f"has {json.dumps(text)}: username/password not allowed in URI")
    return f"{url.scheme}://{url.netloc}/"


def insecure_registries(value: object) -> list[str]:
    """HOST[:PORT], or a network."""
    for item in strings(value):
        if "://" in item:
            raise Mistake(f"has {json.dumps(item)}: insecure registry should not contain '://'")
    return registries(value)


def registries(value: object) -> list[str]:
    """The same, of registries that something else is said of."""
    for item in strings(value):
        host = item.partition("/")[0]
        if not item or item.startswith("-") or item.endswith("-") or ("/" in item and not _is_network(item)):
            raise Mistake(f"has {json.dumps(item)}: expected host, host:port or a network such as 10.0.0.0/8")
        port = host.rpartition(":")[2] if host.count(":") == 1 else ""
        if port and not (port.isascii() and port.isdigit() and int(port[:6]) < 1 << 16):
            raise Mistake(f"has {json.dumps(item)}: invalid port {port}")
    return strings(value)


def proxy(value: object) -> str:
    """The address of a proxy, or ''."""
    text = string(value)
    if text:
        from berth.registry.client import proxies  # for those who have one

        try:
            proxies.parse(text if "://" in text else f"http://{text}")
        except InvalidParameter as error:
            raise Mistake(f"is no proxy: {str(error).partition(': ')[2] or error}") from None
    return text


def proxies(value: object) -> dict[str, str]:
    """The object of that name: http-proxy, https-proxy and no-proxy."""
    found = {}
    for key, item in string_map(value).items():
        if key not in ("http-proxy", "https-proxy", "no-proxy"):
            raise Mistake(f"has {json.dumps(key)}: expected http-proxy, https-proxy or no-proxy")
        found[key] = string(item) if key == "no-proxy" else proxy(item)
    return found


def masked(text: str) -> str:
    """The address of a proxy as others may see it, as dockerd shows it."""
    try:
        parts = urllib.parse.urlsplit(text)
        return text if parts.username is None else parts._replace(netloc=f"xxxxx:xxxxx@{parts.netloc.rpartition('@')[2]}").geturl()
    except ValueError:
        return text


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def foreign_info(registries: list[str]) -> dict[str, list[str]]:
    """What `RegistryConfig` had up to version 1.46, of registries that are sent foreign layers."""
    networks = [item for item in registries if _is_network(item) and "/" in item]
    return {
        "AllowNondistributableArtifactsCIDRs": networks,
        "AllowNondistributableArtifactsHostnames": [item for item in registries if item not in networks],
    }  # fmt: skip


def registry_info(mirror_urls: list[str], insecure: list[str]) -> dict[str, Any]:
    """`RegistryConfig` of GET /info."""
    networks = [item for item in insecure if _is_network(item) and "/" in item]
    indexes = {
        name: {"Name": name, "Mirrors": [], "Secure": False, "Official": False} for name in insecure if name not in networks
    }  # fmt: skip
    indexes["docker.io"] = {"Name": "docker.io", "Mirrors": mirror_urls, "Secure": True, "Official": True}
    return {"IndexConfigs": indexes, "InsecureRegistryCIDRs": ["::1/128", "127.0.0.0/8", *networks], "Mirrors": mirror_urls}
