"""One build, from the text of a Dockerfile to what was asked for: read, planned, solved, delivered."""

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from berth import errors
from berth.build import advice, cacheformat, planning, progress, provenance
from berth.build import images as image_documents
from berth.build.cache import Cache
from berth.build.graph import Target
from berth.build.options import OCI_LAYOUT, BaseImage
from berth.build.planning import Planner
from berth.build.progress import Event, Report
from berth.build.solver import Shared, Solver
from berth.build.worker import Layers, Output
from berth.engine.builds import delivery, exports, limits
from berth.engine.builds.assembly import Made
from berth.engine.builds.delivery import Delivery
from berth.engine.builds.exports import Exports
from berth.engine.builds.imports import Imports
from berth.engine.builds.mounts import CacheMounts
from berth.engine.builds.request import BuildRequest, Built, Client
from berth.engine.builds.squash import squashed
from berth.engine.builds.worker import BuildWorker
from berth.oci import reference
from berth.store.images import Image, ImageStore

if TYPE_CHECKING:
    from berth.build.dockerfile.instructions import Dockerfile
    from berth.engine.distribution import Distribution

_SHORT_BYTES = 8 << 10  # a Dockerfile of these is read faster than a thread has begun
_read = lru_cache(maxsize=16)(planning.read)  # the same one is built again and again, and what is read is frozen


