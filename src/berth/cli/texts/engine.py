"""Words for the engine, its host, and the names of engines."""

from berth.cli.texts import Text

TEXTS: "dict[str, Text]" = {
    "info": Text(
        "Prints what the engine has and what it runs on: counts of containers and images, drivers, cgroups, security options, kernel, "
        "memory.",
        examples=(("All", "berth info"), ("The cgroup version, for a script", "berth info --format '{{.CgroupVersion}}'")),
        see_also=("version", "system df"),
    ),
    "version": Text(
        "Prints the versions of this command and of the engine it talks to, and of the API between them.",
        examples=(("Both", "berth version"), ("The engine's alone", "berth version --format '{{.Server.Version}}'")),
        see_also=("info",),
    ),
    "system df": Text(
        "Shows how much room images and containers take on the disk, and how much of it pruning would give back.",
        examples=(("A line for each kind", "berth system df"), ("Every image and container", "berth system df --verbose")),
        see_also=("system prune", "info"),
    ),
    "system prune": Text(
        "Removes containers that do not run and images without a name that no container uses, after asking; with --all every image "
        "that no container uses. The filters label, label! and until limit it to some.",
        examples=(("Ask, then remove", "berth system prune"), ("All of it, without a question", "berth system prune --all --force")),
        see_also=("container prune", "image prune", "system df"),
    ),
    "system dial-stdio": Text(
        "Connects standard input and output to the engine's socket. It is what -H ssh://host runs on the far side, with berth's "
        "command line and with Docker's.",
        examples=(("What a client does", "ssh host berth system dial-stdio"),),
        see_also=("context create",),
    ),
    "system service": Text(
        "Runs the engine as a systemd service that starts with the first request to its socket.",
        "  install     write the units, enable them and start the socket\n"
        "  uninstall   stop the engine (containers go on), disable and remove the units\n"
        "  status      say which units are there and whether they run; exit code 0 if the socket is active, else 3",
        examples=(("Install it for the group docker", "berth system service install --group docker"),
                  ("See how it is", "berth system service status")),
        see_also=("engine", "info"),
    ),
    "context ls": Text(
        "Lists contexts, the one in use with a star. They are Docker's own files: each command line sees the other's.",
        examples=(("All", "berth context ls"), ("Names alone", "berth context ls --quiet")),
        see_also=("context create", "context use", "context show"),
    ),
    "context show": Text(
        "Prints the name of the context that commands use now: that of --context, DOCKER_CONTEXT or context use.",
        examples=(("For a prompt", "berth context show"),),
        see_also=("context ls", "context use"),
    ),
    "context create": Text(
        "Keeps an engine's address, and certificates where it needs them, under a name. Without --docker it is the address in use now. "
        "Certificates are copied.",
        examples=(("Over ssh", "berth context create build --docker host=ssh://root@build.example.org"),
                  ("With TLS", "berth context create far --description 'in the cellar' --docker host=tcp://far:2376,ca=ca.pem,cert=cert.pem,key=key.pem")),
        see_also=("context use", "context update", "context export"),
    ),
    "context update": Text(
        "Changes the description of a context, or its engine; --docker replaces address and certificates together.",
        examples=(("Another address", "berth context update build --docker host=ssh://root@new.example.org"),
                  ("Another description", "berth context update build --description 'the fast one'")),
        see_also=("context create", "context inspect"),
    ),
    "context use": Text(
        "Chooses the engine of all commands from now on; default is this machine's. -H, --context, DOCKER_HOST and DOCKER_CONTEXT "
        "come before it.",
        examples=(("Work on another engine", "berth context use build"), ("Back to this one", "berth context use default")),
        see_also=("context ls", "context show"),
    ),
    "context rm": Text(
        "Forgets contexts and removes their certificates. The one in use is refused without --force. Engines are left alone.",
        examples=(("Forget one", "berth context rm build"),),
        see_also=("context ls", "context use"),
    ),
    "context inspect": Text(
        "Prints what contexts hold as JSON, or what a Go template makes of it; without a name, the one in use.",
        examples=(("The address", "berth context inspect --format '{{.Endpoints.docker.Host}}' build"),),
        see_also=("context ls", "context export"),
    ),
    "context export": Text(
        "Writes a context with its certificates and keys to CONTEXT.dockercontext, to another file, or with - to standard output. "
        "Whoever has the file has the keys.",
        examples=(("To a file", "berth context export build"), ("To another machine", "berth context export build - | ssh desk berth context import build -")),
        see_also=("context import", "context create"),
    ),
    "context import": Text(
        "Brings in a context that berth or Docker exported, under a name of its own, from a file or standard input.",
        examples=(("From a file", "berth context import build build.dockercontext"),),
        see_also=("context export", "context use"),
    ),
    "completion": Text(
        "Prints the script that lets a shell complete berth's commands, flags and values, and the names of containers, images and "
        "contexts. Completion never starts an engine, and gives up after two seconds.",
        examples=(("bash, in this shell; or in ~/.bashrc", "source <(berth completion bash)"),
                  ("bash, for everybody", "berth completion bash > /etc/bash_completion.d/berth"),
                  ("zsh, in a directory of fpath", "berth completion zsh > /usr/local/share/zsh/site-functions/_berth"),
                  ("fish", "berth completion fish > ~/.config/fish/completions/berth.fish")),
        see_also=("version",),
    ),
    "engine": Text(
        "Runs the engine in the foreground. It keeps images and containers below --data-root and answers the Docker Engine API on every "
        "--host. Stopping it (SIGINT or SIGTERM) leaves containers running; the next engine on the same roots finds them. Several "
        "engines run side by side if each has roots of its own.",
        "Without it, the first command starts one in the background.",
        examples=(("On the default socket", "berth engine"),
                  ("A second one, with everything of its own", "berth engine --data-root /srv/two --exec-root /run/two -H unix:///run/two/berth.sock"),
                  ("For other machines, with certificates", "berth engine -H fd:// -H tcp://0.0.0.0:2376 --tlsverify"),
                  ("Check the configuration", "berth engine --config-file daemon.json --validate")),
        see_also=("system service", "info", "events"),
        groups=(("Addresses", "host group tls tlsverify tlscacert tlscert tlskey metrics-addr"),
                ("Places and configuration", "data-root exec-root config-file pidfile validate storage-driver label experimental live-restore "
                                             "shutdown-timeout"),
                ("Defaults of containers", "default-runtime add-runtime cgroup-parent default-cgroupns-mode default-ipc-mode "
                                           "default-shm-size default-ulimit dns dns-opt dns-search exec-opt init init-path "
                                           "no-new-privileges seccomp-profile userns-remap log-driver log-opt"),
                ("Networks", "bridge bip bip6 fixed-cidr fixed-cidr-v6 default-gateway default-gateway-v6 default-address-pool default-network-opt "
                             "icc ip ip-forward ip-forward-no-drop ip-masq ipv6 mtu published-ports host-gateway-ip userland-proxy"),
                ("Registries", "insecure-registry registry-mirror http-proxy https-proxy no-proxy allow-nondistributable-artifacts max-concurrent-downloads max-concurrent-uploads max-download-attempts"),
                ("The engine's own log", "debug log-level log-format")),
    ),
    "oci": Text(
        "The OCI runtime: create, start, kill, delete and the others, on bundles, without an engine; for containerd, Podman, dockerd "
        "and hands. berth oci --help has its verbs.",
        examples=(("Its verbs", "berth oci --help"), ("Run a bundle to its end", "berth oci run --bundle ./bundle box")),
        see_also=("engine",),
    ),
}  # fmt: skip
