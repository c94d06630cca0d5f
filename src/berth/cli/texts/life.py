"""Words for what begins, ends and changes containers."""

from berth.cli.texts import Text

TEXTS: "dict[str, Text]" = {
    "start": Text(
        "Starts containers that were created or have ended, with the program and the limits they were created with. The name of "
        "each that started is printed.",
        "With --attach its output comes here, its signals go there, and its exit code becomes that of berth start; that works for "
        "one container at a time.",
        examples=(("Start two", "berth start db web"), ("Start one and see what it does", "berth start --attach --interactive job")),
        see_also=("create", "restart", "stop", "attach"),
    ),
    "stop": Text(
        "Asks containers to end: the stop signal (SIGTERM unless the image or --stop-signal says otherwise), and SIGKILL if the "
        "container has not ended in time (10 seconds unless --stop-timeout or --timeout says otherwise).",
        "A restart policy does not start again what was stopped so.",
        examples=(("Stop it", "berth stop web"), ("Give it a minute", "berth stop --timeout 60 db"),
                  ("Stop everything that runs", "berth stop $(berth ps -q)")),
        see_also=("start", "kill", "restart", "rm"),
    ),
    "restart": Text(
        "Stops containers as berth stop does, and starts them again. One that does not run is started.",
        examples=(("Restart it", "berth restart web"), ("Do not wait for it to end by itself", "berth restart --timeout 0 web")),
        see_also=("start", "stop", "update"),
    ),
    "kill": Text(
        "Sends a signal to the first program of each container, SIGKILL if none is named. Any signal may be sent, by name or "
        "number; one that the program handles need not end it.",
        examples=(("End it now", "berth kill web"), ("Let a server read its configuration again", "berth kill --signal HUP web")),
        see_also=("stop", "pause"),
    ),
    "rm": Text(
        "Removes containers with their files and logs. One that runs is refused, unless --force kills it first.",
        examples=(("Remove one that has ended", "berth rm job"), ("Remove it whatever it does", "berth rm --force job"),
                  ("Remove all that failed with exit code 1", "berth rm $(berth ps -aq --filter exited=1)")),
        see_also=("stop", "container prune", "rmi"),
    ),
    "wait": Text(
        "Waits until each container has ended, and prints its exit code. For one that does not run, that is the code it ended with.",
        examples=(("Wait for two jobs", "berth wait first second"),),
        see_also=("run", "logs", "inspect"),
    ),
    "pause": Text(
        "Freezes every process of the containers with the kernel's freezer: they keep their memory and get no processor time, and "
        "cannot tell that it happened.",
        examples=(("Freeze it", "berth pause db"),),
        see_also=("unpause", "stop"),
    ),
    "unpause": Text(
        "Lets frozen containers go on where they were.",
        examples=(("Let it go on", "berth unpause db"),),
        see_also=("pause",),
    ),
    "update": Text(
        "Changes limits and the restart policy of containers. Limits of one that runs change at once, without a restart; what no "
        "flag names stays as it is.",
        "A memory limit cannot go above --memory-swap: raise both.",
        "--publish-add, --publish-rm, --mount-add and --mount-rm change a container that runs, too, and hold over its next starts. "
        "--publish-rm 8080:80 takes back this one, --publish-rm 80 all that lead to the container's port 80.",
        examples=(("Give it more memory", "berth update --memory 1g --memory-swap 2g db"),
                  ("Start it again from now on, also after a reboot", "berth update --restart unless-stopped web db"),
                  ("Publish a port of a running container, and take it back", "berth update --publish-add 8443:443 web\nberth update --publish-rm 8443:443 web"),
                  ("Show it a directory that it was not started with", "berth update --mount-add type=bind,source=/srv/data,target=/data,readonly web")),
        see_also=("run", "inspect", "stats"),
        groups=(("Memory", "memory memory-swap memory-reservation kernel-memory"),
                ("Processors", "cpus cpu-shares cpuset-cpus cpuset-mems cpu-quota cpu-period cpu-rt-period cpu-rt-runtime"),
                ("Ports and mounts", "publish-add publish-rm mount-add mount-rm"), ("Others", "pids-limit blkio-weight restart")),
    ),
    "rename": Text(
        "Gives a container another name. A name has letters, digits and _ . - and begins with a letter or digit.",
        examples=(("Rename it", "berth rename web web-old"),),
        see_also=("ps", "tag"),
    ),
    "container prune": Text(
        "Removes every container that does not run, after asking. The filter label (or label!, for those without it) limits it to "
        "some, until to those created before a time or longer ago than a span.",
        examples=(("Ask, then remove", "berth container prune"),
                  ("Without a question, those older than a day", "berth container prune --force --filter until=24h")),
        see_also=("rm", "system prune", "image prune"),
    ),
    "attach": Text(
        "Connects this terminal to the program of a running container, as if it had been started here. Several can be attached at "
        "once. ctrl-p ctrl-q leaves a container with a terminal and lets it run; --detach-keys names other keys.",
        "Exit code: that of the program, if it ends while attached.",
        examples=(("See and type", "berth attach shell"), ("See only, and let ctrl-c end nothing but this", "berth attach --no-stdin --sig-proxy=false web")),
        see_also=("logs", "exec", "start"),
    ),
    "cp": Text(
        "Copies a file or a directory between a container, running or not, and the local file system. Names follow cp -r: into "
        "DEST_PATH where it is a directory, else under that name; SRC_PATH/. means what is in the directory. - for one side reads "
        "or writes a tar archive.",
        "Links inside the container are followed inside it and never lead out.",
        examples=(("A file out of a container", "berth cp web:/etc/hosts hosts"),
                  ("A directory into it, with its owners", "berth cp --archive site/. web:/srv/site"),
                  ("A directory as an archive", "berth cp web:/var/log - | tar t")),
        see_also=("export", "diff", "exec"),
    ),
    "commit": Text(
        "Makes an image of what a container changed in its files, on top of its own image. The container stands still meanwhile, "
        "unless --no-pause says otherwise. Volumes and bind mounts are no part of it.",
        "--change applies an instruction of a Dockerfile to the image's configuration: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, "
        "ONBUILD, USER, VOLUME or WORKDIR.",
        examples=(("Keep what was installed by hand", "berth commit work work:installed"),
                  ("With another command", "berth commit --change 'CMD [\"/app\"]' --message 'built by hand' work app:1")),
        see_also=("diff", "export", "images"),
    ),
    "export": Text(
        "Writes all files of a container, running or not, as one tar archive: to standard output, or to the file that --output "
        "names. Its configuration is no part of it; berth commit and berth save keep that.",
        examples=(("To a file", "berth export --output web.tar web"), ("Look at it on the way", "berth export web | tar t")),
        see_also=("import", "commit", "save", "cp"),
    ),
}  # fmt: skip
