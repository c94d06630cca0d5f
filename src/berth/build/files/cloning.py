"""Checks a Git repository out with the git program, which reads no settings of this host, runs no hook and asks nobody."""

import base64
import os
import re
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from threading import Event
from typing import IO

from berth.build.files.git import Repository
from berth.build.files.places import cleaned, resolve
from berth.errors import Cancelled, InvalidParameter, NotImplementedHere, Unavailable
from berth.store.tarwriter import open_below
from berth.store.trees import remove_tree

_TIMEOUT_S = 1800.0
_POLL_S = 0.2
_MOST_FILE_BYTES = 16 << 30  # of a single file that git writes
_MOST_OUTPUT_BYTES = 16 << 20
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_NETWORK = re.compile(r"Could not resolve|Connection (refused|reset|timed out)|unable to (connect|access)")
_UNKNOWN_HOST = "\nThe engine's host does not know this server: add its key to /etc/ssh/ssh_known_hosts there (ssh-keyscan prints it; see that it is the right one)"
_WORK = ".berth-checkout"
_KEPT = ("PATH", "http_proxy", "https_proxy", "no_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "LANG")
# What a repository's owner could otherwise make git do here: read local paths, run programs, write outside (git-config(1)).
_SETTINGS = (
    ("protocol.allow", "never"), ("protocol.https.allow", "always"), ("protocol.http.allow", "always"), ("protocol.ssh.allow", "always"),
    ("protocol.git.allow", "always"), ("core.hooksPath", "/dev/null"), ("core.fsmonitor", "false"), ("core.protectNTFS", "true"),
    ("core.protectHFS", "true"), ("credential.helper", ""), ("gc.auto", "0"), ("maintenance.auto", "false"), ("advice.detachedHead", "false"),
    ("http.lowSpeedLimit", "1000"), ("http.lowSpeedTime", "60"), ("transfer.credentialsInUrl", "allow"), ("safe.directory", "*"),
)  # fmt: skip


class Access:
    """How repositories that are not public are reached. token: for http. ssh_socket: of an agent. known_hosts: a file."""

    __slots__ = ("known_hosts", "ssh_socket", "token")

    def __init__(self, *, token: str = "", ssh_socket: str = "", known_hosts: str = "") -> None:
        self.token = token
        self.ssh_socket = ssh_socket
        self.known_hosts = known_hosts


class Git:
    """Runs git for one repository, blocking. stop: set by another thread that wants no more of it."""

    def __init__(
        self, repository: Repository, *, environment: Mapping[str, str] | None = None, access: Access | None = None, stop: Event | None = None,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:  # fmt: skip
        program = shutil.which("git")
        if not program:
            raise NotImplementedHere("a Git repository needs the program git on the engine's host, where it is not installed")
        self._program = program
        self._repository = repository
        self._stop = stop or Event()
        self._ends_s = time.monotonic() + timeout_s
        self._environment = _environment(repository, environment if environment is not None else os.environ, access or Access())

    def commit(self) -> str:
        """Which commit the URL means now: what a cache goes by. An abbreviated one is left as it is."""
        ref = self._repository.ref
        if _COMMIT.fullmatch(ref):
            return self._checked(ref)
        if not ref:
            found = self._refs(["HEAD"]).get("HEAD", "")
        else:
            refs = self._refs([ref, f"{ref}^{{}}"])
            tag = f"refs/tags/{ref.removeprefix('refs/tags/')}"
            names = (ref, f"refs/{ref.removeprefix('refs/')}", f"refs/heads/{ref.removeprefix('refs/heads/')}", f"{tag}^{{}}", tag)
            # git-checkout(1) prefers a branch. A tag that is an object of its own counts as what it points to.
            found = next((refs.get(f"{name}^{{}}", refs[name]) for name in names if name in refs), "")
        if not found:
            if re.fullmatch(r"[0-9a-f]{7,39}", ref):
                return ref
            raise InvalidParameter(f"repository {self._shown()} does not contain ref {ref or 'HEAD'!r}")
        return self._checked(found)

    def _checked(self, commit: str) -> str:
        checksum = self._repository.checksum
        if checksum and not commit.startswith(checksum):
            raise InvalidParameter(f"expected checksum to match {checksum}, got {commit}, of {self._shown()}")
        return commit

    def _refs(self, names: Sequence[str]) -> dict[str, str]:
        """Full name -> what it points to, of those that end so."""
        lines = self._run(["ls-remote", "--", "origin", *names], "/").splitlines()
        return {name: commit for commit, _, name in (line.partition("\t") for line in lines) if _COMMIT.fullmatch(commit)}

    def checkout(self, into: str, *, keep_git: bool = False, submodules: bool = True) -> str:
        """The files, or those of the subdirectory, in the directory `into`, which is empty -> the commit."""
        work = f"{into}/{_WORK}"
        os.mkdir(work, 0o755)
        top_fd = os.open(into, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            commit = self._checkout(work, submodules)
            if not keep_git:
                _remove_git(work)
            else:
                with suppress(FileNotFoundError):
                    os.unlink(f"{work}/.git/FETCH_HEAD")  # where the URL is, and what it has of passwords
            self._move_up(top_fd, self._repository.subdirectory)
            return commit
        finally:
            remove_tree(top_fd, _WORK)
            os.close(top_fd)

    def _checkout(self, work: str, submodules: bool) -> str:
        self._run(["init", "-q", "--template=", "-b", "main", "."], work)
        wanted = self.commit()
        if _COMMIT.fullmatch(wanted):
            try:
                self._fetch(work, ["--depth=1", "--", "origin", wanted])
            except (InvalidParameter, Unavailable):  # a server that gives no single commits, or is no program at all
                self._fetch(work, ["--tags", "--", "origin", "+refs/*:refs/berth/*"])
        else:
            self._fetch(work, ["--tags", "--", "origin", "+refs/*:refs/berth/*"])
        commit = self._run(["rev-parse", "--verify", "--end-of-options", f"{wanted}^{{commit}}"], work).strip()
        self._run(["checkout", "-q", "--force", "--detach", self._checked(commit)], work)
        if submodules and self._repository.submodules is not False and os.path.lexists(f"{work}/.gitmodules"):
            self._run(["submodule", "--quiet", "update", "--init", "--recursive", "--depth=1"], work)
        return commit

    def _fetch(self, work: str, arguments: Sequence[str]) -> None:
        self._run(["fetch", "-q", "--force", "--no-recurse-submodules", "--no-auto-maintenance", "--update-head-ok", *arguments], work)

    def _move_up(self, top_fd: int, subdirectory: str) -> None:
        """The contents of the subdirectory become those of the top; no link leads out of the checkout."""
        work_fd = open_below(top_fd, _WORK, os.O_RDONLY | os.O_DIRECTORY)
        try:
            place = resolve(work_fd, cleaned(subdirectory))
            if not place.is_directory:
                raise InvalidParameter(f"repository {self._shown()} has no directory {subdirectory!r}")
            source_fd = open_below(work_fd, place.path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                for name in os.listdir(source_fd):
                    if name == _WORK:
                        raise InvalidParameter(f"repository {self._shown()} has an entry {_WORK!r}, a name that is taken")
                    os.rename(name, name, src_dir_fd=source_fd, dst_dir_fd=top_fd)
            finally:
                os.close(source_fd)
        finally:
            os.close(work_fd)

    def _shown(self) -> str:
        return _without_password(self._repository.remote)

    def _run(self, arguments: Sequence[str], directory: str) -> str:
        """What git writes. InvalidParameter or Unavailable with what it says of its failure."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                [self._program, *arguments], cwd=directory, env=self._environment, stdin=subprocess.DEVNULL, stdout=out, stderr=errors,
                start_new_session=True, umask=0o022,
            )  # fmt: skip
            try:
                with suppress(ProcessLookupError):
                    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (_MOST_FILE_BYTES, _MOST_FILE_BYTES))
                self._wait(process, arguments[0])
            finally:
                if process.returncode is None:
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            written, text = (_read(file) for file in (out, errors))
        if process.returncode:
            text = self._redacted(text.strip() or f"it ended with {process.returncode}")
            kind = Unavailable if _NETWORK.search(text) else InvalidParameter
            hint = _UNKNOWN_HOST if "Host key verification failed" in text else ""
            raise kind(f"git {arguments[0]} of {self._shown()} failed: {text[-2000:]}{hint}")
        return written

    def _wait(self, process: "subprocess.Popen[bytes]", what: str) -> None:
        while True:
            if self._stop.is_set():
                raise Cancelled(f"nobody wants {self._shown()} any more")
            if time.monotonic() > self._ends_s:
                raise Unavailable(f"git {what} of {self._shown()} took too long: given up")
            with suppress(subprocess.TimeoutExpired):
                process.wait(_POLL_S)
                return

    def _redacted(self, text: str) -> str:
        return text.replace(self._repository.remote, self._shown()) if self._repository.remote != self._shown() else text


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read(_MOST_OUTPUT_BYTES).decode(errors="surrogateescape")


def _without_password(remote: str) -> str:
    return re.sub(r"(\A[a-z]+://)[^/@]*:[^/@]*@", r"\1", remote)


def _remove_git(work: str) -> None:
    """`.git` at the top and, as files that say where it is, in submodules."""
    for directory, directories, files in os.walk(work):
        if ".git" in directories or ".git" in files:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                remove_tree(fd, ".git")
            finally:
                os.close(fd)
            if ".git" in directories:
                directories.remove(".git")


def _environment(repository: Repository, environment: Mapping[str, str], access: Access) -> dict[str, str]:
    """All that git gets to know of this host. What it is to keep to itself is here and not in its arguments, which everybody can read."""
    settings = [*_SETTINGS, ("remote.origin.url", repository.remote)]
    if access.token:
        scheme, _, rest = repository.remote.partition("://")
        host = rest.partition("/")[0].rpartition("@")[2]
        header = base64.b64encode(f"x-access-token:{access.token}".encode()).decode()
        settings.append((f"http.{scheme}://{host}/.extraheader", f"Authorization: basic {header}"))
    ssh = ["ssh", "-F", "/dev/null", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=30"]
    if access.known_hosts:
        ssh += ["-o", f"UserKnownHostsFile={_quoted(access.known_hosts)}"]
    if not access.ssh_socket:
        ssh += ["-o", "IdentityAgent=none", "-o", "IdentityFile=none"]
    return {
        **{name: environment[name] for name in _KEPT if name in environment},
        **({"SSH_AUTH_SOCK": access.ssh_socket} if access.ssh_socket else {}),
        **{f"GIT_CONFIG_KEY_{index}": key for index, (key, _) in enumerate(settings)},
        **{f"GIT_CONFIG_VALUE_{index}": value for index, (_, value) in enumerate(settings)},
        "GIT_CONFIG_COUNT": str(len(settings)), "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_ATTR_NOSYSTEM": "1",
        "HOME": "/dev/null", "XDG_CONFIG_HOME": "/dev/null", "GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "/bin/false", "SSH_ASKPASS": "/bin/false",
        "GIT_TEMPLATE_DIR": "", "GIT_ALLOW_PROTOCOL": "http:https:ssh:git", "GIT_PROTOCOL_FROM_USER": "0", "GIT_SSH_COMMAND": " ".join(ssh),
        "GIT_LFS_SKIP_SMUDGE": "1", "LC_ALL": "C",
    }  # fmt: skip


def _quoted(path: str) -> str:
    return "'" + path.replace("'", "'\\''") + "'"
