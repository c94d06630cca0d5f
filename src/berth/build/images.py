"""The configuration document of an image that was built. Pure.

Times are those of the layers, which the cache keeps: a build that makes nothing new gives the same image. With SOURCE_DATE_EPOCH all are that.
"""

import json
import time
from collections.abc import Mapping
from typing import Any

from berth.build.graph import Target, Vertex
from berth.build.options import Options
from berth.build.worker import Layers, Result
from berth.models.times import moment
from berth.oci import platforms

COMMENT = "berth.dockerfile.v0"
_FIELD_ORDER = (
    "Hostname", "Domainname", "User", "ExposedPorts", "Env", "Cmd", "Healthcheck", "ArgsEscaped", "Volumes", "WorkingDir", "Entrypoint",
    "OnBuild", "Labels", "StopSignal", "StopTimeout", "Shell",
)  # fmt: skip


def configuration(
    target: Target, result: Layers, results: Mapping[Vertex, Result], options: Options, more: Mapping[str, Any] | None = None
) -> bytes:
    """The document, as JSON. results: of the vertices that made the layers; more: fields beside those of every image."""
    history = [dict(entry) for entry in target.base_history]
    below = _chain_of(results, target.base_vertex) if target.base_vertex else ""
    when = str(history[-1].get("created") or "") if history else ""
    for step in target.steps:
        made = results.get(step.vertex) if step.vertex else None
        layer = isinstance(made, Layers) and made.chain != below
        if isinstance(made, Layers):
            below = made.chain
            if made.created_ns:
                when = moment(made.created_ns)
        shown = options.epoch is not None and moment(options.epoch * 10**9)
        entry: dict[str, Any] = {"created": shown or when, "created_by": step.created_by, "comment": COMMENT}
        history.append({key: value for key, value in entry.items() if value} | ({} if layer else {"empty_layer": True}))
    created = moment(options.epoch * 10**9) if options.epoch is not None else when or moment(time.time_ns())
    platform = platforms.parse(target.platform)
    config = {key: target.config[key] for key in _FIELD_ORDER if target.config.get(key) not in (None, {}, "")}
    document = {
        **platform.as_json(), **({"author": target.author} if target.author else {}), "created": created, "config": config,
        "rootfs": {"type": "layers", "diff_ids": list(result.diffs)}, "history": history,
        **(more or {}),
    }  # fmt: skip
    return json.dumps(document).encode()


def _chain_of(results: Mapping[Vertex, Result], vertex: Vertex) -> str:
    found = results.get(vertex)
    return found.chain if isinstance(found, Layers) else ""
