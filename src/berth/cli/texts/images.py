"""Words for images and registries."""

from berth.cli.texts import Text

TEXTS: "dict[str, Text]" = {
    "images": Text(
        "Lists images: one line for each name. REPOSITORY limits the list to one repository, with a tag to one image; * stands for "
        "any letters.",
        "--tree shows under each image the platforms that its index lists; those that are not here are faint.",
        "Filters: dangling (true or false), label, reference (a pattern), before and since (another image), until.",
        examples=(("All", "berth images"), ("Those of one name, with whole ids", "berth images --no-trunc app"),
                  ("Ids of images without a name", "berth images --quiet --filter dangling=true"),
                  ("Platforms of an image", "berth images --tree debian")),
        see_also=("rmi", "tag", "pull", "load", "import"),
    ),
    "import": Text(
        "Makes an image of one layer from a tar archive of a root file system, plain or compressed: a file, - for standard "
        "input, or a URL from which the engine fetches it. Its id is printed.",
        "--change applies an instruction of a Dockerfile to the image's configuration: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, "
        "ONBUILD, USER, VOLUME or WORKDIR.",
        examples=(("A root file system made by debootstrap", "tar -C rootfs -c . | berth import - debian:mine"),
                  ("From a web server", "berth import https://example.org/rootfs.tar.gz tools:2"), ("With a command", "berth import --change 'CMD [\"/bin/sh\"]' rootfs.tar.gz tools:1")),
        see_also=("export", "load", "images"),
    ),
    "load": Text(
        "Brings in the images of an archive, with their names: one of docker save or berth save, or an OCI layout; plain or "
        "compressed; a file or standard input.",
        "Of an image for several platforms, the one that fits the engine is taken, unless --platform names another.",
        examples=(("From a file", "berth load --input app.tar"), ("From another engine", "docker save app | berth load"),
                  ("The image for another machine", "berth load --platform linux/arm64 --input app.tar")),
        see_also=("save", "import", "images"),
    ),
    "save": Text(
        "Writes images with all their layers and names to an archive that berth load and docker load read: to standard output, or to "
        "the file that --output names.",
        examples=(("Two images in one file", "berth save --output both.tar app:1 db:2"), ("To another host", "berth save app | ssh host berth load")),
        see_also=("load", "export"),
    ),
    "rmi": Text(
        "Removes images by name or id. While an image has other names, only the name goes. An image that a container uses is refused; "
        "--force takes it from one that does not run.",
        examples=(("A name", "berth rmi app:old"), ("An image with all its names", "berth rmi --force 3f8a4339aadd")),
        see_also=("images", "image prune", "rm"),
    ),
    "tag": Text(
        "Gives an image one more name. A tag that another image has moves to this one. Without a tag, latest is meant.",
        examples=(("A version", "berth tag app app:1.2"), ("A name for a registry", "berth tag app registry.example.org/team/app:1.2")),
        see_also=("images", "rmi"),
    ),
    "image inspect": Text(
        "Prints all that is known of images as JSON, or what a Go template makes of it.",
        examples=(("What it runs", "berth image inspect -f '{{json .Config.Cmd}}' debian"),
                  ("Its layers", "berth image inspect -f '{{range .RootFS.Layers}}{{println .}}{{end}}' debian")),
        see_also=("inspect", "images", "container inspect"),
    ),
    "image prune": Text(
        "Removes images that have no name and that no container uses, after asking; with --all every image that no container uses. "
        "The filters label, label! and until limit it to some.",
        examples=(("Those without a name", "berth image prune --force"), ("All that are not in use and older than ten days", "berth image prune --all --filter until=240h")),
        see_also=("rmi", "container prune", "system prune"),
    ),
    "registry serve": Text(
        "Serves images to docker, berth, podman, skopeo and whatever else speaks the OCI distribution specification 1.1, from a "
        "directory or from S3. Stopping it (SIGINT or SIGTERM) lets requests come to their end. docker search finds images by name "
        "and description; a browser shows repositories, tags, layers and sizes.",
        "Without --htpasswd it is open to all that reach it; without --tlscert clients take it only from this machine's loopback, or "
        "as an insecure registry. Passwords, tokens and S3 need Python packages that the extras registry and s3 of berth bring.",
        "With --proxy-remote it is a cache of another registry: what is pulled through it is kept, and pushes are refused.",
        examples=(("For this machine", "berth registry serve --root /srv/images"),
                  ("For a team", "berth registry serve --addr 0.0.0.0:443 --tlscert cert.pem --tlskey key.pem --htpasswd users"),
                  ("With rights for each repository", "berth registry serve --htpasswd users --rights rights"),
                  ("With passwords for users", "htpasswd -Bc users alice && berth registry serve --htpasswd users --anonymous-pull"),
                  ("A cache of Docker Hub", "berth registry serve --addr 127.0.0.1:5001 --root /srv/hub --proxy-remote https://registry-1.docker.io")),
        see_also=("registry gc", "engine"),
        groups=(("Addresses and TLS", "addr url tlscert tlskey metrics-addr"),
                ("Storage", "root s3 s3-endpoint s3-region max-blob-size"),
                ("Who may do what", "htpasswd rights auth anonymous-pull no-delete"),
                ("Cache of another registry", "proxy-remote proxy-username proxy-password-file proxy-cache-size"),
                ("Garbage collection", "gc-interval grace delete-untagged"),
                ("Logs, starting and stopping", "access-log log-level ready-fd stop-timeout")),
    ),
    "registry gc": Text(
        "Removes blobs that no manifest leads to, and uploads that nobody goes on with. A registry that serves this --root is asked to "
        "do it, and goes on serving; where none does, it is done here, and none can start meanwhile.",
        "What was used within the time of --grace stays, so that no push that is under way loses a blob. A registry that serves has a "
        "time of its own.",
        examples=(("What would go", "berth registry gc --root /srv/images --dry-run"),
                  ("Manifests without a tag as well", "berth registry gc --root /srv/images --delete-untagged")),
        see_also=("registry serve", "image prune"),
    ),
}  # fmt: skip
