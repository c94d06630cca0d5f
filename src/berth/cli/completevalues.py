"""What the words of a command line stand for, for completion. Data alone."""

# command -> kind of each argument; new for a word that is nowhere yet; one that ends with ... goes on for all further ones
ARGUMENTS = {
    "attach": "running", "build": "directory", "buildx inspect": "=default", "commit": "container repository", "completion": "=bash|zsh|fish", "container inspect": "container...",
    "context create": "new", "context export": "context file", "context import": "new file", "context inspect": "context...", "context rm": "context...",
    "context update": "context", "context use": "context", "cp": "copy copy", "create": "image", "diff": "container",
    "manifest annotate": "image image", "manifest create": "new image...", "manifest inspect": "image image", "manifest push": "image",
    "manifest rm": "image...", "exec": "running", "export": "container", "history": "image", "network connect": "network container", "network create": "new",
    "network disconnect": "network container", "network inspect": "network...", "network rm": "custom...", "image inspect": "image...", "images": "repository", "import": "file repository",
    "inspect": "anything...", "kill": "running...", "login": "registry", "logout": "registry", "logs": "container", "pause": "running...",
    "port": "container", "pull": "image", "push": "image",
    "rename": "container", "restart": "container...", "rm": "container...", "rmi": "image...", "run": "image",
    "save": "image...", "search": "new", "start": "stopped...", "stats": "running...", "stop": "running...", "system service": "=install|uninstall|status",
    "tag": "image new", "top": "running", "unpause": "paused...", "update": "container...", "wait": "running...",
    "volume create": "new", "volume inspect": "volume...", "volume rm": "volume...", "volume update": "volume", "why": "container...",
}  # fmt: skip

# --flag or placeholder of a flag -> kind of its value
KINDS_OF_PLACEHOLDERS = {
    "FILE": "file", "DIR": "directory", "CONTAINER": "container", "CONTEXT": "context", "--context": "context", "--network": "network", "NETWORK": "network", "--link": "container", "--env": "variable",
    "--build-arg": "variable", "STAGE": "stage", "--output": "directory", "--tag": "repository", "--cache-from": "image", "--secret": "", "--ssh": "",
    "--volume": "mountable", "--device": "file", "--runtime": "runtime", "--default-runtime": "", "--workdir": "",
    "--pidfile": "file", "--init-path": "file",
}  # fmt: skip

_CAPABILITIES = tuple(
    "ALL AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER "
    "FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD NET_ADMIN NET_BIND_SERVICE NET_BROADCAST "
    "NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN SYS_BOOT SYS_CHROOT SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE "
    "SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG WAKE_ALARM".split()
)
_SIGNALS = tuple("SIGHUP SIGINT SIGQUIT SIGABRT SIGKILL SIGUSR1 SIGUSR2 SIGALRM SIGTERM SIGCONT SIGSTOP SIGTSTP SIGWINCH".split())
_LOG_DRIVERS = ("json-file", "local", "none", "journald", "syslog")
_ULIMITS = tuple(
    f"{name}=" for name in "core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack".split()
)

