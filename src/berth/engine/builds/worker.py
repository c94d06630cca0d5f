"""What one build does with the engine: pulls images, runs steps, copies files into layers. See build/worker.py."""

import asyncio
import os
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, ExitStack, suppress
from threading import Event
from typing import IO, Any

from berth import errors
from berth.build import graph
from berth.build.files import checksum, copying, fetching, git, owners
from berth.build.files.checksum import ChecksumCache
from berth.build.files.cloning import Access, Git
from berth.build.files.selection import Selected, select
from berth.build.options import OCI_LAYOUT
from berth.build.worker import Finished, Given, Layers, LayersLost, Output, Result, Tree
from berth.engine import copyup
from berth.engine.builds import emulation, repositories
from berth.engine.builds.bases import Bases
from berth.engine.builds.imports import Imports
from berth.engine.builds.layouts import Layouts
from berth.engine.builds.mounts import Secrets
from berth.engine.builds.request import Client
from berth.engine.builds.steps import Steps
from berth.engine.rootview import RootViews
from berth.engine.tasks import stoppable, to_its_end
from berth.linux import copying as plain_copying
from berth.linux import overlay
from berth.oci import reference
from berth.store.images import Image, ImageStore
from berth.store.layering import make_layer
from berth.store.tarwriter import TarWriter


