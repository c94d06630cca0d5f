"""A Dockerfile -> the graph of what has to be done for its targets. Pure: what is known of base images is handed in.

`bases` says which images' configurations `plan` needs. Only the stages that a target needs are looked at.
"""

import json
import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from berth.build import graph
from berth.build.dockerfile import checks
from berth.build.dockerfile import instructions as words
from berth.build.dockerfile.errors import DockerfileError
from berth.build.dockerfile.expanding import expand_instruction, placed
from berth.build.dockerfile.parse import parse, parse_trigger
from berth.build.dockerfile.ports import exposed
from berth.build.dockerfile.rules import RULES
from berth.build.dockerfile.scopes import Scope, global_variables, predefined
from berth.build.dockerfile.stages import (
    SCRATCH,
    base_of,
    is_remote,
    nearest_platform,
    platform_of,
    select,
    source_of,
    sources_of,
)
from berth.build.dockerfile.suggesting import nearest
from berth.build.files import git
from berth.build.files.modes import parse_chmod
from berth.build.graph import Step, Target, Vertex
from berth.errors import InvalidParameter, NotImplementedHere
from berth.linux import signals
from berth.oci import digest as digests
from berth.oci import platforms, reference

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OCI_LAYOUT, _DOCKER_IMAGE = "oci-layout://", "docker-image://"
_EPOCH, _OF_BUILDKIT = "SOURCE_DATE_EPOCH", "BUILDKIT_"
_DEFAULT_SHELL = ("/bin/sh", "-c")
_KNOWN_IMAGES = (
    "alpine", "busybox", "debian", "ubuntu", "fedora", "centos", "golang", "python", "node", "rust", "ruby", "php", "nginx", "httpd", "postgres",
    "mysql", "mariadb", "redis", "memcached", "mongo", "registry",
)  # fmt: skip
# Arguments that need no ARG, and make no other result: https://docs.docker.com/reference/dockerfile/#predefined-args
PROXIES = frozenset(
    name for word in ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy") for name in (word, word.upper())
)


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked of a build, beside the Dockerfile.

    platforms: to build for, the engine's own first where none is named; contexts: names that mean something else than the Dockerfile says,
    `docker-image://…`, `oci-layout://` and the name itself, an address or what the client serves; epoch: SOURCE_DATE_EPOCH; no_cache: of all, or of
    the stages in no_cache_stages.
    """

    build_platform: str
    platforms: tuple[str, ...] = ()
    target: str = ""
    build_args: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    contexts: Mapping[str, str] = field(default_factory=dict)
    hosts: tuple[str, ...] = ()
    network: str = ""
    limits: tuple[tuple[str, str], ...] = ()
    epoch: int | None = None
    no_cache: bool = False
    no_cache_stages: frozenset[str] = frozenset()
    slot: str = ""


@dataclass(frozen=True, slots=True)
class BaseImage:
    """What is known of an image. config: the parsed configuration document; identity: its digest."""

    identity: str
    config: Mapping[str, Any]


Bases = Mapping[tuple[str, str], BaseImage]  # by reference and platform


class _State:
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

    def child(self) -> "_State":
        """For a stage that starts from this one."""
        other = _State(self.vertex, self.platform)
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


def platform_named(text: str) -> str:
    """One that is asked for, in its one spelling. InvalidParameter."""
    if near := nearest_platform(text):
        raise InvalidParameter(f"platform {text} is none (did you mean {near}?)")
    return str(platforms.parse(text))


def short_name(name: str) -> str:
    """`docker.io/library/x:latest` -> `x`: named contexts are looked for by it, as with BuildKit."""
    try:
        return reference.parse(name.lower()).familiar.removesuffix(":latest")
    except InvalidParameter:
        return name.lower()


class Planner:
    """Of one Dockerfile for one platform."""

    def __init__(self, dockerfile: words.Dockerfile, options: Options, platform: str) -> None:
        self._dockerfile = dockerfile
        self._options = options
        self._platform = platform
        before = predefined(platforms.parse(options.build_platform), platforms.parse(platform), options.target)
        self._globals = global_variables(dockerfile, options.build_args, before)
        self._states: dict[int, _State] = {}
        self._bases: Bases = {}
        self._unknown: set[tuple[str, str]] = set()
        self._sources: dict[object, Vertex] = {}
        self._open: list[int] = []
        self.warnings: dict[str, int] = {}  # and the lines that they are about
        self._target = select(dockerfile, options.target)
        self._context_names = {short_name(name): name for name in options.contexts}

    # -- what it needs to know ------------------------------------------------------------------------

    def needed_bases(self) -> set[tuple[str, str]]:
        """(reference, platform) of the images whose configuration the plan depends on."""
        found: set[tuple[str, str]] = set()
        for stage in self._needed_stages():
            base, platform = self._base_of(stage)
            if isinstance(base, str) and base != SCRATCH and not self._served(base):
                found.add((self._image_of(base), platform))
        return found

    def _needed_stages(self) -> list[words.Stage]:
        """Of the target, as far as no image's triggers need more; in the order of the file, each after those that it is made from."""
        pending, found = [self._target], dict[int, words.Stage]()
        while pending:
            stage = pending.pop()
            if stage.index in found:
                continue
            found[stage.index] = stage
            base, _ = self._base_of(stage)
            pending += ([base] if isinstance(base, words.Stage) else []) + self._stages_read_by(stage)
        return [found[index] for index in sorted(found)]

    def _stages_read_by(self, stage: words.Stage) -> list[words.Stage]:
        found = []
        for each in stage.instructions:
            sources = [self._source_of(name, stage, each) for name in sources_of(each)]
            found += [source for source in sources if isinstance(source, words.Stage)]
        return found

    def _source_of(self, name: str, stage: words.Stage, at: words.Instruction) -> words.Stage | str:
        return self._context_name(name) or source_of(name, stage, self._dockerfile, at)

    def _base_of(self, stage: words.Stage) -> tuple[words.Stage | str, str]:
        """(image or stage, platform) of FROM with its variables put in."""
        base = base_of(stage, self._dockerfile, self._globals)
        expanded, _ = expand_instruction(stage.base, self._globals, self._dockerfile.escape)
        base = self._context_name(expanded.image) or base
        return base, str(platform_of(stage, self._dockerfile, self._globals) or self._platform)

    def meant(self, image: str) -> str:
        """What was probably meant by the name of an image that is not to be had: a stage, a named context, a well known image; '' for none."""
        name, colon, tag = image.partition(":")
        known = nearest(name, _KNOWN_IMAGES)
        return nearest(image, [*(stage.name for stage in self._dockerfile.stages), *self._options.contexts]) or (known and f"{known}{colon}{tag}")

    def bases_lines(self) -> dict[tuple[str, str], int]:
        """Where the Dockerfile names each of `needed_bases`."""
        found: dict[tuple[str, str], int] = {}
        for stage in self._needed_stages():
            base, platform = self._base_of(stage)
            if isinstance(base, str):
                found.setdefault((self._image_of(base), platform), stage.base.place.line)
        return found

    def _context_name(self, name: str) -> str:
        """The named context that a name in the Dockerfile means, '' for none."""
        return self._context_names.get(short_name(name), "") if self._context_names else ""

    def _served(self, name: str) -> bool:
        """Whether a name means files that a client serves."""
        given = self._options.contexts.get(name, "")
        return bool(given) and not given.startswith((_DOCKER_IMAGE, OCI_LAYOUT))

    def _image_of(self, name: str) -> str:
        return self._options.contexts.get(name, "").removeprefix(_DOCKER_IMAGE) or name

    # -- the plan ---------------------------------------------------------------------------------------

    def plan(self, bases: Bases) -> Target:
        """bases: at least what `needed_bases` names, and triggers of those may need no more."""
        self._bases = bases
        for stage in self._needed_stages():
            self._state(stage)  # those below first: a chain of a thousand is no recursion
        state = self._state(self._target)
        config = {**state.config}
        if self._options.labels:
            config["Labels"] = {**(config.get("Labels") or {}), **self._options.labels}
        return Target(
            platform=state.platform, vertex=state.vertex, config=config, author=state.author, base_history=state.base_history,
            base_vertex=state.base_vertex, steps=state.steps, stage=self._target.name,
        )  # fmt: skip

    def _state(self, stage: words.Stage) -> _State:
        if stage.index in self._states:
            return self._states[stage.index]
        if stage.index in self._open:
            raise placed(f"circular dependency detected on stage: {_title(stage)}", stage.base)
        self._open.append(stage.index)
        state = self._start(stage)
        triggers = [parse_trigger(text, stage.base) for text in state.triggers]
        _Stage(self, stage, state).go([*triggers, *stage.instructions])
        self._open.pop()
        self._states[stage.index] = state
        return state

    def _start(self, stage: words.Stage) -> _State:
        base, platform = self._base_of(stage)
        if isinstance(base, words.Stage):
            below = self._state(base)
            state = below.child()
            state.scope = below.scope.child()
            return state
        state = self._start_from(stage, base, platform)
        state.scope = Scope(state.env, self._options.build_args, self._globals, self._dockerfile.escape)
        return state

    def _start_from(self, stage: words.Stage, name: str, platform: str) -> _State:
        text = stage.base.text
        served = self._served(name)
        if served or name == SCRATCH:
            state = _State(self.context(name) if served else self._source(graph.Scratch(), label="scratch", instruction=text), platform)
            state.config, state.env = {"WorkingDir": "/"}, {"PATH": DEFAULT_PATH}
            return state
        image = self._image_of(name)
        label = f"[{self.title(stage, platform)} 1/{_count(stage.instructions) + 1}] {text}"
        vertex = self._source(graph.ImageSource(image, platform), label=label, instruction=text, line=stage.base.place.line, platform=platform)
        state = _State(vertex, platform)
        base = self._bases[image, platform]
        state.config = {key: value for key, value in (base.config.get("config") or {}).items() if value is not None}
        state.triggers = list(state.config.pop("OnBuild", None) or [])
        state.env = dict(_pair(pair) for pair in state.config.get("Env") or [])
        state.env.setdefault("PATH", DEFAULT_PATH)  # as BuildKit: an image always says where its programs are
        state.author = str(base.config.get("author") or "")
        state.base_history, state.base_vertex = list(base.config.get("history") or []), vertex
        return state

    def _source(self, op: graph.Op, **fields: Any) -> Vertex:
        """The same source is one vertex."""
        if op not in self._sources:
            self._sources[op] = Vertex(op, **fields)
        return self._sources[op]

    def context(self, name: str) -> Vertex:
        """The files of the build context, or of a named one."""
        given = self._options.contexts.get(name, "") if name else ""
        if given and git.is_repository(given, context=True):
            return self._source(graph.GitSource(given, False, ""), label=f"[context {name}] {given}")
        if given.startswith(("http://", "https://")):
            return self._source(graph.UrlSource(given, ""), label=f"[context {name}] {given}")
        label = f"[internal] load build context {name}".rstrip()
        return self._source(graph.ContextSource(name), label=label)

    def files_of(self, name: str, stage: words.Stage, at: words.Instruction) -> Vertex:
        """What `--from=name` means, seen from a stage; '' is the context."""
        source = self._source_of(name, stage, at) if name else ""
        if isinstance(source, str) and (not source or self._served(source)):
            return self.context(source)
        if isinstance(source, words.Stage):
            return self._state(source).vertex
        return self._source(graph.Scratch(), label="scratch") if source == SCRATCH else self._image(source, at.place.line)

    def _image(self, name: str, line: int) -> Vertex:
        image = self._image_of(name)
        return self._source(
            graph.ImageSource(image, self._platform), label=f"[internal] FROM {image}", instruction=f"FROM {image}", line=line, platform=self._platform
        )

    # -- for its stages ---------------------------------------------------------------------------------

    def title(self, stage: words.Stage, platform: str) -> str:
        """How people know a stage; with its platform, where there are several."""
        return f"{platform} {_title(stage)}" if len(self._options.platforms) > 1 else _title(stage)

    @property
    def options(self) -> Options:
        return self._options

    @property
    def dockerfile(self) -> words.Dockerfile:
        return self._dockerfile


