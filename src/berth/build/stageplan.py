"""One stage of a Dockerfile: what its instructions make of the one that it starts from. Pure."""

import json
import posixpath
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from berth.build import graph
from berth.build.dockerfile import instructions as words
from berth.build.dockerfile.errors import DockerfileError
from berth.build.dockerfile.expanding import placed
from berth.build.dockerfile.ports import exposed
from berth.build.dockerfile.scopes import Scope
from berth.build.dockerfile.stages import is_remote
from berth.build.dockerfile.suggesting import nearest
from berth.build.files import git
from berth.build.files.modes import parse_chmod
from berth.build.graph import Step, Vertex
from berth.build.options import DEFAULT_PATH, PROXIES
from berth.errors import InvalidParameter, NotImplementedHere
from berth.linux import signals
from berth.oci import digest as digests
from berth.oci import platforms

if TYPE_CHECKING:
    from berth.build.planning import Planner

_DEFAULT_SHELL = ("/bin/sh", "-c")


class State:
    """A stage while its instructions are gone through."""

    def __init__(self, vertex: Vertex, platform: str) -> None:
        self.vertex = vertex
        self.platform = platform
        self.config: dict[str, Any] = {}
        self.env: dict[str, str] = {}
        self.scope: Scope
        self.author = ""
        self.base_history: list[dict[str, Any]] = []
        self.base_vertex: Vertex | None = None
        self.steps: list[Step] = []
        self.triggers: list[str] = []
        self.command_set = False

    def child(self) -> "State":
        """For a stage that starts from this one."""
        other = State(self.vertex, self.platform)
        other.config, other.env = {**self.config}, {**self.env}
        other.author, other.base_history, other.base_vertex = self.author, self.base_history, self.base_vertex
        other.steps = [*self.steps]
        other.triggers = list(other.config.pop("OnBuild", None) or [])
        return other

    @property
    def shell(self) -> tuple[str, ...]:
        return tuple(self.config.get("Shell") or _DEFAULT_SHELL)

    @property
    def directory(self) -> str:
        return str(self.config.get("WorkingDir") or "/")