class BuildWorker:
    """Of one build; an async context manager. directory: of its own on the store's file system; scratch: one in memory.

    Both are made when something is put there, which in a build that is cached is never; their owner removes them.
    """

    def __init__(
        self, *, images: ImageStore, roots: RootViews, steps: Steps, client: Client, checksums: ChecksumCache, directory: str, scratch: str,
        pull: bool, bases: Bases, imports: Imports, layouts: Layouts, allowed: frozenset[str],
    ) -> None:  # fmt: skip
        self._images = images
        self._roots = roots
        self._steps = steps
        self._client = client
        self._checksums = checksums
        self._directory = directory
        self._scratch = scratch
        self._pull = pull
        self._bases = bases
        self._imports = imports
        self._layouts = layouts
        self._allowed = allowed
        self._secrets = Secrets(client)
        self._held = ExitStack()
        self._stack = AsyncExitStack()
        self._kept: set[str] = set()
        self._views: dict[str, asyncio.Task[int]] = {}
        self._trees: dict[str, asyncio.Task[Tree]] = {}
        self._pulled: dict[tuple[str, str], asyncio.Task[Image]] = {}
        self._numbers = 0
        self.meant: Callable[[str], str] = lambda name: ""  # the stage or context that a name which is no image was to be
        self.shared: Callable[[], set[asyncio.Task[Layers]]] = set  # work that other builds wait for; the solver's to say

    async def close(self) -> None:
        """Nothing may be under way any more but what nobody waits for."""
        tasks: list[asyncio.Task[Any]] = [*self._pulled.values(), *self._views.values(), *self._trees.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for view in self._views.values():
            if not view.cancelled() and view.exception() is None:
                os.close(view.result())
        for tree in self._trees.values():
            if not tree.cancelled() and tree.exception() is None:
                os.close(tree.result().fd)
        await self._stack.aclose()
        self._held.close()

    def _new_directory(self, top: str, what: str) -> str:
        self._numbers += 1
        path = f"{top}/{what}-{self._numbers}"
        with suppress(FileExistsError):
            os.mkdir(top, 0o700)
        os.mkdir(path, 0o700)
        return path

    def new_directory(self, what: str) -> str:
        """On the store's file system; it goes with the build."""
        return self._new_directory(self._directory, what)

    def found_images(self) -> dict[tuple[str, str], Image]:
        """(name, platform) -> image, of those that were looked for."""
        done = ((key, task) for key, task in self._pulled.items() if task.done() and not task.cancelled())
        return {key: task.result() for key, task in done if task.exception() is None}

    # -- layers -----------------------------------------------------------------------------------------

    def keep(self, chain: str) -> bool:
        """Whether the layers of a chain are here, or are to be had when somebody needs them; they stay until the build has ended."""
        if not chain or (chain in self._kept and self._images.has_layer(chain)):
            return True
        with self._images.holding([chain]):
            below = self._images.layers_below(chain)
            chains = self._imports.chains_below(chain) if below is None else [layer.chain for layer in below]
            self._hold(chains)
        return bool(chains)

    async def bring(self, chain: str) -> None:
        """Fetches what is not here yet of layers that another build has left somewhere; LayersLost where it cannot."""
        if chain and self._images.layers_below(chain) is None:
            await self._imports.bring(chain)

    def _hold(self, chains: list[str]) -> None:
        new = [chain for chain in chains if chain not in self._kept]
        self._held.enter_context(self._images.holding(new))
        self._kept.update(new)

    def _keep_new(self, chain: str) -> None:
        """Told by make_layer before anybody could remove it, in a thread."""
        self._hold([chain])

    def diffs(self, chain: str) -> tuple[str, ...]:
        below = self._images.layers_below(chain)
        return self._imports.diffs(chain) if below is None else tuple(layer.diff for layer in below)

    # -- sources ----------------------------------------------------------------------------------------

    async def find_image(self, name: str, platform: str, output: Output) -> Image:
        """The image of a name, pulled where it is not here for this platform."""
        key = name, platform
        if key not in self._pulled:
            self._pulled[key] = asyncio.ensure_future(self._image_or_hint(name, platform, output))
        return await asyncio.shield(self._pulled[key])

    async def _image_or_hint(self, name: str, platform: str, output: Output) -> Image:
        try:
            return await self._find_image(name, platform, output)
        except errors.BerthError as error:
            if meant := self.meant(name):
                error.args = (f"{error} (did you mean {meant}?)",)
            raise

    async def _find_image(self, name: str, platform: str, output: Output) -> Image:
        if name.startswith(OCI_LAYOUT):
            return await self._layouts.image(name, platform, self._hold)
        if not self._pull or reference.is_image_id(name):
            try:
                return self._bases.here(name, platform)
            except errors.NotFound:
                if reference.is_image_id(name) and name.startswith("sha256:"):
                    raise
        return await self._bases.pulled(
            name, platform, lambda: self._client.pull(reference.parse(name), platform, lambda text: output(1, text.encode()))
        )

    async def image(self, source: graph.ImageSource, output: Output) -> Layers:
        image = await self.find_image(source.reference, source.platform, output)
        if not self.keep(image.chain):
            raise errors.NotFound(f"image {source.reference} has been removed meanwhile")
        return Layers(image.chain, self.diffs(image.chain))

    async def context(self, name: str, paths: tuple[str, ...] | None, output: Output) -> Tree:
        if name not in self._trees:
            into = self._new_directory(self._directory, "context")
            self._trees[name] = asyncio.ensure_future(self._client.context(name, paths, into, output))
        return await asyncio.shield(self._trees[name])

    async def fetch(self, source: graph.UrlSource | graph.GitSource, output: Output) -> Tree:
        top = self._new_directory(self._directory, "fetched")
        environment = self._client.proxies()
        if isinstance(source, graph.GitSource):
            access = await repositories.access(self._client, source.url)
            identity = await stoppable(lambda stop: _checked_out(source, top, environment, access, stop))
        else:
            identity = await stoppable(lambda stop: _downloaded(source, top, environment, stop))
        fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._stack.callback(os.close, fd)
        return Tree(fd, top, identity)

    # -- views ------------------------------------------------------------------------------------------

    async def root_of(self, result: Result) -> int:
        """A descriptor of the files of a result; it stays the worker's."""
        if isinstance(result, Tree):
            return result.fd
        if result.chain not in self._views:
            self._views[result.chain] = asyncio.ensure_future(self._view(result.chain))
        return await asyncio.shield(self._views[result.chain])

    async def _view(self, chain: str) -> int:
        at = self._new_directory(self._directory, "view")
        try:
            await self.bring(chain)
        except LayersLost:
            del self._views[chain]  # the chain may be made here
            raise
        if chain:
            return await self._roots.of_layers(chain, at)
        return os.open(at, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    # -- steps ------------------------------------------------------------------------------------------

    async def run(self, op: graph.Run, base: Layers, given: Given, output: Output) -> Finished:
        self._check(op)
        _check_room(base)
        for each in [base, *given.results]:
            await self.bring(each.chain if isinstance(each, Layers) else "")
        scratch = self._new_directory(self._scratch, "step")
        finished = await self._steps.run(
            op, base, given, output, secrets=self._secrets, keep=self._keep_new, scratch=scratch, script=lambda: self.new_directory("script"),
            fill=lambda mount, path: self._fill(mount, given.results[mount.input], path),
        )  # fmt: skip
        if finished.exit_code and emulation.is_foreign(op.platform) and (problem := emulation.problem(op.platform)):
            return Finished(finished.exit_code, None, problem)
        return finished

    async def _fill(self, mount: graph.Mount, source: Result, path: str) -> None:
        root = await self.root_of(source)

        def copy() -> None:
            content = copyup.open_content(root, mount.source or "/")
            if content < 0:
                raise errors.InvalidParameter(f"cache mount at {mount.target}: {mount.source} is not there to begin with")
            try:
                target = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    plain_copying.Copy(target).directory(content, target, "", True)
                finally:
                    os.close(target)
            finally:
                os.close(content)

        await to_its_end(copy)

    def _check(self, op: graph.Run) -> None:
        if op.security == "insecure" and "security.insecure" not in self._allowed:
            raise errors.Forbidden(
                "RUN --security=insecure: a step may have no more rights than a container, unless daemon.json says "
                '{"builder": {"entitlements": {"security-insecure": true}}} and the build says --allow security.insecure'
            )
        for path, _ in op.devices:
            if not {"device", f"device={path}"} & self._allowed:
                raise errors.Forbidden(
                    f"RUN --device={path}: a step has the devices of a container, unless daemon.json says "
                    f'{{"builder": {{"entitlements": {{"device": true}}}}}} and the build says --allow device={path} or --allow device'
                )
        if op.network == "host" and "network.host" not in self._allowed:
            raise errors.Forbidden("the network of the host is not for builds: daemon.json says so (builder.entitlements.network-host)")

    def _selected(self, op: graph.Copy, root: int, source: Result) -> list[Selected]:
        ignore = source.ignore if isinstance(source, Tree) else None
        return select(root, op.sources, exclude=op.exclude, ignore=ignore, parents=op.parents)

    async def digest(self, op: graph.Copy | graph.Run, result: Result, mount: graph.Mount | None) -> str:
        root = await self.root_of(result)
        if isinstance(op, graph.Copy):
            return await stoppable(lambda stop: checksum.content_digest(root, self._selected(op, root, result), self._checksums, stop=stop))
        assert mount
        ignore = result.ignore if isinstance(result, Tree) else None
        return await stoppable(lambda stop: checksum.content_digest(
            root, select(root, [mount.source or "/"], exclude=(), ignore=ignore, parents=False), self._checksums, stop=stop,
        ))  # fmt: skip

    async def copy(self, op: graph.Copy, base: Layers, source: Result) -> Layers:
        source_fd = await self.root_of(source)
        root_fd = await self.root_of(Layers("", ()) if op.independent else base)
        owner = owners.resolve(op.owner, await self.root_of(base)) if op.owner else (0, 0) if isinstance(source, Tree) else None
        mode = copying.parse_chmod(op.mode) if op.mode else None
        several = len(op.sources) + len(op.inline) > 1
        from_layers = isinstance(source, Layers)

        def write(writer: TarWriter) -> None:
            if op.sources:
                copying.write_copy(
                    writer, self._selected(op, source_fd, source), source_fd, root_fd, op.destination, workdir=op.directory, owner=owner,
                    mode=mode, source_date_epoch=op.epoch, devices=from_layers, several=several, unpack=op.unpack, keep_archive_owners=not op.owner,
                )  # fmt: skip
            for name, content in op.inline:
                copying.write_file(
                    writer, root_fd, op.destination, name, content.encode(errors="surrogateescape"), workdir=op.directory, owner=owner,
                    mode=mode, source_date_epoch=op.epoch, several=several,
                )  # fmt: skip

        return await self.layer(base, write, op.epoch)

    async def layer(self, base: Layers, write: Callable[[TarWriter], object], epoch: int | None) -> Layers:
        """One more layer; base itself where nothing is written."""
        _check_room(base)
        await self.bring(base.chain)

        def write_all(out: IO[bytes]) -> None:
            writer = TarWriter(out, latest_s=epoch)
            write(writer)
            writer.close()

        chain = await stoppable(lambda stop: make_layer(self._images, base.chain, write_all, self._keep_new, stop))
        return Layers(chain, self.diffs(chain))

    async def make_directory(self, op: graph.MakeDirectory, base: Layers) -> Layers:
        root_fd = await self.root_of(base)
        owner = owners.resolve(op.owner, root_fd) if op.owner else None

        def write(writer: TarWriter) -> None:
            copying.write_directory(writer, root_fd, op.path, owner=owner, source_date_epoch=op.epoch)

        return await self.layer(base, write, op.epoch)


def _check_room(base: Layers) -> None:
    """For one more layer: what has too many cannot be mounted."""
    if len(base.diffs) >= overlay.MOST_LAYERS:
        raise errors.InvalidParameter(
            f"there are {len(base.diffs)} layers below this step already, and overlayfs mounts no more: make one of several RUN, COPY or ADD, "
            "or go on in another stage that copies the files (COPY --from=STAGE / /)"
        )


def _checked_out(source: graph.GitSource, into: str, environment: Mapping[str, str], access: Access, stop: Event) -> str:
    """Puts a repository's files there -> what tells this state of them from others."""
    repository = git.parse(source.url)
    if source.checksum:
        repository.checksum = source.checksum
    keep = source.keep_git_directory or bool(repository.keep_git)
    commit = Git(repository, environment=environment, access=access, stop=stop).checkout(into, keep_git=keep)
    return f"git {commit} {repository.subdirectory} {keep}"


def _downloaded(source: graph.UrlSource, into: str, environment: Mapping[str, str], stop: Event) -> str:
    """The same of one file."""
    scratch = f"{into}.part"
    fetched = fetching.fetch(source.url, checksum=source.checksum, into=scratch, environment=environment, stop=stop)
    name = fetched.name or ("__unnamed__" if source.unnamed else "")
    if not name:
        os.unlink(scratch)
        raise errors.InvalidParameter(f"cannot determine a file name for {fetching.shown(source.url)}: end the destination with a name")
    os.rename(scratch, f"{into}/{name}")
    return f"url {name} {fetched.digest} {fetched.last_modified}"