class _Stage:
    """Goes through a stage's instructions."""

    def __init__(self, planner: Planner, stage: words.Stage, state: _State) -> None:
        self._planner = planner
        self._options = planner.options
        self._stage = stage
        self._state = state
        self._title = ""
        self._fresh = self._options.no_cache or bool(self._options.no_cache_stages & {stage.name, str(stage.index)})
        self._seen: dict[str, int] = {}
        self._declared: dict[str, None] = {}  # by this stage's own ARG, in order

    def go(self, instructions: list[words.Instruction]) -> None:
        total, number = _count(instructions) + 1, 1
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
            slot=f"{self._options.slot}|{_title(self._stage)}|{self._state.platform}|{word} {number}", platform=self._state.platform,
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


def _count(instructions: Sequence[words.Instruction]) -> int:
    """Of those that make layers."""
    return sum(isinstance(each, _MAKING) for each in instructions)


@lru_cache(maxsize=64)
def _emulator(platform: str, build_platform: str) -> tuple[tuple[str, str], ...]:
    """Variables for qemu: pointer authentication as Arm's own algorithm has it takes nine tenths of an emulated program's time."""
    wanted, have = platforms.parse(platform).architecture, platforms.parse(build_platform).architecture
    return (("QEMU_CPU", "max,pauth-impdef=on"),) if wanted == "arm64" != have else ()


