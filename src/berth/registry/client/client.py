"""What can be asked of a registry: manifests, blobs, tags, referrers, search. OCI distribution specification 1.1."""

import http.client
import json
import logging
import threading
from collections.abc import Callable, Iterator
from typing import IO, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from berth.errors import BerthError, Cancelled, Conflict, DataLoss, InvalidParameter, NotFound, Unauthorized, Unavailable
from berth.oci import digest as digests
from berth.oci.reference import Reference
from berth.registry import documents, media
from berth.registry.client import referrers
from berth.registry.client.answer import Answer
from berth.registry.client.challenge import Credentials
from berth.registry.client.download import Download, tell
from berth.registry.client.failures import RefusedAnswer, of_pull, of_request, refused_head
from berth.registry.client.keeping import Keeper
from berth.registry.client.session import Session, Waiting
from berth.registry.client.settings import DOCKER_HUB, Endpoint, Settings
from berth.registry.client.upload import Memory, Source, Upload
from berth.registry.documents import Descriptor, Document
from berth.store.partial import Partial

log = logging.getLogger("berth.registry")

_MOST_CONFIG_BYTES = 16 << 20
_MOST_LIST_BYTES = 16 << 20
_MOST_PAGES = 1000
_PAGE_ENTRIES = 1000
_MOST_CHANGES = 5  # of a list, by others, while we change it
_SEARCH_HOST = "index.docker.io"

Progress = Callable[[int], None]
Result = TypeVar("Result")