class Stage:
    """Goes through a stage's instructions."""

    def __init__(self, planner: "Planner", stage: words.Stage, state: State) -> None:
        self._planner = planner
        self._options = planner.options
        self._stage = stage
        self._state = state
        self._title = ""
        self._fresh = self._options.no_cache or bool(self._options.no_cache_stages & {stage.name, str(stage.index)})
        self._seen: dict[str, int] = {}
        self._declared: dict[str, None] = {}  # by this stage's own ARG, in order

    def go(self, instructions: list[words.Instruction]) -> None:
        total, number = count(instructions) + 1, 1
        for each in instructions:
            number += isinstance(each, _MAKING)
            self._title = f"[{self._planner.title(self._stage, self._state.platform)} {number}/{total}]"
            expanded, _ = self._state.scope.step(each)
            _HANDLERS[type(each)](self, expanded)
        if self._state.env:
            self._state.config["Env"] = [f"{key}={value}" for key, value in self._state.env.items()]

    # -- helpers ----------------------------------------------------------------------------------------

    def _note(self, created_by: str, vertex: Vertex | None = None) -> None:
        self._state.steps.append(Step(created_by, vertex))

    def _vertex(self, op: graph.Op, inputs: tuple[Vertex, ...], at: words.Instruction, *, fresh: bool = True) -> Vertex:
        word = at.text.partition(" ")[0].upper()
        number = self._seen[word] = self._seen.get(word, 0) + 1
        return Vertex(
            op, inputs, label=f"{self._title} {at.text}", instruction=at.text, line=at.place.line, fresh=fresh and self._fresh,
            slot=f"{self._options.slot}|{title_of(self._stage)}|{self._state.platform}|{word} {number}", platform=self._state.platform,
        )  # fmt: skip

    # -- what only changes the configuration ---------------------------------------------------------------

    def _arg(self, each: words.Arg) -> None:
        self._declared |= dict.fromkeys(name for name, _ in each.pairs)
        self._note(each.text)

    def _env(self, each: words.Env) -> None:
        self._state.env |= dict(each.pairs)
        self._note("ENV " + " ".join(f"{key}={value}" for key, value in each.pairs))

    def _label(self, each: words.Label) -> None:
        self._state.config["Labels"] = {**(self._state.config.get("Labels") or {}), **dict(each.pairs)}
        self._note("LABEL " + " ".join(f"{key}={value}" for key, value in each.pairs))

    def _expose(self, each: words.Expose) -> None:
        ports = dict(self._state.config.get("ExposedPorts") or {})
        for text in each.ports:
            try:
                ports |= {key: {} for key in exposed(text)}
            except DockerfileError as error:
                raise placed(error.reason, each, text) from None
        self._state.config["ExposedPorts"] = ports
        named = sorted({key for text in each.ports for key in exposed(text)})
        self._note(f"EXPOSE map[{' '.join(f'{key}:{{}}' for key in named)}]")

    def _volume(self, each: words.Volume) -> None:
        self._state.config["Volumes"] = {**(self._state.config.get("Volumes") or {}), **{key: {} for key in each.paths}}
        self._note(f"VOLUME [{' '.join(each.paths)}]")

    def _user(self, each: words.User) -> None:
        self._state.config["User"] = each.user
        self._note(f"USER {each.user}")

    def _stopsignal(self, each: words.Stopsignal) -> None:
        try:
            signals.number_of(each.signal)
        except InvalidParameter:
            known = [f"SIG{name}" if each.signal.upper().startswith("SIG") else name for name in sorted(signals.NUMBERS)]
            raise placed(f"invalid signal: {each.signal}", each, each.signal, nearest(each.signal, known)) from None
        self._state.config["StopSignal"] = each.signal
        self._note(f"STOPSIGNAL {each.signal}")

    def _shell(self, each: words.Shell) -> None:
        self._state.config["Shell"] = list(each.words)
        self._note(f"SHELL [{' '.join(each.words)}]")

    def _maintainer(self, each: words.Maintainer) -> None:
        self._state.author = each.name
        self._note(each.text)

    def _cmd(self, each: words.Cmd) -> None:
        self._state.config["Cmd"] = list(self._words(each.command))
        self._state.config["ArgsEscaped"] = True  # says something of Windows alone, but BuildKit's images have it
        self._state.command_set = True
        self._note(f"CMD {_shown(self._words(each.command))}")

    def _entrypoint(self, each: words.Entrypoint) -> None:
        self._state.config["Entrypoint"] = list(self._words(each.command))
        if not self._state.command_set:
            self._state.config.pop("Cmd", None)  # the base image's made sense for its own entry point alone
        self._note(f"ENTRYPOINT {_shown(self._words(each.command))}")

    def _healthcheck(self, each: words.Healthcheck) -> None:
        check: dict[str, Any] = {"Test": ["NONE"]}
        if not each.none and each.command:
            test = ["CMD-SHELL", *each.command.words] if each.command.shell else ["CMD", *each.command.words]
            times = {
                "Interval": each.interval_ns, "Timeout": each.timeout_ns, "StartPeriod": each.start_period_ns,
                "StartInterval": each.start_interval_ns, "Retries": each.retries,
            }  # fmt: skip
            check = {"Test": test, **{key: value for key, value in times.items() if value}}
        self._state.config["Healthcheck"] = check
        self._note(each.text)

    def _onbuild(self, each: words.Onbuild) -> None:
        self._state.config["OnBuild"] = [*(self._state.config.get("OnBuild") or []), each.trigger]

    # -- what makes layers --------------------------------------------------------------------------------

    def _workdir(self, each: words.Workdir) -> None:
        path = posixpath.normpath(posixpath.join("/", self._state.directory, each.path))
        path = "/" + path.lstrip("/")
        self._state.config["WorkingDir"] = path
        op = graph.MakeDirectory(path, self._options.epoch, str(self._state.config.get("User") or ""))
        self._state.vertex = self._vertex(op, (self._state.vertex,), each, fresh=False)
        self._note(f"WORKDIR {path}", self._state.vertex)

    def _words(self, command: words.Command) -> tuple[str, ...]:
        return (*self._state.shell, *command.words) if command.shell else command.words

    def _run(self, each: words.Run) -> None:
        inputs: list[Vertex] = [self._state.vertex]
        mounts = []
        for mount in each.mounts:
            number = 0
            if mount.type == graph.BIND or (mount.type == graph.CACHE and mount.from_):
                source = self._planner.files_of(mount.from_, self._stage, each)
                if source not in inputs[1:]:
                    inputs.append(source)
                number = inputs.index(source, 1)
            mounts.append(self._mount(mount, number))
        environment, hidden = self._environment()
        command = self._words(each.command)
        script = each.script if each.script.startswith("#!") else ""
        op = graph.Run(
            words=command, environment=environment, directory=self._state.directory, user=str(self._state.config.get("User") or ""),
            mounts=tuple(mounts), network=self._network(each), security="" if each.security == "sandbox" else each.security, script=script, hidden=hidden,
            devices=self._devices(each),
            hosts=self._options.hosts, limits=self._options.limits, epoch=self._options.epoch, platform=self._state.platform,
        )  # fmt: skip
        self._state.vertex = self._vertex(op, tuple(inputs), each)
        declared = [f"{name}={self._state.scope.variables.get(name, '')}" for name in self._declared]
        prefix = f"RUN |{len(declared)} {' '.join(declared)} " if declared else "RUN "
        self._note(prefix + " ".join(command), self._state.vertex)

    def _devices(self, each: words.Run) -> tuple[tuple[str, bool], ...]:
        """Those of the host. One that only CDI knows is left out where the step does without, as with BuildKit where it is not registered."""
        found = []
        for device in each.devices:
            if device.name.startswith("/"):
                found.append((posixpath.normpath(device.name), device.required))
            elif device.required:
                raise NotImplementedHere(
                    f"{self._planner.dockerfile.name}:{each.place.line}: RUN --device={device.name}: berth has no CDI devices: "
                    "name the device's path on the host, as in RUN --device=/dev/dri/card0"
                )
            else:
                self._planner.warnings[f"RUN --device={device.name}: berth has no CDI devices; the step runs without it"] = each.place.line
        return tuple(found)

    def _network(self, each: words.Run) -> str:
        return self._options.network if each.network == "default" else each.network

    def _mount(self, mount: words.Mount, number: int) -> graph.Mount:
        target = posixpath.normpath(posixpath.join("/", self._state.directory, mount.target)) if mount.target else ""
        return graph.Mount(
            kind=mount.type, target=target, input=number, source=mount.source, read_only=mount.read_only, identity=mount.id,
            sharing=mount.sharing or "shared", required=mount.required, mode=mount.mode, uid=mount.uid, gid=mount.gid,
            size_bytes=mount.size_bytes, env=mount.env,
        )  # fmt: skip

    def _environment(self) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]:
        """What the program is given, and what makes no other result: proxies, an emulator's settings."""
        found = dict(self._state.scope.variables)  # ENV and ARG; of one name, what was set last
        for key in PROXIES - self._state.env.keys():
            found.pop(key, None)
        found.setdefault("PATH", DEFAULT_PATH)
        given = {key: value for key, value in self._options.build_args.items() if key in PROXIES}
        either = {name: value for key, value in given.items() for name in (key.upper(), key.lower())}
        proxies = {key: value for key, value in {**either, **given}.items() if key not in found}
        emulator = [(key, value) for key, value in _emulator(self._state.platform, self._options.build_platform) if key not in found]
        return tuple(found.items()), (*proxies.items(), *emulator)

    def _copy(self, each: words.Copy) -> None:
        for source in each.sources:
            if is_remote(source):
                kind = "git ref" if git.is_repository(source) else "URL"
                raise placed(f"source can't be a {kind} for COPY", each, source)
        self._transfer(each, self._planner.files_of(each.from_, self._stage, each), each.sources, unpack=False)

    def _transfer(self, each: words.Copy | words.Add, source: Vertex, sources: tuple[str, ...], *, unpack: bool) -> None:
        if each.chmod:
            try:
                parse_chmod(each.chmod)
            except InvalidParameter as error:
                raise placed(str(error), each, each.chmod) from None
        op = graph.Copy(
            sources=sources, destination=each.destination, directory=self._state.directory, owner=each.chown, mode=each.chmod,
            exclude=each.exclude, parents=each.parents, unpack=unpack, independent=each.link, inline=each.inline, epoch=self._options.epoch,
        )  # fmt: skip
        self._state.vertex = self._vertex(op, (self._state.vertex, source), each)
        word, _, rest = each.text.partition(" ")
        self._note(f"{word.upper()} {rest}", self._state.vertex)

    def _add(self, each: words.Add) -> None:
        local = tuple(source for source in each.sources if not is_remote(source))
        if each.checksum:
            _check_checksum(each)
        if local or each.inline:
            unpack = True if each.unpack is None else each.unpack
            self._transfer(each, self._planner.context(""), local, unpack=unpack)
        several = len(each.sources) > 1
        for source in each.sources:
            if not is_remote(source):
                continue
            if several and not each.destination.endswith("/"):
                raise placed("when using ADD with more than one source file, the destination must be a directory and end with a /", each)
            if git.is_repository(source):
                vertex = Vertex(graph.GitSource(source, each.keep_git_dir, each.checksum), label=f"[git] {source}", line=each.place.line)
                self._transfer(each, vertex, (".",), unpack=False)
            else:
                unnamed = not each.destination.endswith(("/", "/.", "/..")) and each.destination not in (".", "..")
                vertex = Vertex(graph.UrlSource(source, each.checksum, unnamed), label=f"[url] {source}", line=each.place.line)
                shown = each if each.chmod else replace(each, chmod="0600")
                self._transfer(shown, vertex, ("*",), unpack=bool(each.unpack))


