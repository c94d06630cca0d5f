"""Words for registries: what comes from them and goes there."""

from berth.cli.texts import Text

TEXTS: "dict[str, Text]" = {
    "pull": Text(
        "Fetches an image with all its layers. A name without a registry is one of Docker Hub's: debian is docker.io/library/debian. "
        "Without a tag, latest is meant. What is here already is not fetched again, and a pull that was cut off goes on where it stopped.",
        "Of an image for several platforms, the one that fits this engine is fetched, unless --platform names another.",
        examples=(("A tag", "berth pull debian:12"), ("From another registry", "berth pull registry.example.org/team/app:1.2"),
                  ("Exactly these bytes", "berth pull debian@sha256:" + 8 * "0123abcd"),
                  ("For another machine", "berth pull --platform linux/arm64 debian")),
        see_also=("push", "login", "images", "run"),
    ),
    "push": Text(
        "Sends an image to the registry that its name begins with; give it such a name with berth tag. Layers that the registry "
        "has are not sent.",
        examples=(("To a registry", "berth tag app registry.example.org/team/app:1.2\nberth push registry.example.org/team/app:1.2"),
                  ("Every tag that is here", "berth push --all-tags registry.example.org/team/app")),
        see_also=("pull", "login", "tag"),
    ),
    "login": Text(
        "Tries a name and a password or token at a registry, Docker Hub without SERVER, and keeps what it takes for pull, push and "
        "search. What is not given is asked for.",
        "It is kept where docker login keeps it: with the credential helper that config.json names (credsStore, credHelpers), or in "
        "config.json itself, which nobody else can read. Each command line sees the other's logins.",
        examples=(("At Docker Hub", "berth login"), ("In a script", "berth login --username ada --password-stdin registry.example.org < token")),
        see_also=("logout", "pull", "push"),
    ),
    "logout": Text(
        "Forgets the login at a registry, Docker Hub without SERVER, in config.json or with the credential helper.",
        examples=(("At a registry", "berth logout registry.example.org"),),
        see_also=("login",),
    ),
    "search": Text(
        "Looks for images by name and description: at Docker Hub, or at the registry that TERM begins with.",
        "Filters: is-official (true or false) and stars (at least so many). Fields for --format: .Name .Description .StarCount "
        ".IsOfficial.",
        examples=(("At Docker Hub", "berth search --limit 5 nginx"), ("At a registry of one's own", "berth search registry.example.org/app")),
        see_also=("pull", "images"),
    ),
    "manifest inspect": Text(
        "Prints a manifest: a list made with berth manifest create if there is one of that name, or what the registry has. Of two names, "
        "the first is such a list and the second an image in it.",
        "The registry is asked by berth itself, not by the engine, with the logins of berth login.",
        examples=(("Which platforms there are", "berth manifest inspect debian:12"), ("With the platform of each", "berth manifest inspect --verbose debian:12")),
        see_also=("manifest create", "image inspect"),
    ),
    "manifest create": Text(
        "Begins a list of manifests, so that one name stands for images of several platforms. The images must be in the registry "
        "already, in any of its repositories. The list is kept in the directory of config.json until it is pushed.",
        examples=(("One name for two platforms",
                   "berth manifest create registry.example.org/app registry.example.org/app:amd64 registry.example.org/app:arm64\n"
                   "berth manifest push --purge registry.example.org/app"),),
        see_also=("manifest annotate", "manifest push"),
    ),
    "manifest annotate": Text(
        "Says which platform an image of a list is for, where its own configuration does not say it or says it wrong.",
        examples=(("A variant", "berth manifest annotate --arch arm --variant v7 registry.example.org/app registry.example.org/app:armv7"),),
        see_also=("manifest create", "manifest push"),
    ),
    "manifest push": Text(
        "Sends a list to the registry of its name. Images of other repositories there become part of the list's own without being sent.",
        examples=(("And forget it", "berth manifest push --purge registry.example.org/app"),),
        see_also=("manifest create", "push"),
    ),
    "manifest rm": Text(
        "Forgets lists that were begun here. What was pushed stays in the registry.",
        examples=(("A list", "berth manifest rm registry.example.org/app"),),
        see_also=("manifest create",),
    ),
    "history": Text(
        "Shows the steps that made an image, the last one first, with the command and the size of each.",
        "Fields for --format: .ID .CreatedSince .CreatedAt .CreatedBy .Size .Comment.",
        examples=(("All steps with whole commands", "berth history --no-trunc debian"),),
        see_also=("images", "image inspect"),
    ),
}  # fmt: skip
