"""Brings what a build has made to where it was asked for: store, registries, archives and directories of the client."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from berth import errors
from berth.build import attestations, outputs, progress, provenance, sbom
from berth.build.attestations import Claim
from berth.build.graph import Vertex
from berth.build.imagedocuments import Document, annotations_for
from berth.build.outputs import Annotation, Output
from berth.build.progress import Event, Report
from berth.engine.builds.assembly import Assembly, Made, assemble, is_oci, unique
from berth.engine.builds.blobs import Blobs
from berth.engine.builds.push import Uploads, push
from berth.engine.builds.request import BuildRequest, Client
from berth.engine.builds.worker import BuildWorker
from berth.engine.tasks import to_its_end
from berth.oci import platforms, reference
from berth.oci.reference import Reference
from berth.store import archivewriter
from berth.store.archivewriter import Saved, Writing
from berth.store.images import Image, ImageStore, Layer
from berth.store.tarwriter import TarWriter

if TYPE_CHECKING:
    from berth.engine.distribution import Distribution

_FIRST_NUMBER = 1_000_000  # of what is told about outputs, behind all vertices


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a request says of its outputs, checked before anything is built."""

    outputs: tuple[Output, ...]
    claims: Mapping[str, Mapping[str, str]]
    provenance: provenance.Wanted
    annotations: tuple[Annotation, ...]


def wanted(request: BuildRequest) -> Wanted:
    """InvalidParameter for what cannot be, with what was asked for."""
    given = request.outputs or ({"type": outputs.STORE},)
    parsed = tuple(outputs.parse(number, each) for number, each in enumerate(given))
    claims = attestations.wanted(request.attests)
    several = len(request.options.platforms) > 1
    for each in parsed:
        if each.kind == outputs.DOCKER and (several or claims):
            what = "several platforms" if several else "attestations"
            raise errors.InvalidParameter(f"output type docker holds one image, not {what}: use type=oci")
        if each.rewrite_times and request.options.epoch is None:
            raise errors.InvalidParameter("rewrite-timestamp=true needs a time to write: give --build-arg SOURCE_DATE_EPOCH=SECONDS")
        if each.push and not (each.names or request.tags):
            raise errors.InvalidParameter("tag is needed when pushing to registry")
    found = [annotation for text in request.annotations for annotation in outputs.annotation(text)]
    if not (several or claims) and any(each.what == "index" for each in [*found, *(each for output in parsed for each in output.annotations)]):
        raise errors.InvalidParameter("index annotations need an index, which there is of several platforms or with attestations: annotate the manifest")
    return Wanted(parsed, claims, provenance.parse(claims.get(attestations.PROVENANCE, {})), tuple(found))


