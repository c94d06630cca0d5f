"""URLs of Git repositories as builds write them, and what gets them: the git program, which trusts nothing of this host.

    https://HOST/REPOSITORY.git#REF:DIRECTORY    http, ssh and git as well
    git@HOST:REPOSITORY#REF:DIRECTORY            as scp writes it
    github.com/OWNER/REPOSITORY                  for contexts only
    ...?ref=, tag=, branch=, subdir=, commit=, checksum=, keep-git-dir=, submodules=
"""

import re
from urllib.parse import parse_qsl, unquote, urlsplit

from berth.errors import InvalidParameter

_SCP = re.compile(r"(?:([A-Za-z0-9_.-]+)@)([A-Za-z0-9.-]+):(?!//)([^#?]+)(?:\?([^#]*))?(?:#(.*))?\Z")
_SCHEME = re.compile(r"([A-Za-z0-9+.-]+)://")
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?\Z")


class Repository:
    """remote: what git is given. ref: branch, tag or commit; '' for the default branch. subdirectory: '' for the top.

    checksum: the commit that it has to be, or how it starts. keep_git, submodules: None where the URL does not say.
    """

    __slots__ = ("checksum", "keep_git", "ref", "remote", "subdirectory", "submodules")

    def __init__(self, remote: str) -> None:
        self.remote = remote
        self.ref = self.subdirectory = self.checksum = ""
        self.keep_git: bool | None = None
        self.submodules: bool | None = None

    @property
    def name(self) -> str:
        """What a directory of it is called."""
        return self.remote.rstrip("/").rpartition("/")[2].rpartition(":")[2].removesuffix(".git")


def is_repository(text: str, *, context: bool = False) -> bool:
    """Whether a source or, with `context`, the context of a build is a Git repository and not a file or a download."""
    if context and (text.startswith("github.com/") or (text.startswith(("http://", "https://")) and ".git" in urlsplit(text).path)):
        return text.startswith("github.com/") or urlsplit(text).path.endswith(".git")
    scheme = _SCHEME.match(text)
    if not scheme:
        return bool(_SCP.match(text))
    if scheme[1].lower() in ("http", "https"):
        return urlsplit(text).path.endswith(".git")
    return scheme[1].lower() in ("git", "ssh")


def parse(text: str) -> Repository:
    """InvalidParameter for what is no repository's URL, or asks for two things at once."""
    if re.search(r"[\0-\x20\x7f]", text):
        raise InvalidParameter(f"{text!r} has a space or a control character in it, which no repository's URL has")
    if text.startswith("github.com/"):
        text = f"https://{text}"
    scheme = _SCHEME.match(text)
    if scheme:
        if scheme[1].lower() not in ("http", "https", "ssh", "git"):
            raise InvalidParameter(f"{text!r}: repositories are reached by https, http, ssh or git, not by {scheme[1]}")
        parts = urlsplit(text)
        if not parts.hostname or parts.hostname.startswith("-"):
            raise InvalidParameter(f"{text!r} names no host")
        repository = Repository(f"{scheme[1].lower()}://{parts.netloc}{parts.path}")
        query, fragment = parts.query, unquote(parts.fragment)
    else:
        match = _SCP.match(text)
        if not match or match[2].startswith("-") or match[1].startswith("-"):
            raise InvalidParameter(f"{text!r} is no URL of a Git repository")
        repository = Repository(f"{match[1]}@{match[2]}:{match[3]}")
        query, fragment = match[4] or "", match[5] or ""
    _read_fragment(repository, fragment)
    _read_query(repository, query)
    _check(repository)
    return repository


def _read_fragment(repository: Repository, fragment: str) -> None:
    if not fragment.startswith("#"):
        repository.ref, _, repository.subdirectory = fragment.partition(":")
        return
    for field in filter(None, fragment[1:].split(",")):
        key, equals, value = field.partition("=")
        if not equals:
            raise InvalidParameter(f"invalid field {field!r}: it must be a key=value pair")
        _set(repository, key.lower(), value, ("ref", "commit", "subdir"))
    if repository.checksum and not repository.ref:
        repository.ref = repository.checksum


def _read_query(repository: Repository, query: str) -> None:
    seen: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key in seen:
            raise InvalidParameter(f'query "{key}" has multiple values')
        if not value and key not in ("keep-git-dir", "submodules"):
            raise InvalidParameter(f'query "{key}" has no value')
        seen[key] = value
    if "tag" in seen and "branch" in seen:
        raise InvalidParameter("branch conflicts with tag")
    for key, value in seen.items():
        _set(repository, key, value, ("ref", "tag", "branch", "subdir", "commit", "checksum", "keep-git-dir", "submodules"))
    if repository.checksum and not repository.ref:
        repository.ref = repository.checksum


def _set(repository: Repository, key: str, value: str, known: tuple[str, ...]) -> None:
    if key not in known:
        raise InvalidParameter(f'unexpected "{key}" in the URL of a repository; known are {", ".join(known)}')
    if key in ("tag", "branch"):
        prefix = "refs/tags/" if key == "tag" else "refs/heads/"
        key, value = "ref", value if value.startswith(prefix) else prefix + value
    if key == "ref":
        if repository.ref not in ("", value):
            raise InvalidParameter(f'ref conflicts: "{repository.ref}" vs "{value}"')
        repository.ref = value
    elif key == "subdir":
        if repository.subdirectory not in ("", value):
            raise InvalidParameter(f'subdir conflicts: "{repository.subdirectory}" vs "{value}"')
        repository.subdirectory = value
    elif key in ("commit", "checksum"):
        repository.checksum = value
    else:
        flag = {"": True, "1": True, "t": True, "true": True, "0": False, "f": False, "false": False}.get(value.lower())
        if flag is None:
            raise InvalidParameter(f'invalid {key} value: "{value}"')
        if key == "submodules":
            repository.submodules = flag
        else:
            repository.keep_git = flag


def _check(repository: Repository) -> None:
    """What git would take for an option, or for something other than one ref."""
    ref = repository.ref
    if ref.startswith("-") or ".." in ref or re.search(r"[\0-\x20~^:?*\[\\\x7f]|@\{", ref):
        raise InvalidParameter(f"{ref!r} is no name of a branch, tag or commit")
    if repository.checksum and not re.fullmatch(r"[0-9a-f]{7,64}", repository.checksum):
        raise InvalidParameter(f"invalid checksum {repository.checksum!r}: it is to be a commit, of 7 to 64 hexadecimal digits")