@dataclass(kw_only=True, slots=True)
class BuildJob:
    """worker, imports: this build's, closed by the caller; the rest is the engine's. publish: tells of an image (image, action, name)."""

    request: BuildRequest
    client: Client
    report: Report
    worker: BuildWorker
    imports: Imports
    images: ImageStore
    cache: Cache
    mounts: CacheMounts
    shared: Shared
    distribution: "Callable[[], Distribution]"
    publish: Callable[[Image, str, str], object]
    _started_ns: int = field(default_factory=time.time_ns)

    async def run(self) -> Built:
        """Errors are BerthErrors, or OSError where the host's files cannot be used."""
        request = self.request
        delivery.wanted(request)
        exports.check(request)
        limits.host_config(request.options.limits)
        data, called = await self.client.dockerfile()
        dockerfile = _read(data, called) if len(data) <= _SHORT_BYTES else await asyncio.to_thread(planning.read, data, called)
        targets, bases = await self._plan(dockerfile)
        solver, results = await self._solve(targets)
        for text in advice.slips(dockerfile, self.request.options):
            self._warn(text)
        if unused := advice.unused_arguments(dockerfile, request.options.build_args, bases):
            self._warn(unused)
        facts = provenance.Facts(
            request.options, (called, data), self._digests(), solver.results, self._started_ns, time.time_ns(), secrets.token_hex(12),
            self.client.origin(),
        )  # fmt: skip
        return await self._deliver(targets, results, solver, facts)

    def _warn(self, text: str, line: int = 0) -> None:
        self.report(Event(progress.WARNING, at_ns=time.time_ns(), text=text, line=line))

    async def _plan(self, dockerfile: "Dockerfile") -> tuple[list[Target], dict[tuple[str, str], BaseImage]]:
        """One target for each platform, and the images that they begin with."""
        options = self.request.options
        targets = []
        bases: dict[tuple[str, str], BaseImage] = {}
        warnings: dict[str, int] = {}
        for platform in options.platforms or (options.build_platform,):
            planner = Planner(dockerfile, options, platform)
            found = await self._base_images(planner)
            targets.append(planner.plan(found))
            bases |= found
            warnings |= planner.warnings
        for text, line in warnings.items():
            self._warn(text, line)
        for warning in advice.checked(dockerfile, options, bases):
            self._warn(f"{warning.code}: {warning.message} (line {warning.place.line})", warning.place.line)
        return targets, bases

    async def _base_images(self, planner: Planner) -> dict[tuple[str, str], BaseImage]:
        def tell(stream: int, data: bytes) -> None:
            self.report(Event(progress.STATUS, at_ns=time.time_ns(), text=data.decode(errors="replace")))

        wanted = sorted(planner.needed_bases())
        self.worker.meant = planner.meant
        found = await asyncio.gather(*(self._base_image(key, planner, tell) for key in wanted))
        return {key: BaseImage(image.id, image.config) for key, image in zip(wanted, found, strict=True)}

    async def _base_image(self, key: tuple[str, str], planner: Planner, tell: Output) -> Image:
        """One; what fails is told as a step that is in the way of all others, with its place."""
        try:
            return await self.worker.find_image(*key, tell)
        except errors.BerthError as error:
            line = planner.bases_lines().get(key, 0)
            self.report(Event(progress.PLANNED, 1, time.time_ns(), label=f"[internal] load metadata for {key[0]}", line=line))
            self.report(Event(progress.FAILED, 1, time.time_ns(), text=str(error)))
            raise

    async def _solve(self, targets: Sequence[Target]) -> tuple[Solver, list[Layers]]:
        """The layers of each target, which are all here."""
        worker, vertices = self.worker, [target.vertex for target in targets]
        if self.request.cache_from:
            await self.imports.open(self.request, self.client, self.distribution, self.report, worker.new_directory)
            await exports.import_mounts(self.imports, self.mounts, vertices, worker.new_directory, self.report)
        solver = Solver(worker, self.shared, self.report, self.imports.find)
        worker.shared = lambda: solver.under_way
        return solver, await solver.solve(vertices)

    async def _deliver(self, targets: Sequence[Target], results: Sequence[Layers], solver: Solver, facts: provenance.Facts) -> Built:
        request = self.request
        delivering = Delivery(
            request=request, client=self.client, worker=self.worker, images=self.images, distribution=self.distribution, report=self.report,
            facts=facts, store=self._store,
        )  # fmt: skip
        exporting = Exports(
            request=request, client=self.client, worker=self.worker, images=self.images, cache=self.cache, mounts=self.mounts,
            imports=self.imports, distribution=self.distribution, report=self.report, used=solver.used, blobs=delivering.blobs,
        )  # fmt: skip
        made = [self._made(target, result, solver, exporting) for target, result in zip(targets, results, strict=True)]
        if request.squash:
            made = [await squashed(self.worker, self.images, each, request.options.epoch) for each in made]
        vertices = [target.vertex for target in targets]
        try:
            metadata = await delivering.deliver(made, vertices)
            await exporting.run(vertices, [layer.chain for each in made for layer in each.layers], delivering.telling)
        finally:
            await delivering.close()
        return Built(delivering.image, metadata)

    def _made(self, target: Target, result: Layers, solver: Solver, exporting: Exports) -> Made:
        layers = self.images.layers_below(result.chain)
        if layers is None:
            raise errors.NotFound(f"layer {result.chain} of the result is not here any more")
        records = [] if self.request.squash else exporting.inline([layer.chain for layer in layers])
        more = {cacheformat.INLINE: records} if records else {}
        raw = image_documents.configuration(target, result, solver.results, self.request.options, more)
        base = solver.results.get(target.base_vertex) if target.base_vertex else None
        return Made(target.platform, result, raw, layers, base if isinstance(base, Layers) else Layers("", ()))

    def _store(self, made: Made, names: Sequence[str]) -> Image:
        image = self.images.add_image(made.raw, names=names)
        for name in names:
            self.publish(image, "tag", name)
        return image

    def _digests(self) -> dict[tuple[str, str], str]:
        """Of the images that the build began with: as their registry names them, or their own ids."""
        found = {}
        for (name, platform), image in self.worker.found_images().items():
            prefix = "" if reference.is_image_id(name) or name.startswith(OCI_LAYOUT) else f"{reference.parse(name).familiar_name}@"
            known = [digest.removeprefix(prefix) for digest in self.images.digests_of(image.id) if prefix and digest.startswith(prefix)]
            found[name, platform] = known[0] if known else image.id
        return found
