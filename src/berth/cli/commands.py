"""What commands there are: their names, where each is, and the long forms. Data alone: it is on the way of every command."""

from berth.cli.flags import Flag

GLOBAL_FLAGS: "tuple[Flag, ...]" = (
    ("config", "", "string", "DIR", "Where contexts and certificates are kept (default ~/.docker)"),
    ("context", "c", "string", "NAME", "Engine to connect to, by the name of its context"),
    ("debug", "D", "bool", "", "Print a traceback where berth itself fails"),
    ("host", "H", "list", "URL", "Engine to connect to: unix:///path, tcp://host:port or ssh://[user@]host"),
    ("log-level", "l", "string", "LEVEL", "Accepted for Docker's sake (default info)"),
    ("tls", "", "bool", "", "Speak TLS to tcp://"),
    ("tlscacert", "", "string", "FILE", "CA of the engine's certificate (default ca.pem in --config)"),
    ("tlscert", "", "string", "FILE", "Certificate of this client (default cert.pem in --config)"),
    ("tlskey", "", "string", "FILE", "Key of that certificate (default key.pem in --config)"),
    ("tlsverify", "", "bool", "", "Speak TLS, and only to an engine with a certificate of the CA"),
    ("version", "v", "bool", "", "Print the version and leave"),
)