def unused_arguments(dockerfile: words.Dockerfile, given: Mapping[str, str], bases: Bases) -> str:
    """What is to be said of build arguments that no ARG declares, of an image's triggers neither, and that mean nothing by themselves."""
    triggers = (text.split() for base in bases.values() for text in (base.config.get("config") or {}).get("OnBuild") or [])
    stages = (each for stage in dockerfile.stages for each in stage.instructions if isinstance(each, words.Arg))
    declared = {name for each in (*dockerfile.global_args, *stages) for name, _ in each.pairs}
    declared |= {word.partition("=")[0] for trigger in triggers if trigger[:1] == ["ARG"] for word in trigger[1:]}
    unused = sorted(name for name in given if name not in declared | PROXIES | {_EPOCH} and not name.startswith(_OF_BUILDKIT))
    near = ", ".join(dict.fromkeys(found for name in unused if (found := nearest(name, sorted(declared)))))
    hint = f" (did you mean {near}?)" if near else ""
    return f"One or more build-args [{' '.join(unused)}] were not consumed{hint}" if unused else ""


def slips(dockerfile: words.Dockerfile, options: Options) -> list[str]:
    """What is to be said of names that the Dockerfile has nothing for, where BuildKit says nothing and does nothing."""
    stages = [stage.name for stage in dockerfile.stages if stage.name]
    found = [
        f"--no-cache-filter {name}: there is no such stage{_hint(name, stages)}"
        for name in sorted(options.no_cache_stages) if name not in stages and not (name.isdecimal() and int(name) < len(dockerfile.stages))
    ]  # fmt: skip
    check = checks.options(dockerfile, options.build_args)
    found += [f"check: there is no rule {name}{_hint(name, RULES)}" for name in (*check.skip, *check.experimental) if name not in RULES]
    if not options.contexts:
        return found
    named = {stage.base.image for stage in dockerfile.stages} | {name for stage in dockerfile.stages for each in stage.instructions for name in sources_of(each)}
    known = {short_name(name) for name in (*named, *stages)}
    unused = [name for name in options.contexts if short_name(name) not in known]
    return found + [f"--build-context {name} is not used{hint}" for name in unused if (hint := _hint(short_name(name), known))]


