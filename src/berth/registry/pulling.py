"""An image from a registry into the store. Each layer is unpacked while it arrives, several at once.

What a broken connection or a killed engine leaves is taken up by the next pull: whole layers are in the store, the bytes
of the others in their partial files. What was wrong in itself goes, and everything that came with it.
"""

import errno
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress

from berth.errors import BerthError, Cancelled, Conflict, DataLoss, InvalidParameter, NotFound, SystemFailure
from berth.oci import digest as digests
from berth.oci import platforms
from berth.oci.reference import Reference
from berth.registry import documents, media
from berth.registry.client.client import RegistryClient
from berth.registry.documents import Descriptor, Document
from berth.registry.progress import Line, Report, short
from berth.store.compression import open_stream
from berth.store.foreign import Foreign
from berth.store.images import Image, ImageStore, Layer, Source
from berth.store.layers import Loose
from berth.store.naming import chain_id, checked_config
from berth.store.partial import ArrivingReader, Partial

_CANCEL_CHECK_S = 0.5


class Transfers:
    """What all pulls of one engine share: how many downloads at once, and that nobody fetches a blob twice at a time."""

    def __init__(self, max_downloads: int) -> None:
        self.max_downloads = max_downloads
        self.slots = threading.BoundedSemaphore(max_downloads)
        self._lock = threading.Lock()
        self._busy: dict[str, tuple[threading.Lock, int]] = {}

    @contextmanager
    def alone(self, digest: str, cancelled: threading.Event) -> Iterator[None]:
        """Others who want this blob wait, unless they are cancelled meanwhile."""
        with self._lock:
            lock, users = self._busy.get(digest, (threading.Lock(), 0))
            self._busy[digest] = (lock, users + 1)
        try:
            while not lock.acquire(timeout=_CANCEL_CHECK_S):
                if cancelled.is_set():
                    raise Cancelled("the pull was cancelled")
            try:
                yield
            finally:
                lock.release()
        finally:
            with self._lock:
                lock, users = self._busy.pop(digest)
                if users > 1:
                    self._busy[digest] = (lock, users - 1)


    def unless_busy(self, digests: Iterable[str], act: Callable[[str], object]) -> None:
        """Does something to each of these blobs that nobody wants now, and keeps them waiting who want it meanwhile."""
        with self._lock:
            for digest in set(digests) - set(self._busy):
                act(digest)


class Pulled:
    """digest: of what the name stands for, an index where there is one; new: whether the name had meant something else."""

    __slots__ = ("digest", "image", "new")

    def __init__(self, image: Image, digest: str, *, new: bool) -> None:
        self.image = image
        self.digest = digest
        self.new = new


