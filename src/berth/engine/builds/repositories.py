"""What a build's client lends for Git repositories: a token for those by http, an agent for those by ssh."""

from urllib.parse import urlsplit

from berth import errors
from berth.build.files import git
from berth.build.files.cloning import Access
from berth.engine.builds.request import Client

_TOKEN = "GIT_AUTH_TOKEN"  # the id of a secret, as BuildKit has it; with `.HOST` for one host alone
_AGENT = "default"


async def access(client: Client, url: str) -> Access:
    """InvalidParameter for what is no repository, or a token that is no text."""
    remote = git.parse(url).remote
    if remote.startswith(("http://", "https://")):
        return Access(token=await _token(client, urlsplit(remote).netloc.rpartition("@")[2]))
    if remote.startswith("git://"):
        return Access()
    return Access(ssh_socket=await client.ssh_socket(_AGENT, 0, 0, 0o600) or "")


async def _token(client: Client, host: str) -> str:
    for identity in (f"{_TOKEN}.{host}", _TOKEN):
        if value := await client.secret(identity):
            try:
                return value.decode().strip()
            except UnicodeDecodeError:
                raise errors.InvalidParameter(f"secret {identity}: it is no text, which a token for {host} would be") from None
    return ""
