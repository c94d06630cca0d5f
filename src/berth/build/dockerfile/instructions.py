"""What a Dockerfile says: stages and their instructions. Values only, never changed once made.

Words are as written, before variables are put in: `expanding.py` does that, once the environment is known.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

HEREDOC_DIRECTORY = "/dev/pipes"  # where BuildKit mounts a script that brings its own interpreter


@dataclass(frozen=True, slots=True)
class Place:
    """Lines count from 1; column is that of the word in question, from 0, in the line `line`."""

    line: int
    end_line: int
    column: int = 0


@dataclass(frozen=True, slots=True)
class Warning:
    """What a rule of BuildKit's `docker build --check` says; `code` is the rule's name."""

    code: str
    message: str
    place: Place


@dataclass(frozen=True, slots=True)
class Heredoc:
    """`expand` is false where the name was quoted; `chomp` (`<<-`): leading tabs are taken off, as `content` has been."""

    name: str
    content: str
    expand: bool
    chomp: bool


@dataclass(frozen=True, slots=True)
class Command:
    """Shell form: one word, the text as written, for the image's shell. Exec form: the words of the JSON list."""

    words: tuple[str, ...]
    shell: bool


@dataclass(frozen=True, slots=True)
class Mount:
    """`--mount` of a RUN. `text` is the flag's value; where it has variables, the other fields are only right once expanded."""

    type: str = "bind"
    source: str = ""
    target: str = ""
    from_: str = ""
    read_only: bool = True
    id: str = ""
    sharing: str = "shared"
    required: bool = False
    mode: int | None = None
    uid: int = 0
    gid: int = 0
    size_bytes: int = 0
    env: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Instruction:
    """text: the instruction on one line, as written."""

    place: Place
    text: str


@dataclass(frozen=True, slots=True)
class From(Instruction):
    image: str
    name: str
    platform: str


@dataclass(frozen=True, slots=True)
class Arg(Instruction):
    """A value of None: only what is given from outside counts."""

    pairs: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True)
class Env(Instruction):
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Device:
    """name: a device's path on the host, or what CDI calls it; without required the step runs where there is none, too."""

    name: str
    required: bool = False


@dataclass(frozen=True, slots=True)
class Label(Instruction):
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Expose(Instruction):
    ports: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Volume(Instruction):
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class User(Instruction):
    user: str


@dataclass(frozen=True, slots=True)
class Workdir(Instruction):
    path: str


@dataclass(frozen=True, slots=True)
class Stopsignal(Instruction):
    signal: str


@dataclass(frozen=True, slots=True)
class Maintainer(Instruction):
    name: str


@dataclass(frozen=True, slots=True)
class Cmd(Instruction):
    command: Command


@dataclass(frozen=True, slots=True)
class Entrypoint(Instruction):
    command: Command


@dataclass(frozen=True, slots=True)
class Shell(Instruction):
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Healthcheck(Instruction):
    """Zero: as the base image or the engine has it."""

    none: bool
    command: Command | None
    interval_ns: int = 0
    timeout_ns: int = 0
    start_period_ns: int = 0
    start_interval_ns: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True)
class Onbuild(Instruction):
    """trigger: the text that goes into the image's OnBuild, which the child's build reads again."""

    instruction: Instruction
    trigger: str


@dataclass(frozen=True, slots=True)
class Run(Instruction):
    """`command` is what runs, heredocs included: nobody else needs to look at these.

    `script` is the content where a heredoc is the whole command. If it begins with `#!`, it is the file that
    `command` executes: it has to be at `command.words[0]` (mode 0755), below HEREDOC_DIRECTORY.
    """

    command: Command
    heredocs: tuple[Heredoc, ...] = ()
    mounts: tuple[Mount, ...] = ()
    network: str = "default"
    security: str = "sandbox"
    script: str = ""
    devices: tuple[Device, ...] = ()


@dataclass(frozen=True, slots=True)
class Copy(Instruction):
    """inline: name and content of each heredoc among the sources; `literal` tells which of them take no variables."""

    sources: tuple[str, ...]
    inline: tuple[tuple[str, str], ...]
    destination: str
    from_: str = ""
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()
    literal: tuple[bool, ...] = ()


@dataclass(frozen=True, slots=True)
class Add(Instruction):
    """unpack: None where archives are unpacked and downloads are not."""

    sources: tuple[str, ...]
    inline: tuple[tuple[str, str], ...]
    destination: str
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()
    checksum: str = ""
    keep_git_dir: bool = False
    unpack: bool | None = None
    literal: tuple[bool, ...] = ()


@dataclass(frozen=True, slots=True)
class Stage:
    """name: in lower case, '' if it has none."""

    name: str
    index: int
    base: From
    instructions: tuple[Instruction, ...]


@dataclass(frozen=True, slots=True)
class Check:
    """The directive `# check=`."""

    skip: tuple[str, ...] = ()
    skip_all: bool = False
    error: bool = False
    experimental: tuple[str, ...] = ()
    experimental_all: bool = False


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """warnings: those that need nothing but the file, wanted or not; `checks.check` finds the others and chooses.

    descriptions: what comments above a FROM or an ARG say of a name, `# NAME words`, by line and name.
    """

    syntax: str
    escape: str
    check: Check
    global_args: tuple[Arg, ...]
    stages: tuple[Stage, ...]
    warnings: tuple[Warning, ...]
    source: str
    name: str = "Dockerfile"
    descriptions: Mapping[tuple[int, str], str] = field(default_factory=dict)
