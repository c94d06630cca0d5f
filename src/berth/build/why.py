"""Why a step was not found in the cache: what it depends on, beside what the same step depended on before. Pure."""

from collections.abc import Mapping
from typing import Any

from berth.build import graph

_SHOWN = 3


def fields(op: graph.Op) -> dict[str, Any]:
    """What a step depends on, in parts that a person knows."""
    definition = op.definition()
    found: dict[str, Any] = {}
    for key, value in definition.items():
        if key == "environment":
            found |= {f"variable {name}": text for name, text in value}
        elif value not in ("", (), None, False):
            found[key] = value
    return found


def explain(before: Mapping[str, Any] | None, now: Mapping[str, Any], *, fresh: bool, earlier: str) -> str:
    """One line. fresh: it was asked to be made anew; earlier: label of an input that was itself made anew, or ''."""
    if fresh:
        return "asked for without the cache"
    if before is None:
        return f"the step before it was made anew: {earlier}" if earlier else "never built before in this place"
    changed = [key for key in {**before, **now} if _plain(before.get(key)) != _plain(now.get(key))]
    own = [key for key in changed if key != "base"]
    if own:
        return "; ".join(_said(key, before.get(key), now.get(key)) for key in sorted(own)[:_SHOWN])
    if earlier:
        return f"the step before it was made anew: {earlier}"
    if "base" in changed:
        return "the layers below it are others"
    return "nothing changed: the earlier result has been removed from the cache"


def _plain(value: Any) -> Any:
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def _said(key: str, before: Any, now: Any) -> str:
    if key == "files":
        return "files that it copies have changed"
    if key.startswith("mount "):
        return f"files mounted at {key[6:]} have changed"
    names = {"words": "the command", "directory": "the working directory", "sources": "what is copied", "user": "the user"}
    said = names.get(key, key)
    if before is None:
        return f"{said} is new: {_short(now)}"
    if now is None:
        return f"{said} is gone, it was {_short(before)}"
    return f"{said} was {_short(before)} and is {_short(now)}"


def _short(value: Any) -> str:
    text = " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