def _check_checksum(each: words.Add) -> None:
    if len(each.sources) + len(each.inline) != 1:
        raise placed("checksum can't be specified for multiple sources", each, "--checksum")
    if each.inline or not is_remote(each.sources[0]):
        raise placed("checksum requires HTTP(S) or Git sources", each, "--checksum")
    if git.is_repository(each.sources[0]) or digests.is_known(each.checksum):
        return
    algorithm = each.checksum.partition(":")[0]
    reason = f"invalid checksum {each.checksum}: expected sha256: and 64 hexadecimal digits"
    raise placed(reason, each, each.checksum, nearest(algorithm, ("sha256", "sha512")))


_MAKING = (words.Run, words.Copy, words.Add, words.Workdir)


def count(instructions: Sequence[words.Instruction]) -> int:
    """Of those that make layers."""
    return sum(isinstance(each, _MAKING) for each in instructions)


@lru_cache(maxsize=64)
def _emulator(platform: str, build_platform: str) -> tuple[tuple[str, str], ...]:
    """Variables for qemu: pointer authentication as Arm's own algorithm has it takes nine tenths of an emulated program's time."""
    wanted, have = platforms.parse(platform).architecture, platforms.parse(build_platform).architecture
    return (("QEMU_CPU", "max,pauth-impdef=on"),) if wanted == "arm64" != have else ()


def title_of(stage: words.Stage) -> str:
    return stage.name or f"stage-{stage.index}"


def _shown(found: tuple[str, ...]) -> str:
    return "[" + " ".join(json.dumps(word, ensure_ascii=False) for word in found) + "]"


_HANDLERS: dict[type, Callable[[Stage, Any], None]] = {
    words.Arg: Stage._arg, words.Env: Stage._env, words.Label: Stage._label, words.Expose: Stage._expose,
    words.Volume: Stage._volume, words.User: Stage._user, words.Workdir: Stage._workdir, words.Stopsignal: Stage._stopsignal,
    words.Maintainer: Stage._maintainer, words.Cmd: Stage._cmd, words.Entrypoint: Stage._entrypoint, words.Shell: Stage._shell,
    words.Healthcheck: Stage._healthcheck, words.Onbuild: Stage._onbuild, words.Run: Stage._run, words.Copy: Stage._copy,
    words.Add: Stage._add,
}  # fmt: skip
