"""Words for run, create and exec."""

from berth.cli.texts import Text

_GROUPS = (
    ("The container", "name detach rm interactive tty attach detach-keys sig-proxy init entrypoint workdir user group-add hostname "
                      "domainname label label-file annotation cidfile platform pull quiet runtime"),
    ("Environment", "env env-file"),
    ("Files", "volume mount tmpfs read-only volumes-from volume-driver storage-opt shm-size use-api-socket"),
    ("Network", "network network-alias publish publish-all expose add-host dns dns-option dns-search ip ip6 link "
                "link-local-ip mac-address"),
    ("Memory, processors and other limits",
     "memory memory-swap memory-reservation memory-swappiness kernel-memory oom-kill-disable oom-score-adj cpus cpu-shares "
     "cpuset-cpus cpuset-mems cpu-quota cpu-period cpu-rt-period cpu-rt-runtime cpu-count cpu-percent pids-limit ulimit "
     "blkio-weight blkio-weight-device device-read-bps device-read-iops device-write-bps device-write-iops io-maxbandwidth "
     "io-maxiops"),
    ("Security", "privileged cap-add cap-drop security-opt disable-content-trust device device-cgroup-rule gpus userns pid ipc uts cgroupns "
                 "cgroup-parent sysctl isolation"),
    ("Health", "health-cmd health-interval health-timeout health-retries health-start-period health-start-interval no-healthcheck"),
    ("Ending and starting again", "restart stop-signal stop-timeout"),
    ("Logs", "log-driver log-opt"),
)  # fmt: skip

TEXTS: "dict[str, Text]" = {
    "run": Text(
        "Makes a container from an image and starts it. COMMAND and its arguments replace what the image would run. Flags for "
        "berth stand before IMAGE; what stands behind it belongs to the program.",
        "Without -d, berth stays connected: the program's output is yours, signals go to it, and its exit code becomes that of "
        "berth run. With -it it gets a terminal; ctrl-p ctrl-q leaves it running.",
        "Exit code: that of the program; 125 if berth itself failed, 126 if the program cannot be executed, 127 if it was not "
        "found, 128+n if signal n ended it.",
        "A container joins the default network, bridge, unless --network names others; in networks of your own (berth network create) "
        "containers know each other by name. --network name=web,ip=10.1.0.5,alias=db says more of one, and may be given for several; --ip, "
        "--network-alias and the like are for the first. A port is published on all addresses of the host unless one stands before it.",
        "Sizes are bytes, or have b, k, m or g behind them. Durations are written like 90s or 1h30m.",
        examples=(
            ("Run a shell in a container that is removed when it ends", "berth run --rm -it debian bash"),
            ("Start a server in the background, with a name and a directory of the host",
             "berth run -d --name web -v /srv/site:/site:ro -p 8080:80 busybox httpd -f -h /site"),
            ("Two that find each other by name", "berth network create shop\nberth run -d --network shop --name db postgres\n"
             "berth run -d --network shop -p 127.0.0.1:8000:80 shop-web"),
            ("Limit memory and processors, and start it again when it fails",
             "berth run -d --memory 512m --cpus 1.5 --restart on-failure:5 worker"),
            ("Pass variables: one set here, one from your own environment, more from a file",
             "berth run --rm -e MODE=test -e HOME --env-file settings.env debian env"),
            ("Take everything away from a program that needs nothing",
             "berth run --rm --read-only --cap-drop ALL --security-opt no-new-privileges --user 1000 debian id"),
        ),
        see_also=("create", "exec", "ps", "logs", "stop", "rm", "network create"), groups=_GROUPS,
    ),
    "create": Text(
        "Makes a container as berth run does, with the same flags, and leaves it at that: its id is printed, and berth start "
        "starts it.",
        examples=(
            ("Prepare a container, put a file into it, start it",
             "berth create --name job debian sh /job.sh\nberth cp job.sh job:/job.sh\nberth start --attach job"),
            ("Keep the id for a script", "berth create --cidfile job.id debian true"),
        ),
        see_also=("run", "start", "cp"), groups=_GROUPS,
    ),
    "exec": Text(
        "Runs one more program in a container that runs, with the container's namespaces, limits and, unless flags say "
        "otherwise, its user, environment and working directory. It ends with the container.",
        "Exit code: that of the program; 126 if it cannot be executed, 127 if it was not found, 1 if berth itself failed.",
        examples=(
            ("A shell", "berth exec -it web sh"),
            ("One command as another user, with a variable", "berth exec --user 1000 -e DEBUG=1 web /app/check"),
            ("Feed it from a pipe", "berth exec -i db restore < dump"),
        ),
        see_also=("run", "attach", "top"),
    ),
}  # fmt: skip
