"""Words for builds."""

from berth.cli.texts import Text

TEXTS: "dict[str, Text]" = {
    "build": Text(
        "Builds an image from a Dockerfile and the files of a directory, PATH, of which only what the Dockerfile uses and what has changed "
        "since the last build is sent to the engine. - takes an archive with the files, or a Dockerfile alone, from standard input; a URL "
        "is fetched by the engine: an archive, a Dockerfile, or a Git repository, of which #BRANCH:DIRECTORY names a part.",
        "A file named like the Dockerfile with .dockerignore behind it, or else .dockerignore in PATH, says which files are none of the "
        "build's business.",
        "Steps that do not depend on each other run side by side; a step whose inputs are those of an earlier build is not run again. --why "
        "says of each step that was which input has changed.",
        "--output says where the result goes instead of the engine's images: DEST for the files of the last stage in a directory; "
        "type=tar,dest=FILE for an archive of them; type=oci,dest=FILE and type=docker,dest=FILE for an archive of the image; "
        "type=registry for a registry. dest=- is standard output.",
        "Ctrl-C ends the build and leaves nothing of it but the steps that were done. The exit code is 1 where a step fails.",
        examples=(
            ("The Dockerfile in this directory", "berth build --tag app ."),
            ("Another Dockerfile, one stage of it", "berth build --file deploy/Dockerfile --target test ."),
            ("Which step was made anew, and why", "berth build --why ."),
            ("With a secret that stays nowhere", "berth build --secret id=token,src=token.txt ."),
            ("Files as a result", "berth build --output out ."),
            ("Two platforms, into a registry", "berth build --platform linux/amd64,linux/arm64 --tag registry.example.org/app --push ."),
            ("What could be wrong in a Dockerfile", "berth build --check ."),
            ("The arguments and secrets that it takes, for a script", "berth build --call outline,format=json ."),
            ("With an image of an OCI layout for FROM base", "berth build --build-context base=oci-layout://layout:v1 ."),
            ("Without any files", "echo 'FROM debian' | berth build -"),
        ),
        see_also=("images", "builder prune", "history", "push", "run"),
        groups=(
            ("What is built", "file target build-arg build-context platform label annotation tag secret ssh network add-host"),
            ("Cache", "no-cache no-cache-filter pull cache-from cache-to why"),
            ("Where it goes", "output load push iidfile metadata-file squash attest sbom provenance"),
            ("How it is shown", "progress quiet check call"),
            ("Limits of each step", "memory memory-swap cpu-shares cpu-period cpu-quota cpuset-cpus cpuset-mems shm-size ulimit resource cgroup-parent allow"),
            ("Without effect", "builder compress debug force-rm isolation policy rm security-opt"),
        ),
    ),
    "builder prune": Text(
        "Removes results of steps that are kept so that later builds need not make them again, after asking; those that images are made of "
        "stay, unless --all is given. With --keep-storage those used last stay, up to so many bytes.",
        examples=(("All that no image is made of", "berth builder prune --force"), ("What a week has not used", "berth builder prune --all --filter until=168h")),
        see_also=("build", "buildx du", "system prune"),
    ),
    "buildx prune": Text(
        "Removes results of steps that are kept so that later builds need not make them again, after asking, and lists them; those that images "
        "are made of stay, unless --all is given.",
        examples=(("Down to five gigabytes", "berth buildx prune --all --force --max-used-space 5gb"),),
        see_also=("builder prune", "buildx du"),
    ),
    "buildx du": Text(
        "Lists results of steps that are kept for later builds, directories of --mount=type=cache, and copies of build contexts, with "
        "what they take. * behind a size: an image has it too, so that removing it frees nothing.",
        examples=(("All that is known", "berth buildx du --verbose"), ("Cache directories alone", "berth buildx du --filter type=exec.cachemount")),
        see_also=("builder prune", "system df"),
    ),
    "buildx ls": Text("Lists builders in the form of Docker's buildx. The engine is the only one.", examples=(("In words for scripts", "berth buildx ls --format json"),), see_also=("buildx inspect",)),
    "buildx inspect": Text("Prints what is known of the builder in the form of Docker's buildx.", examples=(("The engine", "berth buildx inspect"),), see_also=("buildx ls", "info")),
    "buildx version": Text("Prints the version: berth builds by itself.", examples=(("For scripts that ask", "berth buildx version"),), see_also=("version",)),
}  # fmt: skip