# flag, or `command --flag` -> values
VALUES: "dict[str, tuple[str, ...]]" = {
    "attach": ("stdin", "stdout", "stderr"), "cap-add": _CAPABILITIES, "cap-drop": _CAPABILITIES, "cgroupns": ("private", "host"),
    "format": ("json", "table"), "info --format": ("json",), "version --format": ("json",), "inspect --format": ("json",),
    "why --format": ("json",), "container inspect --format": ("json",), "image inspect --format": ("json",), "context inspect --format": ("json",),
    "events --format": ("json",), "ipc": ("private", "shareable", "none", "host", "container:"), "isolation": ("default",),
    "log-driver": _LOG_DRIVERS, "log-level": ("debug", "info", "warn", "error", "fatal"),
    "log-opt": ("max-size=", "max-file=", "compress=", "labels=", "env=", "tag=", "mode=", "max-buffer-size="),
    "mount": ("type=bind,", "type=tmpfs,"), "network": ("bridge", "none", "host", "container:", "name="),
    "network create --driver": ("bridge", "macvlan", "ipvlan"), "network inspect --format": ("json",), "scope": ("local",),
    "network create --opt": ("parent=", "macvlan_mode=", "ipvlan_mode=", "ipvlan_flag=", *(
        f"com.docker.network.{name}=" for name in (
            "bridge.name", "bridge.enable_icc", "bridge.enable_ip_masquerade", "bridge.host_binding_ipv4", "bridge.inhibit_ipv4",
            "bridge.gateway_mode_ipv4", "bridge.gateway_mode_ipv6", "host_ipv4", "host_ipv6", "driver.mtu", "container_iface_prefix"))),
    "dns-option": ("ndots:", "timeout:", "attempts:", "rotate", "use-vc"),
    "pid": ("host", "container:"), "pull": ("always", "missing", "never"),
    "progress": ("auto", "plain", "tty", "rawjson", "quiet"), "call": ("build", "check", "outline", "targets"), "build --network": ("default", "none", "host"),
    "attest": ("type=sbom", "type=provenance"), "allow": ("network.host", "security.insecure", "device"), "sbom": ("true", "false"),
    "provenance": ("true", "false", "mode=min", "mode=max"), "secret": ("id=",), "ssh": ("default", "default="),
    "cache-to": ("type=registry,ref=", "type=local,dest=", "type=inline"), "cache-from": ("type=registry,ref=", "type=local,src="),
    "output": ("type=local,dest=", "type=tar,dest=", "type=oci,dest=", "type=docker,dest=", "type=image,push=true", "type=registry", "-"),
    "platform": ("linux/amd64", "linux/arm64"), "buildx du --format": ("json", "table", "pretty"), "build --pull": ("true", "false"),
    "restart": ("no", "on-failure", "on-failure:", "always", "unless-stopped"),
    "security-opt": ("seccomp=", "seccomp=unconfined", "apparmor=", "apparmor=unconfined", "label=", "no-new-privileges",
                     "systempaths=unconfined"),
    "signal": _SIGNALS, "stop-signal": _SIGNALS, "tail": ("all",), "type": ("container", "image", "network"), "ulimit": _ULIMITS,
    "userns": ("host",), "uts": ("host",),
}  # fmt: skip

# command -> filters: (key, values), where values are words, <kind>, or '' for anything
FILTERS: "dict[str, tuple[tuple[str, str], ...]]" = {
    "ps": (("ancestor", "<image>"), ("before", "<container>"), ("exited", ""), ("expose", ""),
           ("health", "none starting healthy unhealthy"), ("id", ""), ("is-task", "true false"), ("label", ""), ("name", "<container>"),
           ("network", "<network>"), ("publish", ""), ("since", "<container>"),
           ("status", "created running paused restarting removing exited dead"), ("volume", "<volume>")),
    "images": (("before", "<image>"), ("dangling", "true false"), ("label", ""), ("reference", ""), ("since", "<image>"), ("until", "")),
    "search": (("is-official", "true false"), ("stars", "")),
    "events": (("container", "<container>"), ("daemon", ""),
               ("event", "attach commit copy create destroy detach die exec_create exec_detach exec_die exec_start export "
                         "health_status import kill load oom pause prune rename resize restart save start stop tag top unpause "
                         "untag update"),
               ("image", "<image>"), ("label", ""), ("scope", "local swarm"), ("type", "container daemon image network volume")),
    "network ls": (("dangling", "true false"), ("driver", "bridge macvlan ipvlan host null"), ("id", ""), ("label", ""), ("name", "<network>"),
                   ("scope", "local"), ("type", "custom builtin")),
    "network prune": (("label", ""), ("label!", ""), ("until", "")),
    "volume ls": (("dangling", "true false"), ("driver", "local"), ("label", ""), ("name", "<volume>")),
    "volume prune": (("all", "true false"), ("label", ""), ("label!", "")),
    "container prune": (("label", ""), ("label!", ""), ("until", "")),
    "image prune": (("label", ""), ("label!", ""), ("until", "")),
    "system prune": (("label", ""), ("label!", ""), ("until", "")),
    **dict.fromkeys(("builder prune", "buildx prune", "buildx du"), (
        ("until", ""), ("id", ""), ("parent", ""), ("type", "regular exec exec.cachemount source.local"), ("description", ""), ("inuse", ""),
        ("shared", ""), ("private", ""))),
}  # fmt: skip
