"""berth registry: the flags of the registry server and of its garbage collector. The work is in registry_main, a process of its own."""

import os
import sys

from berth.cli.command import parse_command
from berth.cli.flags import Flag, Syntax

TYPE_CHECKING = False
if TYPE_CHECKING:
    from berth.cli.main import Invocation

_PLACES: "tuple[Flag, ...]" = (
    ("root", "", "string", "DIR", "Where everything is kept (default /var/lib/berth-registry); with --s3, uploads and keys alone"),
    ("s3", "", "string", "URL", "Keep images in S3: s3://BUCKET or s3://BUCKET/PREFIX; credentials as AWS_ACCESS_KEY_ID and the like"),
    ("s3-endpoint", "", "string", "URL", "Address of a storage that speaks S3 (default Amazon's)"),
    ("s3-region", "", "string", "NAME", "Region of the bucket (default AWS_REGION)"),
)
_COLLECTING: "tuple[Flag, ...]" = (
    ("delete-untagged", "", "bool", "", "Collect manifests that no tag leads to as well"),
    ("grace", "", "string", "TIME", "How long what was used or uploaded last is spared (default 24h)"),
)
_SERVE: "tuple[Flag, ...]" = (
    ("access-log", "", "string", "FILE", "A line for each request: a file, - for standard error, none (default -)"),
    ("addr", "", "list", "HOST:PORT", "Address to listen on (default 127.0.0.1:5000)"),
    ("anonymous-pull", "", "bool", "", "Who is not logged in may pull"),
    ("auth", "", "string", "KIND", "How clients log in: token or basic (default token)"),
    ("gc-interval", "", "string", "TIME", "Collect garbage this often, 0s for never (default 6h)"),
    ("htpasswd", "", "string", "FILE", "Users and their passwords, as htpasswd -B writes them; without it the registry is open to all"),
    ("log-level", "l", "string", "LEVEL", "debug, info, warn or error (default info)"),
    ("max-blob-size", "", "string", "SIZE", "Largest blob that is taken (default: any)"),
    ("metrics-addr", "", "string", "HOST:PORT", "Address that serves /metrics to Prometheus"),
    ("no-delete", "", "bool", "", "Refuse to delete tags, manifests and blobs"),
    ("proxy-cache-size", "", "string", "SIZE", "How much the cache may take; the least recently used goes first (default: any)"),
    ("proxy-password-file", "", "string", "FILE", "File with the password for --proxy-remote"),
    ("proxy-remote", "", "string", "URL", "Be a cache of this registry, e.g. https://registry-1.docker.io"),
    ("proxy-username", "", "string", "NAME", "User name for --proxy-remote"),
    ("ready-fd", "", "int", "FD", "Descriptor that gets a line with the addresses when requests are served"),
    ("rights", "", "string", "FILE", "Who may pull, push and delete in which repositories; without it every user may do all"),
    ("stop-timeout", "", "string", "TIME", "How long requests may take to their end after SIGTERM (default 30s)"),
    ("tlscert", "", "string", "FILE", "Certificate to serve TLS with"),
    ("tlskey", "", "string", "FILE", "Key of that certificate"),
    ("url", "", "string", "URL", "Address by which clients reach this registry, behind a proxy that changes it"),
)  # fmt: skip
SYNTAX = {
    "registry serve": Syntax("[OPTIONS]", tuple(sorted((*_PLACES, *_COLLECTING, *_SERVE))), at_most=0),
    "registry gc": Syntax("[OPTIONS]", tuple(sorted((*_PLACES, *_COLLECTING, ("dry-run", "", "bool", "", "Say what would go, remove nothing")))), at_most=0),
}


def registry(call: "Invocation") -> int:
    """Checks the words, then becomes the program that needs more than the standard library."""
    parse_command(call, SYNTAX)
    from berth.cli.autostart import module_command

    command = module_command("berth.cli.registry_main")
    sys.stdout.flush()
    os.execv(command[0], [*command, call.name.removeprefix("registry "), *call.words])
