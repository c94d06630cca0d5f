"""Words for what shows containers."""

from berth.cli.texts import Text

_TEMPLATES = (
    "--format takes table (which may be followed by a template with tabs between columns), json for one object a line, or a Go "
    "template."
)

TEXTS: "dict[str, Text]" = {
    "ps": Text(
        "Lists the containers that run; all of them with --all.",
        "Filters: id, name, label, status (created, running, paused, restarting, removing, exited, dead), exited (an exit code), "
        "ancestor (an image), before and since (another container), health, network, volume, publish, expose, is-task. Several "
        "values of one filter widen, several filters narrow.",
        _TEMPLATES + " Fields: .ID .Names .Image .Command .CreatedAt .RunningFor .State .Status .Ports .Size .Labels .Label "
        ".Mounts .Networks .LocalVolumes.",
        examples=(("All, with the size of what they wrote", "berth ps --all --size"),
                  ("Names and states of those with a label", "berth ps -a --filter label=team=a --format 'table {{.Names}}\\t{{.Status}}'"),
                  ("The last one created, for a script", "berth ps --latest --quiet")),
        see_also=("inspect", "stats", "top", "images"),
    ),
    "logs": Text(
        "Prints what a container wrote to standard output and standard error, each to its own. With --follow it goes on until the "
        "container ends.",
        "Times are RFC 3339 (2026-01-02T15:04:05, with Z or an offset for another time zone), seconds since 1970, or spans back from "
        "now like 10m or 1h30m.",
        examples=(("The last twenty lines, and what follows", "berth logs --tail 20 --follow web"),
                  ("What came in the last hour, with times", "berth logs --since 1h --timestamps web")),
        see_also=("attach", "events", "run"),
    ),
    "top": Text(
        "Shows the processes of a container as the host's ps sees them. What stands behind the container's name goes to ps; "
        "without it, that is -ef.",
        examples=(("All of them", "berth top web"), ("With columns of your choice", "berth top web -o pid,user,rss,args")),
        see_also=("stats", "exec", "ps"),
    ),
    "stats": Text(
        "Shows what containers use of processors, memory, network and disks: all that run, or those that are named. On a terminal "
        "the table is drawn anew each second; where it is piped, one table follows another.",
        "100 % of CPU is one whole processor. Memory is without the page cache that can be dropped at once.",
        _TEMPLATES + " Fields: .Container .ID .Name .CPUPerc .MemUsage .MemPerc .NetIO .BlockIO .PIDs.",
        examples=(("Watch all", "berth stats"), ("Once, for a script", "berth stats --no-stream --format json db"),
                  ("Names and memory alone", "berth stats --no-stream --format 'table {{.Name}}\\t{{.MemUsage}}'")),
        see_also=("top", "update", "ps"),
    ),
    "why": Text(
        "Says in a line why a container ended, would not start or is as it is, and what to do: exit code or signal and who asked for "
        "it, memory that ran out with limit and peak, a missing interpreter, another machine's program, a denied call, a port in "
        "use, a failing health check.",
        "What was recorded comes first. Where that leaves it open, the program's last words decide, and the line says that it is "
        "likely. A container that --rm removed is remembered until the engine ends.",
        "Fields for --format: .Reason .Likely .Summary .Advice .ExitCode .Signal .OOMKilled .MemoryLimit .MemoryPeak .Asked .Error .Log.",
        examples=(("In a line", "berth why web"), ("With all that is known", "berth why --verbose web"),
                  ("A word for a script", "berth why --format '{{.Reason}}' web")),
        see_also=("logs", "inspect", "events"),
    ),
    "port": Text(
        "Lists the ports of a container that are published on the host, or where one of them is.",
        examples=(("All of them", "berth port web"), ("Where port 80 is", "berth port web 80/tcp")),
        see_also=("ps", "inspect", "run"),
    ),
    "diff": Text(
        "Lists every file and directory that a container changed against its image: A for added, C for changed, D for deleted.",
        examples=(("What was written", "berth diff web"),),
        see_also=("commit", "export", "cp"),
    ),
    "inspect": Text(
        "Prints all that is known of containers and images as JSON, or what a Go template makes of it. --type says which of them "
        "is meant where both have the name.",
        "Functions of templates: json, join, split, lower, upper, title, pad, truncate, println, printf, index, len, slice, eq, "
        "ne, lt, le, gt, ge, and, or, not.",
        examples=(("Everything", "berth inspect web"), ("Its process id", "berth inspect --format '{{.State.Pid}}' web"),
                  ("Its mounts, one a line", "berth inspect -f '{{range .Mounts}}{{.Source}} {{.Destination}}{{println}}{{end}}' web"),
                  ("The environment of an image, as JSON", "berth inspect --type image -f '{{json .Config.Env}}' debian")),
        see_also=("ps", "images", "logs"),
    ),
    "container inspect": Text(
        "Prints all that is known of containers as JSON, or what a Go template makes of it.",
        examples=(("Its exit code", "berth container inspect -f '{{.State.ExitCode}}' job"),
                  ("With the size of what it wrote", "berth container inspect --size web")),
        see_also=("inspect", "ps", "image inspect"),
    ),
    "events": Text(
        "Prints what happens to containers and images as it happens, and what happened since a time; with --until it ends.",
        "Filters: container, image, event (such as create, start, die, oom, health_status), type, label, daemon, scope. Several "
        "values of one filter widen, several filters narrow.",
        examples=(("Watch", "berth events"), ("What ended in the last hour, and how",
                  "berth events --since 1h --until 0s --filter event=die --format '{{.Actor.Attributes.name}} {{.Actor.Attributes.exitCode}}'"),
                  ("As JSON, for a program", "berth events --format json")),
        see_also=("logs", "ps"),
    ),
}  # fmt: skip
