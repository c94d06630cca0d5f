"""What `berth registry serve` is told."""

from berth.errors import InvalidParameter
from berth.models import durations


class Options:
    """Defaults are those of the command line. Sizes are 0 for no bound."""

    def __init__(self) -> None:
        self.root = "/var/lib/berth-registry"
        self.addresses = ["127.0.0.1:5000"]
        self.metrics_address = ""
        self.s3 = ""  # s3://BUCKET/PREFIX
        self.s3_endpoint = ""
        self.s3_region = ""
        self.tls_certificate = ""
        self.tls_key = ""
        self.htpasswd = ""
        self.rights = ""
        self.tokens = True
        self.anonymous_pull = False
        self.url = ""  # as clients write it, where that is not what they send as Host
        self.remote = ""
        self.remote_username = ""
        self.remote_password_file = ""
        self.cache_bytes = 0
        self.most_blob_bytes = 0
        self.deletes = True
        self.delete_untagged = False
        self.grace_s = 24 * 3600.0
        self.collect_every_s = 6 * 3600.0
        self.stop_timeout_s = 30.0
        self.access_log = "-"

    def check(self) -> None:
        """InvalidParameter for what cannot go together."""
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise InvalidParameter("--tlscert and --tlskey: give both or neither")
        if self.anonymous_pull and not self.htpasswd:
            raise InvalidParameter("--anonymous-pull: without --htpasswd anybody may push as well; give --htpasswd FILE")
        if self.rights and not self.htpasswd:
            raise InvalidParameter("--rights: whose rights they are is known by passwords; give --htpasswd FILE")
        if self.rights and self.anonymous_pull:
            raise InvalidParameter("--anonymous-pull: with --rights, a line of that file says so: `* ** pull`")
        if self.anonymous_pull and not self.tokens:
            raise InvalidParameter("--anonymous-pull needs tokens: with --auth basic no client would pull without a password")
        if self.remote and not self.remote.startswith(("http://", "https://")):
            raise InvalidParameter(f"--proxy-remote {self.remote!r}: give an http or https URL")
        if self.s3 and not self.s3.startswith("s3://"):
            raise InvalidParameter(f"--s3 {self.s3!r}: give s3://BUCKET or s3://BUCKET/PREFIX")


def seconds(flag: str, text: str) -> float:
    """A duration of the command line: 90s, 1h30m."""
    try:
        found = durations.parse_ns(text) / 1e9
    except ValueError:
        found = -1.0
    if found < 0:
        raise InvalidParameter(f"--{flag} {text!r} is not a duration: write 90s, 30m or 24h")
    return found


def size_bytes(flag: str, text: str) -> int:
    """A size of the command line: 500m, 20g; 0 for no bound."""
    number, unit = text.strip().lower().removesuffix("b"), 1
    if number[-1:] in ("k", "m", "g", "t"):
        unit = 1 << {"k": 10, "m": 20, "g": 30, "t": 40}[number[-1]]
        number = number[:-1]
    if not (number.isascii() and number.isdigit() and len(number) < 16):
        raise InvalidParameter(f"--{flag} {text!r} is not a size: write 500m or 20g")
    return int(number) * unit