class Pull:
    """One pull of one name. cancelled: the client's own; it stops everything. whole: a layer that cannot be had makes the others useless."""

    def __init__(
        self, client: RegistryClient, store: ImageStore, transfers: Transfers, name: Reference, wanted: platforms.Platform | None,
        report: Report, cancelled: threading.Event, *, whole: bool = True,
    ) -> None:  # fmt: skip
        self._whole = whole
        self._client = client
        self._store = store
        self._transfers = transfers
        self._name = name
        self._where = f"{name.registry}/{name.repository}"
        self._wanted = wanted
        self._report = report
        self._cancelled = cancelled
        self._kept: list[Layer] = []
        self._compared: set[str] = set()  # digests of blobs that are what their diff ids say
        self._lock = threading.Lock()

    def run(self) -> Pulled:
        """Blocks until the image is in the store. Raises what Docker would say."""
        top = self._client.manifest(self._name)
        manifest = self._manifest(top)
        assert manifest.config
        if manifest.config.media_type not in (*media.CONFIGS, "", "application/octet-stream"):
            raise InvalidParameter(
                f"{self._name.familiar} is no image but an artifact of type {manifest.config.media_type}: it can be stored, not run"
            )
        known = self._store.by_id(manifest.config.digest)
        raw = known.raw if known else self._client.config(self._name.repository, manifest.config)
        self._check(raw, manifest)
        self._report({"status": f"Pulling from {self._name.repository}", "id": self._name.tag or f"{self._where}@{self._name.digest}"})
        diffs = checked_config(raw)["rootfs"]["diff_ids"]
        chains = [""]
        for diff in diffs:
            chains.append(chain_id(chains[-1], diff))
        before = self._identity()
        try:
            with self._store.holding(chains[1:]):
                if self._store.by_id(manifest.config.digest) is None:
                    self._fetch(manifest.layers, diffs, chains)
                image = self._store.add_image(
                    raw, names=[self._name.familiar] if self._name.tag and not self._name.digest else [],
                    digests=[(self._name.familiar_name, top.known_as)], sources=self._sources(manifest.layers, diffs),
                )  # fmt: skip
                self._store.documents.keep(top.digest, top.media_type, top.raw, "" if top.is_index else image.id)
                self._store.documents.keep(manifest.digest, manifest.media_type, manifest.raw, image.id)
                if known is None:  # a pull that was killed may have left those of layers that it had named already
                    self._drop_partial(manifest)
        except (BerthError, OSError) as error:
            if _is_final(error):
                self._drop_partial(manifest)
                with suppress(SystemFailure):  # the disk is so full that no record can be changed: a later prune does it
                    self._store.discard_layers(self._kept)
            raise
        return Pulled(image, top.known_as, new=before != image.id)

    def _drop_partial(self, manifest: Document) -> None:
        self._transfers.unless_busy([layer.digest for layer in manifest.layers], self._store.layout.drop_partial)

    def _identity(self) -> str:
        there = self._store.tagged(self._name.familiar)
        return there.id if there else ""

    def _manifest(self, top: Document) -> Document:
        if not top.is_index:
            return top
        entry = documents.choose(top, self._wanted or platforms.host())
        found = self._client.manifest(Reference(self._name.registry, self._name.repository, "", entry.digest))
        if found.is_index:
            raise DataLoss(f"index {top.digest} of {self._name.familiar} leads to another index: refused")
        return found

    def _check(self, raw: bytes, manifest: Document) -> None:
        config = checked_config(raw)
        offered = platforms.of_document(config)
        if offered and offered.os != "linux":
            raise InvalidParameter(f'image operating system "{offered.os}" cannot be used on this platform: it has a Linux kernel')
        if self._wanted and offered and platforms.rank(self._wanted, offered) is None:
            raise NotFound(
                f"image with reference {self._name.familiar} was found but its platform ({offered}) does not match "
                f"the specified platform ({self._wanted})"
            )
        if len(config["rootfs"]["diff_ids"]) != len(manifest.layers):
            raise DataLoss(
                f"the manifest of {self._name.familiar} lists {len(manifest.layers)} layers, its configuration {len(config['rootfs']['diff_ids'])}"
            )
        for layer in manifest.layers:
            if layer.media_type and not media.is_layer(layer.media_type):
                raise InvalidParameter(f"{self._name.familiar} has a layer of type {layer.media_type}, which is no archive of files")

    def _sources(self, layers: list[Descriptor], diffs: list[str]) -> list[Source]:
        """Only blobs that were compared, now or when they came from elsewhere: a manifest may claim anything of a layer that is here."""
        return [
            Source(diff, self._where, layer.digest, layer.size_bytes, layer.media_type)
            for layer, diff in zip(layers, diffs, strict=True)
            if layer.media_type and not media.is_foreign(layer.media_type)
            and (layer.digest in self._compared or layer.digest in {known.digest for known in self._store.sources_of(diff)})
        ]

    def bring(self, layer: Descriptor, diff: str, parent: str, chain: str) -> None:
        """One layer alone, of which the caller knows what it is; whoever needs it holds its chain. Blocks."""
        self._layer(layer, diff, parent, chain, Line(self._report, short(layer.digest)))

    # -- layers ---------------------------------------------------------------------------------------

    def _fetch(self, layers: list[Descriptor], diffs: list[str], chains: list[str]) -> None:
        work: list[tuple[Descriptor, str, str, str, Line]] = []
        for layer, diff, parent, chain in zip(layers, diffs, chains, chains[1:], strict=False):
            line = Line(self._report, short(layer.digest))
            if self._store.has_layer(chain):
                line.say("Already exists")
            else:
                line.say("Pulling fs layer")
                work.append((layer, diff, parent, chain, line))
        if not work:
            return
        with ThreadPoolExecutor(min(len(work), self._transfers.max_downloads + 1), thread_name_prefix="layer") as pool:
            futures = [pool.submit(self._layer, *item) for item in work]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            if failure := _first_failure(list(done)):
                self._stop()
                for future in futures:
                    future.cancel()
                wait(futures)
                raise _first_failure([future for future in futures if not future.cancelled()]) or failure

    def _stop(self) -> None:
        """Ends the others, where that helps nobody; what they have brought is kept for the next pull."""
        if self._whole:
            self._cancelled.set()
            self._client.close()

    def _layer(self, layer: Descriptor, diff: str, parent: str, chain: str, line: Line) -> None:
        with self._transfers.alone(layer.digest, self._cancelled):
            if self._cancelled.is_set():
                raise Cancelled("the pull was cancelled")
            if not self._store.has_layer(chain) and not self._take_from_another(layer, diff, parent, line):
                self._bring(layer, diff, parent, line)
        line.say("Pull complete")

    def _take_from_another(self, layer: Descriptor, diff: str, parent: str, line: Line) -> bool:
        """Where the same layer lies on another one here, it is unpacked from there: nothing of it has to come again."""
        loose = self._store.unpack_again(diff)
        if loose is None:
            return False
        if layer.digest not in self._compared:
            line.advance("Extracting", layer.size_bytes, layer.size_bytes)
        self._keep(loose, parent)
        return True

    def _bring(self, layer: Descriptor, diff: str, parent: str, line: Line) -> None:
        partial = self._open(layer)
        try:
            self._unpack(partial, layer, diff, parent, line)
        except (DataLoss, InvalidParameter):
            partial.discard()
            raise
        finally:
            partial.close()

    def _keep(self, loose: Loose, parent: str) -> None:
        try:
            kept = self._store.keep_layers([(loose, parent)])
        except BaseException:
            self._store.layers.drop(loose)
            raise
        with self._lock:
            self._kept += kept

    def _open(self, layer: Descriptor) -> Partial:
        try:
            return Partial(self._store.layout.partial, layer.digest, layer.size_bytes)
        except Conflict:
            raise Conflict(f"layer {layer.digest} is being fetched by another engine with the same data root") from None

    def _unpack(self, partial: Partial, layer: Descriptor, diff: str, parent: str, line: Line) -> None:
        downloading = _Downloading(self, partial, layer, line)
        downloading.start()
        observer = _Observer(layer.digest, layer.size_bytes, line, downloading)
        reader = ArrivingReader(partial, observer)
        try:
            try:
                loose = self._store.layers.unpack(open_stream(reader))
            except DataLoss as error:
                _compare(reader, observer, layer)  # bytes that were changed on the way make an archive that is broken
                raise DataLoss(f"layer {layer.digest} of {self._name.familiar}: {error}") from error
            except InvalidParameter as error:
                raise InvalidParameter(f"layer {layer.digest} of {self._name.familiar}: {error}") from error
            try:
                _compare(reader, observer, layer)
                if loose.diff != diff:
                    raise DataLoss(f"layer {layer.digest} unpacks to {loose.diff}, the image's configuration says {diff}")
            except BaseException:
                self._store.layers.drop(loose)
                raise
            downloading.join()  # it looks at the partial file until the end
            line.advance("Extracting", layer.size_bytes, layer.size_bytes)
            with self._lock:
                self._compared.add(layer.digest)
            if media.is_foreign(layer.media_type) and layer.urls:
                self._store.foreign.keep(Foreign(diff, layer.digest, layer.size_bytes, layer.media_type, layer.urls))
            self._keep(loose, parent)
            partial.discard()
        except BaseException as error:
            partial.fail(error)
            self._stop()
            raise
        finally:
            downloading.join()

    def download(self, layer: Descriptor, partial: Partial, line: Line) -> None:
        """Of one layer, once there is a slot for it."""
        if not self._transfers.slots.acquire(blocking=False):
            line.say("Waiting")
            while not self._transfers.slots.acquire(timeout=_CANCEL_CHECK_S):
                if self._cancelled.is_set():
                    raise Cancelled("the pull was cancelled")
        try:
            present = partial.present_bytes
            lock = threading.Lock()

            def progress(count: int) -> None:
                nonlocal present
                with lock:
                    present += count
                line.advance("Downloading", present, layer.size_bytes)

            self._client.download(self._name.repository, layer, partial, progress, line.retrying)
        finally:
            self._transfers.slots.release()