def _hint(word: str, known: Iterable[str]) -> str:
    near = nearest(word, sorted(known))
    return f" (did you mean {near}?)" if near else ""


def _pair(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    return key, value


def _title(stage: words.Stage) -> str:
    return stage.name or f"stage-{stage.index}"


def _shown(found: tuple[str, ...]) -> str:
    return "[" + " ".join(json.dumps(word, ensure_ascii=False) for word in found) + "]"


_HANDLERS: dict[type, Callable[[_Stage, Any], None]] = {
    words.Arg: _Stage._arg, words.Env: _Stage._env, words.Label: _Stage._label, words.Expose: _Stage._expose,
    words.Volume: _Stage._volume, words.User: _Stage._user, words.Workdir: _Stage._workdir, words.Stopsignal: _Stage._stopsignal,
    words.Maintainer: _Stage._maintainer, words.Cmd: _Stage._cmd, words.Entrypoint: _Stage._entrypoint, words.Shell: _Stage._shell,
    words.Healthcheck: _Stage._healthcheck, words.Onbuild: _Stage._onbuild, words.Run: _Stage._run, words.Copy: _Stage._copy,
    words.Add: _Stage._add,
}  # fmt: skip


def read(data: bytes, name: str) -> words.Dockerfile:
    """A Dockerfile as text -> its stages. DockerfileError in words."""
    return parse(data, name)


def checked(dockerfile: words.Dockerfile, options: Options, bases: Bases) -> tuple[words.Warning, ...]:
    """What BuildKit's rules say of a Dockerfile. InvalidParameter where `# check=error=true` makes an error of that."""
    environments = {name: dict(_pair(pair) for pair in (base.config.get("config") or {}).get("Env") or []) for (name, _), base in bases.items()}
    target = (options.platforms or (options.build_platform,))[0]
    before = predefined(platforms.parse(options.build_platform), platforms.parse(target), options.target)
    found = checks.check(dockerfile, build_args=options.build_args, environment=environments.get, before=before)
    if text := checks.violation(dockerfile, options.build_args, found):
        lines = "".join(f"\n{dockerfile.name}:{warning.place.line}: {warning.code}: {warning.message}" for warning in found)
        raise InvalidParameter(text + lines)
    return found