class RegistryClient:
    """One registry, for one person. Methods may be called from many threads; `close` ends what they do."""

    def __init__(
        self, registry: str, settings: Settings, credentials: Credentials | None = None, cancelled: threading.Event | None = None,
        keeper: Keeper | None = None,
    ) -> None:  # fmt: skip
        self.registry = registry
        self.settings = settings
        self._session = Session(registry, settings, credentials, cancelled, keeper)
        self._mirror: Endpoint | None = None  # gave the last manifest

    def close(self) -> None:
        self._session.close()

    def release(self) -> None:
        """Closes after work that came to a good end: its connections and tokens are kept for the next client, see keeping.py."""
        self._session.release()

    def __enter__(self) -> "RegistryClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- manifests ------------------------------------------------------------------------------------

    def manifest(self, name: Reference) -> Document:
        """What a tag or digest names. NotFound in Docker's words; DataLoss where the bytes have another digest.

        Docker Hub's mirrors are asked first; one that fails, in whatever way, is passed over.
        """
        for mirror in self.settings.endpoints(self.registry, pull=True):
            if not mirror.mirror:
                continue
            try:
                found = self._manifest(mirror, name)
                self._mirror = mirror
                return found
            except Cancelled:
                raise
            except BerthError as error:
                log.warning("mirror %s: %s", mirror.host, error)
        self._mirror = None
        return self._manifest(self._session.endpoint(pull=True), name)

    def _manifest(self, endpoint: Endpoint, name: Reference) -> Document:
        wanted = name.digest or name.tag
        headers = {"Accept": ", ".join(media.ACCEPTED)}
        target = f"/v2/{name.repository}/manifests/{quote(wanted, safe=':')}"
        try:
            answer = self._session.fetch(
                "GET", endpoint, target, documents.MAX_MANIFEST_BYTES, scope=_pull_scope(name.repository), headers=headers
            )
        except RefusedAnswer as refused:
            raise of_pull(refused.refusal, name.familiar_name, name.familiar) from None
        if answer.status != 200:
            raise of_pull(answer.refusal(), name.familiar_name, name.familiar)
        claimed = name.digest or answer.header("Docker-Content-Digest")
        if not digests.is_known(claimed):  # of an algorithm that nobody here can compare
            return documents.parse(answer.body, answer.header("Content-Type"))
        documents.check(answer.body, claimed, "manifest")
        found = documents.parse(answer.body, answer.header("Content-Type"))
        found.known_as = claimed
        return found

    def describe(self, name: Reference) -> Descriptor | None:
        """The descriptor of what a tag or digest names, by a HEAD request; None where there is none."""
        headers = {"Accept": ", ".join(media.ACCEPTED)}
        target = f"/v2/{name.repository}/manifests/{quote(name.digest or name.tag, safe=':')}"
        answer = self._ask("HEAD", target, _pull_scope(name.repository), headers)
        answer.finish()
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise of_request(refused_head(answer.status, answer.url))
        size = answer.header("Content-Length")
        digest = answer.header("Docker-Content-Digest")
        if not digests.is_sha256(digest) or not (size.isascii() and size.isdigit() and len(size) < 10):
            return self._manifest(self._session.endpoint(pull=False), name).descriptor
        return Descriptor(answer.header("Content-Type").partition(";")[0], digest, int(size))

    def put_manifest(self, repository: str, name: str, raw: bytes, media_type: str) -> str:
        """Stores a manifest under a tag or its digest; returns its digest. Safe to repeat.

        One that refers to another is put into that one's list by us where the registry says not that it has done so.
        """
        digest, subject = self._put_manifest(repository, name, raw, media_type)
        if not subject and b'"subject"' in raw:
            self._refer(repository, documents.parse(raw, media_type))
        return digest

    def _put_manifest(self, repository: str, name: str, raw: bytes, media_type: str, match: str = "") -> tuple[str, str]:
        """-> its digest, and that of the manifest to whose list the registry has added it. match: only if the tag has this ETag."""
        target = f"/v2/{repository}/manifests/{quote(name, safe=':')}"
        headers = {"Content-Type": media_type, **({"If-Match": match} if match else {})}
        answer = self._ask("PUT", target, _push_scope(repository), headers, raw)
        if answer.status not in (200, 201, 202):
            raise of_request(answer.refusal())
        answer.finish()
        digest = documents.digest_of(raw)
        claimed = answer.header("Docker-Content-Digest")
        if digests.is_known(claimed) and claimed != digests.of(raw, claimed):
            raise DataLoss(f"the registry stored manifest {digest} as {claimed}")
        return digest, answer.header("OCI-Subject")

    def _refer(self, repository: str, document: Document) -> None:
        """Adds a manifest to the list of what refers to its subject, which is an index under a tag of its own."""
        if document.subject is None:
            return
        tag = referrers.tag_of(document.subject.digest)
        for _ in range(_MOST_CHANGES):
            target = f"/v2/{repository}/manifests/{tag}"
            answer = self._fetch_from(
                self._session.endpoint(pull=False), target, _push_scope(repository), documents.MAX_MANIFEST_BYTES, {"Accept": media.OCI_INDEX}
            )
            if answer.status not in (200, 404):
                raise of_request(answer.refusal())
            if answer.status == 404:
                answer.finish()
            changed = referrers.listed(answer.body if answer.status == 200 else None, referrers.entry_of(document))
            if changed is None:
                return
            try:
                self._put_manifest(repository, tag, changed, media.OCI_INDEX, answer.header("ETag") if answer.status == 200 else "")
                return
            except Conflict:  # somebody else has added something meanwhile
                continue
        raise Conflict(f"the list of what refers to {document.subject.digest} is changed by others all the time: push again")

    def delete_manifest(self, repository: str, name: str) -> None:
        """Removes a tag or a manifest by digest."""
        answer = self._ask("DELETE", f"/v2/{repository}/manifests/{quote(name, safe=':')}", f"repository:{repository}:delete,pull,push")
        if answer.status not in (200, 202, 204):
            raise of_request(answer.refusal())
        answer.finish()

    # -- blobs ----------------------------------------------------------------------------------------

    def config(self, repository: str, descriptor: Descriptor) -> bytes:
        """A small blob, checked against its digest."""
        if descriptor.size_bytes > _MOST_CONFIG_BYTES:
            raise DataLoss(f"configuration {descriptor.digest} claims {descriptor.size_bytes} bytes; more than {_MOST_CONFIG_BYTES} is refused")
        answer = self._fetch(_blob(repository, descriptor.digest), _pull_scope(repository), descriptor.size_bytes)
        if answer.status != 200:
            raise of_request(answer.refusal())
        return documents.check(answer.body, descriptor.digest, "configuration")

    def download(
        self, repository: str, descriptor: Descriptor, partial: Partial, progress: Progress | None = None, waiting: Waiting | None = None
    ) -> None:
        """Fetches what is missing of a blob. The digest is whoever's reads the partial: it must compare before use.

        A foreign layer is asked of the registry first, then of the descriptor's own URLs.
        """

        def fetch(endpoint: Endpoint) -> None:
            targets = [_blob(repository, descriptor.digest)]
            if media.is_foreign(descriptor.media_type):
                # a manifest that came over TLS must not make us ask the machines around us, which listen without
                safe = endpoint.verify and endpoint.scheme == "https"
                schemes = ("https://",) if safe else ("https://", "http://")
                targets += [url for url in descriptor.urls if url.lower().startswith(schemes)]
            Download(self._session, endpoint, targets, _pull_scope(repository), partial, progress, waiting).run()

        try:
            self._first(fetch)
        except BaseException as error:
            tell(partial, error)
            raise

    def blob_size(self, repository: str, digest: str) -> int | None:
        """How large a blob in this repository is, None where it is not."""
        answer = self._ask("HEAD", _blob(repository, digest), _push_scope(repository))
        answer.finish()
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise of_request(refused_head(answer.status, answer.url))
        size = answer.header("Content-Length")
        return int(size) if size.isascii() and size.isdigit() and len(size) < 19 else 0

    def mount(self, repository: str, digest: str, other: str) -> bool:
        """Has another repository's blob appear in this one. False if the registry will not; nothing is sent then."""
        return Upload(self._session, self._session.endpoint(pull=False), repository, _push_scope(repository), _nothing).mount(digest, other)

    def upload(
        self, repository: str, source: Source, *, digest: str = "", size_bytes: int | None = None, mount_from: str = "",
        progress: Progress | None = None, memory: Memory | None = None, waiting: Waiting | None = None,
    ) -> tuple[str, int, bool]:  # fmt: skip
        """Sends a blob -> digest, size, whether another repository's was mounted instead. See upload.Upload."""
        endpoint = self._session.endpoint(pull=False)
        return Upload(self._session, endpoint, repository, _push_scope(repository), source, progress, memory, waiting).run(
            digest=digest, size_bytes=size_bytes, mount_from=mount_from
        )

    # -- lists ----------------------------------------------------------------------------------------

    def tags(self, name: Reference) -> list[str]:
        """All tags of a repository; NotFound in Docker's words."""
        found: list[str] = []
        for page in self._pages(f"/v2/{name.repository}/tags/list", _pull_scope(name.repository), name):
            found += [tag for tag in page.get("tags") or [] if isinstance(tag, str)]
        return found

    def repositories(self) -> list[str]:
        """The catalog, where the registry has one."""
        found: list[str] = []
        for page in self._pages("/v2/_catalog", "registry:catalog:*", None):
            found += [name for name in page.get("repositories") or [] if isinstance(name, str)]
        return found

    def _pages(self, target: str, scope: str, name: Reference | None) -> Iterator[dict]:
        target = f"{target}?n={_PAGE_ENTRIES}"
        seen = set()
        for _ in range(_MOST_PAGES):
            seen.add(target)
            answer = self._fetch(target, scope, _MOST_LIST_BYTES)
            if answer.status != 200:
                found = answer.refusal()
                raise of_pull(found, name.familiar_name, name.familiar) if name else of_request(found)
            link = answer.header("Link")
            yield _object(answer.body, answer.url)
            start, _, rest = link.partition("<")
            following, _, relation = rest.partition(">")
            if start.strip() or not following or 'rel="next"' not in relation.replace("rel=next", 'rel="next"'):
                return
            target = self._following(following, target)
            if not target or target in seen:
                raise DataLoss(f"the registry {self.registry} goes in circles: its list leads to {following[:200]!r}")
        raise DataLoss(f"the registry {self.registry} gives a list of more than {_MOST_PAGES} pages: refused")

    @staticmethod
    def _following(link: str, target: str) -> str:
        """The next page at this registry, whatever host the link names; '' where it leads nowhere."""
        try:
            parts = urlsplit(link)
        except ValueError:
            return ""
        path = parts.path or target.partition("?")[0]
        return f"{path}?{parts.query}" if path.startswith("/") and not path.startswith("//") else ""

    def referrers(self, repository: str, digest: str, artifact_type: str = "") -> list[Descriptor]:
        """What refers to a manifest; by the referrers' tag where the registry has no such endpoint."""
        query = f"?{urlencode({'artifactType': artifact_type})}" if artifact_type else ""
        scope, accept = _pull_scope(repository), {"Accept": media.OCI_INDEX}
        answer = self._fetch(f"/v2/{repository}/referrers/{digest}{query}", scope, documents.MAX_MANIFEST_BYTES, accept)
        if answer.status == 404:
            answer.finish()
            answer = self._fetch(f"/v2/{repository}/manifests/{referrers.tag_of(digest)}", scope, documents.MAX_MANIFEST_BYTES, accept)
            if answer.status == 404:
                answer.finish()
                return []
        if answer.status != 200:
            raise of_request(answer.refusal())
        index = documents.parse(answer.body, media.OCI_INDEX)
        return [entry for entry in index.manifests if not artifact_type or entry.artifact_type == artifact_type]

    # -- the registry as a whole ------------------------------------------------------------------------

    def login(self) -> str:
        """Tries the credentials; Unauthorized in Docker's words if they are not taken. Returns the identity token, or ''."""
        endpoint = self._session.endpoint(pull=False)
        self._session.authorization.wants_refresh_token = True
        status = 401
        try:
            answer = self._session.request("GET", endpoint, "/v2/")
            status = answer.status
            answer.finish()
        except RefusedAnswer as refused:
            if refused.by_token_server:
                error = of_request(refused.refusal)
                raise type(error)(f'Get "{endpoint.url("/v2/")}": {error}') from None
        if status == 200:
            return self._session.authorization.refresh_token
        phrase = http.client.responses.get(status, "")
        message = f"login attempt to {endpoint.url('/v2/')} failed with status: {status} {phrase}"
        if status in (401, 403):
            raise Unauthorized(message)
        if status == 404:
            raise NotFound(f"{message}: is this the address of a registry?")
        raise Unavailable(message)

    def search(self, term: str, limit: int) -> list[dict]:
        """The registry's index: v1's search, as Docker has it. Entries as the registry gives them."""
        if not 1 <= limit <= 100:
            raise InvalidParameter(f"limit {limit} is outside the range of [1, 100]")
        endpoint = Endpoint("https", _SEARCH_HOST) if self.registry == DOCKER_HUB else self._session.endpoint(pull=True)
        try:
            if self._session.authorization.credentials and self.registry != DOCKER_HUB:  # who may see more than anybody has to say who it is
                self._session.request("GET", endpoint, "/v2/").finish()
            answer = self._session.fetch("GET", endpoint, f"/v1/search?{urlencode({'q': term, 'n': limit})}", _MOST_LIST_BYTES)
        except RefusedAnswer as refused:
            raise of_request(refused.refusal) from None
        if answer.status == 404:
            raise NotFound(f"{self.registry} cannot be searched: it answered 404 to {endpoint.url('/v1/search')}, as registries do that have no index")
        if answer.status != 200:
            raise of_request(answer.refusal())
        results = _object(answer.body, answer.url).get("results")
        return [entry for entry in results if isinstance(entry, dict)][:limit] if isinstance(results, list) else []

    # -- shared ---------------------------------------------------------------------------------------

    def _ask(self, method: str, target: str, scope: str, headers: dict[str, str] | None = None, body: bytes = b"") -> Answer:
        try:
            return self._session.request(method, self._session.endpoint(pull=False), target, scope=scope, headers=headers, body=body)
        except RefusedAnswer as refused:
            raise of_request(refused.refusal) from None

    def _fetch_from(self, endpoint: Endpoint, target: str, scope: str, limit_bytes: int, headers: dict[str, str] | None) -> Answer:
        try:
            return self._session.fetch("GET", endpoint, target, limit_bytes, scope=scope, headers=headers)
        except RefusedAnswer as refused:
            raise of_request(refused.refusal) from None

    def _fetch(self, target: str, scope: str, limit_bytes: int, headers: dict[str, str] | None = None) -> Answer:
        def fetch(endpoint: Endpoint) -> Answer:
            answer = self._fetch_from(endpoint, target, scope, limit_bytes, headers)
            if endpoint.mirror and answer.status != 200:
                raise of_request(answer.refusal())
            return answer

        return self._first(fetch)

    def _first(self, work: Callable[[Endpoint], Result]) -> Result:
        """`work` with the mirror that gave the manifest, and where that fails with the registry itself."""
        if self._mirror:
            try:
                return work(self._mirror)
            except Cancelled:
                raise
            except BerthError as error:
                log.warning("mirror %s: %s", self._mirror.host, error)
        return work(self._session.endpoint(pull=True))


def _nothing(offset: int) -> IO[bytes]:
    raise AssertionError("a mount sends nothing")


def _pull_scope(repository: str) -> str:
    return f"repository:{repository}:pull"


def _push_scope(repository: str) -> str:
    return f"repository:{repository}:pull,push"


def _blob(repository: str, digest: str) -> str:
    return f"/v2/{repository}/blobs/{digest}"


def _object(raw: bytes, url: str) -> dict:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise DataLoss(f"{url} answered with something else than JSON: {error}") from None
    if not isinstance(value, dict):
        raise DataLoss(f"{url} answered with JSON that is not an object")
    return value
