"""`--squash`: all that a build has added to its base image becomes one layer; its history stays, without layers."""

import json
import os
from contextlib import ExitStack
from typing import Any

from berth.build.imagedocuments import Document
from berth.build.worker import Layers
from berth.engine import changes
from berth.engine.builds.assembly import Made
from berth.engine.builds.worker import BuildWorker
from berth.models.times import moment
from berth.store.images import ImageStore
from berth.store.tarwriter import TarWriter


async def squashed(worker: BuildWorker, images: ImageStore, made: Made, epoch: int | None) -> Made:
    """The same image in fewer layers; itself where nothing would become less."""
    above = made.layers[len(made.base.diffs) :]
    if len(above) < 2:
        return made
    root, below = await worker.root_of(made.result), await worker.root_of(made.base)

    def write(writer: TarWriter) -> None:
        with ExitStack() as stack:
            uppers = [os.open(images.layout.layer(layer.chain), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for layer in above]
            for upper in uppers:
                stack.callback(os.close, upper)
            found = changes.changes_of_layers(uppers, root, below)
        changes.write(writer, root, found)

    result = await worker.layer(made.base, write, epoch)
    layers = images.layers_below(result.chain) or []
    return Made(made.platform, result, _configuration(made, result), layers, made.base)


def _configuration(made: Made, result: Layers) -> bytes:
    document: dict[str, Any] = json.loads(made.raw)
    base = len(made.base.diffs)
    layers = 0
    for entry in document["history"]:
        if not entry.get("empty_layer"):
            layers += 1
            if layers > base:
                entry["empty_layer"] = True
    merged: dict[str, Any] = {
        "created": document.get("created") or moment(0), "comment": f"merge {Document('', made.raw).digest} over {made.base.chain or 'nothing'}",
    }  # fmt: skip
    if len(result.diffs) == base:
        merged["empty_layer"] = True
    document["history"].append(merged)
    document["rootfs"]["diff_ids"] = list(result.diffs)
    return json.dumps(document).encode()