# command -> (module, function, one line of help)
COMMANDS: "dict[str, tuple[str, str, str]]" = {
    "run": ("run", "run", "Create and start a container from an image"),
    "create": ("run", "create", "Create a container without starting it"),
    "start": ("life", "start", "Start stopped containers"),
    "stop": ("life", "stop", "Stop running containers"),
    "restart": ("life", "restart", "Stop and start containers"),
    "kill": ("life", "kill", "Send a signal to running containers"),
    "rm": ("life", "rm", "Remove containers"),
    "wait": ("life", "wait", "Wait until containers stop, print their exit codes"),
    "pause": ("life", "pause", "Freeze all processes of containers"),
    "unpause": ("life", "unpause", "Let paused containers go on"),
    "update": ("update", "update", "Change limits and restart policy of containers"),
    "rename": ("life", "rename", "Give a container another name"),
    "ps": ("ps", "ps", "List containers"),
    "logs": ("logs", "logs", "Print what a container wrote"),
    "exec": ("exec", "exec_", "Run a command in a running container"),
    "cp": ("cp", "cp", "Copy files between a container and the local file system"),
    "diff": ("commit", "diff", "List what a container changed of its image's files"),
    "export": ("commit", "export", "Write a container's file system to an archive"),
    "commit": ("commit", "commit", "Make an image of a container's changes"),
    "top": ("top", "top", "Show the processes of a container"),
    "stats": ("stats", "stats", "Show what containers use, as it changes"),
    "port": ("top", "port", "List the published ports of a container"),
    "attach": ("attach", "attach", "Connect the terminal to a running container"),
    "why": ("why", "why", "Say why a container ended or would not start"),
    "inspect": ("inspect", "inspect", "Print all that is known of containers and images"),
    "build": ("build", "build", "Build an image from a Dockerfile"),
    "images": ("images", "images", "List images"),
    "import": ("images", "import_", "Make an image from the tar of a file system"),
    "load": ("images", "load", "Bring in images from an archive"),
    "save": ("images", "save", "Write images to an archive"),
    "rmi": ("images", "rmi", "Remove images"),
    "tag": ("images", "tag", "Give an image another name"),
    "history": ("history", "history", "Show the steps that made an image"),
    "pull": ("pull", "pull", "Fetch an image from a registry"),
    "push": ("pull", "push", "Send an image to a registry"),
    "login": ("login", "login", "Log in at a registry"),
    "logout": ("login", "logout", "Forget the login at a registry"),
    "search": ("search", "search", "Look for images in a registry's index"),
    "events": ("events", "events", "Print what happens to containers and images"),
    "container inspect": ("inspect", "inspect", "Print all that is known of containers"),
    "container prune": ("prune", "container_prune", "Remove all containers that do not run"),
    "image inspect": ("inspect", "inspect", "Print all that is known of images"),
    "image prune": ("prune", "image_prune", "Remove images that are of no use"),
    "network connect": ("network", "connect", "Connect a container to a network"),
    "network create": ("network", "create", "Make a network"),
    "network disconnect": ("network", "disconnect", "Take a container out of a network"),
    "network inspect": ("inspect", "inspect", "Print all that is known of networks"),
    "network ls": ("network", "ls", "List networks"),
    "network prune": ("prune", "network_prune", "Remove networks that no container uses"),
    "network rm": ("network", "rm", "Remove networks"),
    "volume create": ("volume", "create", "Make a volume"),
    "volume inspect": ("inspect", "inspect", "Print all that is known of volumes"),
    "volume ls": ("volume", "ls", "List volumes"),
    "volume prune": ("prune", "volume_prune", "Remove volumes that no container has"),
    "volume rm": ("volume", "rm", "Remove volumes"),
    "volume update": ("volume", "update", "Change a volume of a swarm"),
    "builder prune": ("builder", "prune", "Remove results of builds that are kept for later ones"),
    "buildx prune": ("builder", "prune", "Remove results of builds that are kept for later ones"),
    "buildx du": ("builder", "du", "Show what is kept of builds, and how much room it takes"),
    "buildx ls": ("builder", "ls", "List builders, which is the engine"),
    "buildx inspect": ("builder", "inspect", "Print what is known of the builder"),
    "buildx version": ("builder", "version", "Print the version"),
    "system prune": ("prune", "system_prune", "Remove what is of no use"),
    "system df": ("df", "df", "Show what takes how much room"),
    "info": ("system", "info", "Print what the engine and its host have"),
    "version": ("system", "version", "Print the versions of command and engine"),
    "system dial-stdio": ("dial", "dial_stdio", "Connect standard input and output to the engine"),
    "system service": ("service", "service", "Run the engine as a systemd service"),
    "manifest inspect": ("manifest", "inspect", "Print a manifest, or a list of them"),
    "manifest create": ("manifest", "create", "Begin a list of manifests of several platforms"),
    "manifest annotate": ("manifest", "annotate", "Say which platform an image of a list is for"),
    "manifest push": ("manifest", "push", "Send a list of manifests to its registry"),
    "manifest rm": ("manifest", "rm", "Forget lists of manifests"),
    "context ls": ("context", "ls", "List contexts"),
    "context show": ("context", "show", "Print the name of the context in use"),
    "context create": ("context", "create", "Give an engine a name"),
    "context update": ("contextfile", "update", "Change what a context says of its engine"),
    "context use": ("context", "use", "Choose the engine of all further commands"),
    "context rm": ("context", "rm", "Forget contexts"),
    "context inspect": ("context", "inspect", "Print all that is known of contexts"),
    "context export": ("contextfile", "export", "Write a context to an archive"),
    "context import": ("contextfile", "import_", "Bring in a context from an archive"),
    "registry serve": ("registry", "registry", "Run a registry in the foreground"),
    "registry gc": ("registry", "registry", "Remove what no image of a registry needs any more"),
    "completion": ("completion", "completion", "Print the completion script of a shell"),
    "engine": ("engine_flags", "", "Run the engine in the foreground"),
    "oci": ("oci.main", "main", "Run containers from OCI bundles without an engine, as runc does"),
}
# group -> verb -> command
GROUPS = {
    "container": {**{name: name for name in (
        "attach commit cp create diff exec export kill logs pause port rename restart rm run start stats stop top unpause "
        "update wait why").split()},
        "inspect": "container inspect", "ls": "ps", "list": "ps", "ps": "ps", "prune": "container prune", "remove": "rm"},
    "builder": {"build": "build", "prune": "builder prune"},
    "buildx": {"build": "build", "b": "build", "du": "buildx du", "inspect": "buildx inspect", "ls": "buildx ls", "prune": "buildx prune",
               "version": "buildx version"},
    "image": {"build": "build", "history": "history", "import": "import", "inspect": "image inspect", "load": "load", "ls": "images", "list": "images",
              "prune": "image prune", "pull": "pull", "push": "push", "rm": "rmi", "remove": "rmi", "save": "save", "tag": "tag"},
    "manifest": {verb: f"manifest {verb}" for verb in ("annotate", "create", "inspect", "push", "rm")},
    "network": {"connect": "network connect", "create": "network create", "disconnect": "network disconnect", "inspect": "network inspect",
                "ls": "network ls", "list": "network ls", "prune": "network prune", "rm": "network rm", "remove": "network rm"},
    "volume": {"create": "volume create", "inspect": "volume inspect", "ls": "volume ls", "list": "volume ls", "prune": "volume prune",
               "rm": "volume rm", "remove": "volume rm", "update": "volume update"},
    "system": {"df": "system df", "dial-stdio": "system dial-stdio", "events": "events", "info": "info", "prune": "system prune",
               "service": "system service"},
    "context": {"create": "context create", "export": "context export", "import": "context import",
                "inspect": "context inspect", "ls": "context ls", "list": "context ls", "rm": "context rm",
                "remove": "context rm", "show": "context show", "update": "context update", "use": "context use"},
    "registry": {"gc": "registry gc", "serve": "registry serve"},
}  # fmt: skip
GROUP_SUMMARIES = {
    "container": "Manage containers", "builder": "Build images, and manage what is kept of builds",
    "buildx": "The same under the name that Docker gives it", "image": "Manage images", "manifest": "Manage manifests of several platforms",
    "network": "Manage networks", "volume": "Manage volumes", "system": "Manage the engine and what it keeps",
    "context": "Manage names of engines", "registry": "Run a registry of your own",
}  # fmt: skip
# Not shown: `__complete` answers the shells' completion scripts.
COMPLETE = "__complete"


def resolve(words: "list[str]") -> "tuple[str, str, list[str]]":
    """(command, as it was called, words behind it); the command is '' where there is none of that name."""
    name, rest = words[0], words[1:]
    if name in GROUPS:
        shown = f"{name} {rest[0]}" if rest else name
        return (GROUPS[name].get(rest[0], "") if rest else ""), shown, rest[1:]
    return (name if name in COMMANDS and " " not in name else ""), name, rest


def aliases(command: str) -> "list[str]":
    """All the ways to call a command."""
    short = [command] if " " not in command else []
    return short + [f"{group} {verb}" for group, verbs in GROUPS.items() for verb, target in verbs.items() if target == command]