class _Downloading:
    """The thread that brings a layer's bytes, whose failure the reader of the partial gets."""

    def __init__(self, pull: Pull, partial: Partial, layer: Descriptor, line: Line) -> None:
        self._pull = pull
        self._partial = partial
        self._layer = layer
        self._line = line
        self._thread = threading.Thread(target=self._run, name=f"download-{short(layer.digest)}")
        self.complete = False

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        try:
            self._pull.download(self._layer, self._partial, self._line)
            self.complete = True
            self._line.say("Verifying Checksum")
            self._line.say("Download complete")
        except BaseException as error:
            self._partial.fail(error)


class _Observer:
    """Hashes what is read, and says how far unpacking has got once the download is over."""

    def __init__(self, digest: str, size_bytes: int, line: Line, downloading: _Downloading) -> None:
        self._hasher = digests.hasher(digest)
        self._size_bytes = size_bytes
        self._seen = 0
        self._line = line
        self._downloading = downloading

    def update(self, data: bytes, /) -> None:
        self._hasher.update(data)
        self._seen += len(data)
        if self._downloading.complete:
            self._line.advance("Extracting", self._seen, self._size_bytes)

    @property
    def digest(self) -> str:
        return digests.text_of(self._hasher)


def _compare(reader: ArrivingReader, observer: _Observer, layer: Descriptor) -> None:
    """Reads what follows the archive, and holds the blob's digest against the manifest's."""
    while reader.read(1 << 20):
        pass
    if observer.digest != layer.digest:
        raise DataLoss(f"layer {layer.digest} came from the registry with digest {observer.digest}: it was changed on the way or in the registry")


def _first_failure(done: list[Future[None]]) -> BaseException | None:
    failures = [failure for future in done if (failure := future.exception())]
    real = [failure for failure in failures if not isinstance(failure, Cancelled)]
    return next(iter([*real, *failures]), None)


def _is_final(error: BaseException) -> bool:
    """Whether the same pull would end the same way: then nothing of it stays."""
    return isinstance(error, DataLoss | InvalidParameter | SystemFailure) or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT))
