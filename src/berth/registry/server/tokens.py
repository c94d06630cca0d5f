"""The token endpoint: GET with Basic credentials or none (Docker's token specification), POST as OAuth 2 has it."""

from urllib.parse import parse_qs

from berth.registry.server.access import Access, Identity
from berth.registry.server.refusals import Refused
from berth.registry.server.registry import Registry, Request

SERVICE = "berth-registry"  # whom tokens are for
_MOST_FORM_BYTES = 64 << 10


async def get(registry: Registry, request: Request) -> None:
    access, exchange = _checked(registry), request.exchange
    header = exchange.headers.get("authorization", "")
    try:
        if header and not header.lower().startswith("basic "):
            raise Refused("UNAUTHORIZED", "a token is given for Basic credentials, or for none")
        who = await access.identify(header, SERVICE)
    except Refused as error:
        error.headers["WWW-Authenticate"] = access.challenge("", SERVICE, "", page=True)
        raise
    scopes = [word for text in exchange.query_lists.get("scope", []) for word in text.split()]
    _give(registry, request, who, scopes, account=exchange.query.get("account", ""))


async def post(registry: Registry, request: Request) -> None:
    """grant_type=password; there are no refresh tokens."""
    access = _checked(registry)
    form = parse_qs((await _form(request)).decode("utf-8", "replace"))
    fields = {key: values[-1] for key, values in form.items()}
    if fields.get("grant_type") != "password":
        raise Refused("UNAUTHORIZED", "grant_type must be password: this registry gives no refresh tokens")
    user = fields.get("username", "")
    if not await access.right(user, fields.get("password", "")):
        raise Refused("UNAUTHORIZED", "incorrect username or password")
    _give(registry, request, Identity(user), fields.get("scope", "").split())


def _checked(registry: Registry) -> Access:
    if not registry.access.tokens:
        raise Refused("UNKNOWN", "this registry gives no tokens", status=404)
    return registry.access


def _give(registry: Registry, request: Request, who: Identity, scopes: list[str], *, account: str = "") -> None:
    if not who.user and (account or not registry.access.lets_anybody_in):
        # with a detail: Docker's clients take an error without one for something that may pass, and ask again for a minute
        headers = {"WWW-Authenticate": registry.access.challenge("", SERVICE, "", page=True)}
        raise Refused("UNAUTHORIZED", "authentication required", detail={"scopes": scopes}, headers=headers)
    request.exchange.respond(200, registry.access.issue(who.user, scopes, SERVICE), {"Cache-Control": "no-store"})


async def _form(request: Request) -> bytes:
    parts, size = [], 0
    while data := await request.piece():
        size += len(data)
        if size > _MOST_FORM_BYTES:
            raise Refused("UNKNOWN", f"a form may have {_MOST_FORM_BYTES} bytes", status=413)
        parts.append(data)
    return b"".join(parts)
