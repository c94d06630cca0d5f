"""Words for volumes."""

from berth.cli.texts import Text

TEXTS: "dict[str, Text]" = {
    "volume create": Text(
        "Makes a volume: a directory that the engine keeps, which containers mount with --volume NAME:PATH and which stays when they go. "
        "Its name is printed; without a name it gets one of 64 digits. One that is there already is no error, unless it was made with "
        "other options.",
        "Options of the driver: type, device and o are those of mount(8), and are mounted while a container uses the volume; size limits "
        "what it may hold, where the file system keeps project quotas.",
        examples=(("A volume, and a container that uses it", "berth volume create data\nberth run -d --volume data:/var/lib/app app"),
                  ("In memory, of 64 MB", "berth volume create --opt type=tmpfs --opt device=tmpfs --opt o=size=64m scratch"),
                  ("A directory of the host under a name", "berth volume create --opt type=none --opt o=bind --opt device=/srv/www www"),
                  ("From a file server", "berth volume create --opt type=nfs --opt o=addr=10.0.0.5,rw --opt device=:/export/data shared")),
        see_also=("volume ls", "volume rm", "run"),
        groups=(("The volume", "driver opt label name"),
                ("Of swarms", "availability group limit-bytes required-bytes scope secret sharing topology-preferred topology-required type")),
    ),
    "volume ls": Text(
        "Lists volumes, by name.",
        "Filters: dangling (true: no container has it), driver, label, name (a part of it). Several values of one filter widen, several "
        "filters narrow; of labels all must be there.",
        "--format takes table (which may be followed by a template with tabs between columns), json for one object a line, or a Go "
        "template. Fields: .Name .Driver .Scope .Mountpoint .Labels .Label .Links .Size .Status .Availability .Group.",
        examples=(("All", "berth volume ls"), ("Those that no container has", "berth volume ls --quiet --filter dangling=true")),
        see_also=("volume inspect", "volume prune", "system df"),
    ),
    "volume inspect": Text(
        "Prints all that is known of volumes as JSON, or what a Go template makes of it.",
        examples=(("Where its files are", "berth volume inspect --format '{{.Mountpoint}}' data"),),
        see_also=("volume ls", "inspect", "system df"),
    ),
    "volume rm": Text(
        "Removes volumes with all that is in them. One that a container has, running or not, is refused.",
        examples=(("Remove one", "berth volume rm data"),),
        see_also=("volume prune", "rm", "volume ls"),
    ),
    "volume prune": Text(
        "Removes, after asking, the anonymous volumes that no container has; with --all, those with a name, too. Volumes with options "
        "stay. The filters label and label! limit it to some.",
        examples=(("Ask, then remove", "berth volume prune"), ("All of a project, without a question", "berth volume prune --all --force --filter label=project=x")),
        see_also=("volume rm", "system prune", "rm"),
    ),
    "volume update": Text(
        "Changes the availability of a volume of a swarm. This engine is in none, so there is nothing to change.",
        examples=(("What it says of one of this engine", "berth volume update --availability drain data"),),
        see_also=("volume create",),
    ),
}  # fmt: skip
