"""A Dockerfile -> the graph of what has to be done for its targets. Pure: what is known of base images is handed in.

`bases` says which images' configurations `plan` needs. Only the stages that a target needs are looked at.
"""

from typing import Any

from berth.build import graph
from berth.build.dockerfile import instructions as words
from berth.build.dockerfile.expanding import expand_instruction, placed
from berth.build.dockerfile.parse import parse, parse_trigger
from berth.build.dockerfile.scopes import Scope, global_variables, predefined
from berth.build.dockerfile.stages import SCRATCH, base_of, nearest_platform, platform_of, select, source_of, sources_of
from berth.build.dockerfile.suggesting import nearest
from berth.build.files import git
from berth.build.graph import Target, Vertex
from berth.build.options import DEFAULT_PATH, OCI_LAYOUT, Bases, Options, split_pair
from berth.build.stageplan import Stage, State, count, title_of
from berth.errors import InvalidParameter
from berth.oci import platforms, reference

_DOCKER_IMAGE = "docker-image://"
_KNOWN_IMAGES = (
    "alpine", "busybox", "debian", "ubuntu", "fedora", "centos", "golang", "python", "node", "rust", "ruby", "php", "nginx", "httpd", "postgres",
    "mysql", "mariadb", "redis", "memcached", "mongo", "registry",
)  # fmt: skip


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
        self._states: dict[int, State] = {}
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

    def _state(self, stage: words.Stage) -> State:
        if stage.index in self._states:
            return self._states[stage.index]
        if stage.index in self._open:
            raise placed(f"circular dependency detected on stage: {title_of(stage)}", stage.base)
        self._open.append(stage.index)
        state = self._start(stage)
        triggers = [parse_trigger(text, stage.base) for text in state.triggers]
        Stage(self, stage, state).go([*triggers, *stage.instructions])
        self._open.pop()
        self._states[stage.index] = state
        return state

    def _start(self, stage: words.Stage) -> State:
        base, platform = self._base_of(stage)
        if isinstance(base, words.Stage):
            below = self._state(base)
            state = below.child()
            state.scope = below.scope.child()
            return state
        state = self._start_from(stage, base, platform)
        state.scope = Scope(state.env, self._options.build_args, self._globals, self._dockerfile.escape)
        return state

    def _start_from(self, stage: words.Stage, name: str, platform: str) -> State:
        text = stage.base.text
        served = self._served(name)
        if served or name == SCRATCH:
            state = State(self.context(name) if served else self._source(graph.Scratch(), label="scratch", instruction=text), platform)
            state.config, state.env = {"WorkingDir": "/"}, {"PATH": DEFAULT_PATH}
            return state
        image = self._image_of(name)
        label = f"[{self.title(stage, platform)} 1/{count(stage.instructions) + 1}] {text}"
        vertex = self._source(graph.ImageSource(image, platform), label=label, instruction=text, line=stage.base.place.line, platform=platform)
        state = State(vertex, platform)
        base = self._bases[image, platform]
        state.config = {key: value for key, value in (base.config.get("config") or {}).items() if value is not None}
        state.triggers = list(state.config.pop("OnBuild", None) or [])
        state.env = dict(split_pair(pair) for pair in state.config.get("Env") or [])
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
        return f"{platform} {title_of(stage)}" if len(self._options.platforms) > 1 else title_of(stage)

    @property
    def options(self) -> Options:
        return self._options

    @property
    def dockerfile(self) -> words.Dockerfile:
        return self._dockerfile


def read(data: bytes, name: str) -> words.Dockerfile:
    """A Dockerfile as text -> its stages. DockerfileError in words."""
    return parse(data, name)