class Delivery:
    """Of one build. store: keeps one platform's image under names; facts: of the build, for its provenance."""

    def __init__(
        self, *, request: BuildRequest, client: Client, worker: BuildWorker, images: ImageStore, distribution: "Callable[[], Distribution]",
        report: Report, facts: provenance.Facts, store: Callable[[Made, Sequence[str]], Image],
    ) -> None:  # fmt: skip
        self._request = request
        self._wanted = wanted(request)
        self._client = client
        self._worker = worker
        self._images = images
        self._distribution = distribution
        self._report = report
        self._facts = facts
        self._store = store
        self._epoch = request.options.epoch
        self.blobs = Blobs(images, worker.new_directory, portable=self._epoch is not None)
        self._names = tuple(reference.parse(tag).familiar for tag in request.tags)
        self._told = 0
        self._loop = asyncio.get_running_loop()
        self.image = ""

    async def deliver(self, made: list[Made], targets: Sequence[Vertex]) -> dict[str, Any]:
        """-> what --metadata-file has. targets: the vertices of what was made."""
        carried = any(each.push or (each.to_client and each.kind != outputs.DOCKER) for each in self._wanted.outputs)
        if (self._wanted.claims or self._wanted.annotations) and not carried:
            self._report(Event(progress.WARNING, at_ns=time.time_ns(), text=(
                "the store keeps no attestations and annotations: they go with what is pushed, or exported as oci, local or tar"
            )))  # fmt: skip
        metadata = self._provenance(made, targets)
        await self._scan(made)
        for output in self._wanted.outputs:
            metadata |= await self._output(output, made)
        return metadata

    async def close(self) -> None:
        await self.blobs.close()

    async def telling(self, label: str, work: Awaitable[Any]) -> Any:
        """Awaits work that people see as a step."""
        number = _FIRST_NUMBER + self._told
        self._told += 1
        self._report(Event(progress.PLANNED, number, time.time_ns(), label=label))
        self._report(Event(progress.STARTED, number, time.time_ns(), label=label))
        try:
            try:
                found = await work
            except OSError as error:
                raise errors.SystemFailure(f"{label}: {error.strerror or error}") from error
        except asyncio.CancelledError:
            self._report(Event(progress.CANCELLED, number, time.time_ns()))
            raise
        except Exception as error:
            self._report(Event(progress.FAILED, number, time.time_ns(), text=str(error)))
            raise
        self._report(Event(progress.DONE, number, time.time_ns()))
        return found

    def _say(self, text: str) -> None:
        """A line of the step that is told last; from any thread."""
        number = _FIRST_NUMBER + self._told - 1
        self._loop.call_soon_threadsafe(self._report, Event(progress.LOG, number, time.time_ns(), stream=1, text=f"{text}\n"))

    # -- what is said of it --------------------------------------------------------------------------------

    def _provenance(self, made: list[Made], targets: Sequence[Vertex]) -> dict[str, Any]:
        found = {}
        for each, target in zip(made, targets, strict=True):
            predicate = provenance.predicate(self._wanted.provenance, self._facts, target, each.platform)
            key = "buildx.build.provenance" + (f"/{each.platform}" if len(made) > 1 else "")
            found[key] = predicate
            if attestations.PROVENANCE in self._wanted.claims:
                each.claims.append(Claim(self._wanted.provenance.version, predicate))
        return found

    async def _scan(self, made: list[Made]) -> None:
        if attestations.SBOM not in self._wanted.claims:
            return
        for each in made:
            root = await self._worker.root_of(each.result)
            await self.telling(f"[{each.platform}] listing packages", self._scanned(root, each))

    async def _scanned(self, root: int, each: Made) -> None:
        found = await to_its_end(lambda: sbom.scan(root))
        seconds = time.time() if self._epoch is None else self._epoch
        identity = Document("", each.raw).digest.removeprefix("sha256:")
        each.claims.append(Claim(attestations.SPDX, sbom.spdx(
            found, name=self._names[0] if self._names else f"sha256:{identity}", namespace=f"urn:berth:sbom:{identity}",
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds)),
        )))  # fmt: skip

    # -- outputs -------------------------------------------------------------------------------------------

    async def _output(self, output: Output, made: list[Made]) -> dict[str, Any]:
        names = output.names or self._names
        metadata: dict[str, Any] = {}
        if output.to_store:
            metadata |= self._to_store(made, names)
        if output.push:
            metadata |= await self._push(output, made, names)
        if output.kind in (outputs.LOCAL, outputs.TAR):
            await self.telling(f"exporting files ({output.kind})", self._files(output, made))
        if output.kind == outputs.OCI:
            metadata |= await self.telling("exporting to oci image format", self._archive(output, made, names))
        if output.kind == outputs.DOCKER:
            metadata |= await self.telling("exporting to docker image format", self._docker(output, made[0], names))
        return metadata

    def _to_store(self, made: list[Made], names: Sequence[str]) -> dict[str, Any]:
        chosen = platforms.choose(platforms.host(), [platforms.parse(each.platform) for each in made]) or 0
        if len(made) > 1:
            others = ", ".join(each.platform for number, each in enumerate(made) if number != chosen)
            self._report(Event(progress.WARNING, text=(
                f"the store keeps one platform of an image: {made[chosen].platform} is there now, {others} only where it was pushed or exported to"
            )))  # fmt: skip
        image = self._store(made[chosen], names)
        self.image = image.id
        return {
            "containerimage.config.digest": image.id, "containerimage.digest": image.id,
            **({"image.name": _full(names)} if names else {}),
        }  # fmt: skip

    async def _push(self, output: Output, made: list[Made], names: Sequence[str]) -> dict[str, Any]:
        metadata: dict[str, Any] = {}
        for name in names:
            parsed = reference.parse(name)
            metadata |= await self.telling(f"pushing {parsed.familiar}", self._push_to(parsed, output, made, names))
        return metadata

    async def _push_to(self, name: Reference, output: Output, made: list[Made], names: Sequence[str]) -> dict[str, Any]:
        distribution = self._distribution()
        client = distribution.client(name.registry, await self._client.credentials(name.registry), threading.Event())
        uploads = Uploads(client, name, self._images, self.blobs, self._say, distribution.max_uploads)
        try:
            assembly = await push(
                uploads, made, output, names, self._annotations(output), tag="" if output.by_digest else name.tag,
                portable=self._epoch is not None,
            )  # fmt: skip
        finally:
            await uploads.close()
            client.close()
        self._note(name, assembly)
        return self._described(assembly, made, names)

    def _note(self, name: Reference, assembly: Assembly) -> None:
        """The store's image is known by the digest that the registry has it under."""
        if self.image:
            self._images.note_pushed(self.image, [(name.familiar_name, assembly.top.digest)], [])

    def _annotations(self, output: Output) -> list[Annotation]:
        return [*self._wanted.annotations, *output.annotations]

    def _described(self, assembly: Assembly, made: list[Made], names: Sequence[str]) -> dict[str, Any]:
        single = len(made) == 1
        return {
            **({"containerimage.config.digest": Document("", made[0].raw).digest} if single else {}),
            "containerimage.digest": assembly.top.digest,
            "containerimage.descriptor": assembly.top.descriptor(platform=platforms.parse(made[0].platform).as_json() if single else None),
            **({"image.name": _full(names)} if names else {}),
        }  # fmt: skip

    # -- to the client -------------------------------------------------------------------------------------

    async def _files(self, output: Output, made: list[Made]) -> None:
        split = len(made) > 1 if output.split is None else output.split
        merged = len(made) > 1 and not split
        roots = [(each, await self._worker.root_of(each.result)) for each in made]

        def write(out: IO[bytes]) -> None:
            writer = TarWriter(out, latest_s=self._epoch, once=merged)
            for each, root in roots:
                name = each.platform.replace("/", "_")
                prefix = f"{name}/" if split else ""
                writer.add_tree(root, prefix)
                for claim in each.claims:
                    stem, dot, suffix = claim.file.rpartition(".")
                    info = archivewriter.file_info(f"{stem}.{name}{dot}{suffix}" if merged else prefix + claim.file)
                    info.mtime = self._epoch or 0
                    writer.put(info, data=claim.about((), each.platform, Document("", each.raw).digest).raw)
            writer.close()

        try:
            await self._client.output(output.number, write)
        except errors.Conflict as error:
            if not merged:
                raise
            raise errors.Conflict(f"platform-split=false: files of several platforms would take each other's place: {error}") from None

    async def _archive(self, output: Output, made: list[Made], names: Sequence[str]) -> dict[str, Any]:
        annotations = self._annotations(output)
        oci = is_oci(output, annotations) or any(each.claims for each in made)

        async def describe(_: Made, layer: Layer) -> dict:
            return (await self.blobs.of(layer, output.compression)).descriptor(oci=oci)

        assembly = await assemble(made, output, names, annotations, describe)
        # in the order of the layers, whichever was compressed first
        blobs = [await self.blobs.of(layer, output.compression) for each in made for layer in each.layers]
        platform = platforms.parse(made[0].platform).as_json() if assembly.top is assembly.images[0] else None
        what = "manifest-descriptor" if platform else "index-descriptor"
        entries = []
        for name in names or [""]:
            told = annotations_for(annotations, what)
            if name:
                told |= {"io.containerd.image.name": _full([name]), "org.opencontainers.image.ref.name": reference.parse(name).tag}
            entries.append(assembly.top.descriptor(annotations=told, platform=platform))

        def write(out: IO[bytes]) -> None:
            writing = Writing(out)
            for document in unique([*assembly.blobs, *assembly.manifests, assembly.top]):
                writing.blob(document.raw)
            for blob in blobs:
                writing.layer(blob.saved())
            writing.layout(entries)
            writing.end()

        await self._client.output(output.number, write)
        return self._described(assembly, made, names)

    async def _docker(self, output: Output, made: Made, names: Sequence[str]) -> dict[str, Any]:
        layers = [(await self.blobs.of(layer, outputs.Compression(outputs.UNCOMPRESSED))).saved() for layer in made.layers]
        saved = Saved(made.raw, platforms.parse(made.platform).as_json(), layers, list(names))
        await self._client.output(output.number, lambda out: archivewriter.write([saved], out))
        raw = archivewriter.manifest_of(made.raw, [(layer.diff, layer.size_bytes) for layer in layers])
        top = Document(archivewriter.MANIFEST_TYPE, raw)
        return self._described(Assembly(top, [top], [], []), [made], names)


def _full(names: Sequence[str]) -> str:
    """Names as metadata has them: with registry and tag."""
    parsed = [reference.parse(name) for name in names]
    return ",".join(f"{each.registry}/{each.repository}" + (f":{each.tag}" if each.tag else "") for each in parsed)
