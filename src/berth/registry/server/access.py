"""Who may do what: what `rights` says, or else htpasswd users all and others pull where that is wanted; by Basic authentication or tokens.

A token is a JWT of this registry's own making, with the scopes of the distribution's token specification:
`repository:NAME:pull,push,delete` and `registry:catalog:*`. It never allows more than its user may when it is used.
"""

import asyncio
import base64
import binascii
import os
import secrets
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from berth.registry.server.extras import need
from berth.registry.server.passwords import Passwords
from berth.registry.server.refusals import Refused
from berth.registry.server.rights import Rights

_TOKEN_LIFE_S = 300
_MAX_SCOPES = 100
_COMPARING = 2
_MOST_WAITING = 200
_ACTIONS = ("pull", "push", "delete")
Grants = dict[tuple[str, str], set[str]]


class Identity:
    """user: '' for nobody. grants: what a token allows; None: whatever the user may."""

    __slots__ = ("grants", "user")

    def __init__(self, user: str = "", grants: Grants | None = None) -> None:
        self.user, self.grants = user, grants


class Access:
    """passwords: None for a registry that is open to all. tokens: ask clients for bearer tokens instead of Basic.

    rights: by repository; without them every user may do all.
    """

    def __init__(
        self, passwords: Passwords | None, *, anonymous_pull: bool = False, tokens: bool = True, key_file: str = "", rights: Rights | None = None
    ) -> None:
        self.passwords = passwords
        self.rights = rights
        self._anonymous_pull = anonymous_pull
        self.tokens = tokens and passwords is not None
        self._jwt: Any = need("jwt", "registry", "--htpasswd with tokens") if self.tokens else None
        self._key = _key(key_file) if self.tokens else b""
        # bcrypt is slow on purpose: wrong passwords by the hundred must leave a processor and the other threads alone.
        self._pool = ThreadPoolExecutor(_COMPARING, thread_name_prefix="password")
        self._waiting = 0

    # -- deciding -------------------------------------------------------------------------------------

    async def identify(self, authorization: str, service: str) -> Identity:
        """Who asks. Refused (401) for a wrong password or token, not for none."""
        scheme, _, rest = authorization.strip().partition(" ")
        if self.passwords is None or not scheme:
            return Identity()
        if scheme.lower() == "basic":
            user, password = basic(rest.strip())
            if not await self.right(user, password):
                raise Refused("UNAUTHORIZED", "incorrect username or password")
            return Identity(user)
        if scheme.lower() == "bearer" and self.tokens:
            return self._from_token(rest.strip(), service)
        raise Refused("UNAUTHORIZED", f"the authorization scheme {scheme[:40]!r} is not known here")

    async def right(self, user: str, password: str) -> bool:
        """Whether this is a user's password. Refused if too many wait for the answer."""
        assert self.passwords is not None
        if self.passwords.known(user, password):
            return True
        if self._waiting >= _MOST_WAITING:
            raise Refused("TOOMANYREQUESTS", "too many passwords are being compared: try again later", headers={"Retry-After": "5"})
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self.passwords.check, user, password)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def allows(self, who: Identity, kind: str, name: str, action: str) -> bool:
        """kind: repository or registry (which has the action *)."""
        if self.passwords is None:
            return True
        if who.grants is not None and not who.grants.get((kind, name), set()) & {action, "*"}:
            return False
        return self.may(who.user, kind, name, action)

    def may(self, user: str, kind: str, name: str, action: str) -> bool:
        """The same of a user ('': nobody), whatever a token says."""
        if self.passwords is None:
            return True
        if kind == "registry":
            return bool(user) or self.lets_anybody_in
        if self.rights:
            return self.rights.may(user, name, action)
        return bool(user) or (self._anonymous_pull and action == "pull")

    def sees(self, who: Identity, name: str) -> bool:
        """Whether lists show a repository."""
        return self.may(who.user, "repository", name, "pull")

    @property
    def lets_anybody_in(self) -> bool:
        """Whether there is something for those who are not logged in."""
        return self.rights.any_for("") if self.rights else self._anonymous_pull

    # -- tokens ---------------------------------------------------------------------------------------

    def issue(self, user: str, scopes: list[str], service: str) -> dict[str, object]:
        """The answer of the token endpoint: a token for what of `scopes` the user ('': nobody) may do."""
        granted: Grants = {}
        for scope in scopes[:_MAX_SCOPES]:
            kind, name, actions = parse_scope(scope)
            allowed = self._allowed(user, kind, name, actions)
            if allowed:
                granted.setdefault((kind, name), set()).update(allowed)
        now_s = int(time.time())
        claims = {
            "iss": "berth", "sub": user, "aud": service, "exp": now_s + _TOKEN_LIFE_S, "nbf": now_s - 10, "iat": now_s, "jti": str(uuid.uuid4()),
            "access": [{"type": kind, "name": name, "actions": sorted(actions)} for (kind, name), actions in granted.items()],
        }  # fmt: skip
        token = self._jwt.encode(claims, self._key, algorithm="HS256")
        issued = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now_s))
        return {"token": token, "access_token": token, "expires_in": _TOKEN_LIFE_S, "issued_at": issued}

    def _allowed(self, user: str, kind: str, name: str, actions: list[str]) -> set[str]:
        if kind == "registry":
            return {"*"} if "*" in actions and self.may(user, kind, name, "*") else set()
        wanted = set(_ACTIONS) if "*" in actions else set(actions) & set(_ACTIONS)
        return {action for action in wanted if self.may(user, kind, name, action)} if kind == "repository" else set()

    def _from_token(self, token: str, service: str) -> Identity:
        try:
            claims = self._jwt.decode(
                token, self._key, algorithms=["HS256"], audience=service, issuer="berth", leeway=5, options={"require": ["exp", "aud", "iss", "sub"]}
            )
        except self._jwt.PyJWTError as error:
            raise Refused("UNAUTHORIZED", f"the token is not taken: {error}; ask for a new one") from None
        grants: Grants = {}
        for entry in claims.get("access", []):
            grants.setdefault((entry["type"], entry["name"]), set()).update(entry["actions"])
        return Identity(claims["sub"], grants)

    def challenge(self, realm: str, service: str, scope: str, *, page: bool = False) -> str:
        """The WWW-Authenticate header. page: for a browser, which knows no tokens."""
        if not self.tokens or page:
            return f'Basic realm="{service}", charset="UTF-8"'
        return f'Bearer realm="{realm}",service="{service}"' + (f',scope="{scope}"' if scope else "")


def basic(text: str) -> tuple[str, str]:
    """User and password of Basic credentials. Refused for what is none."""
    try:
        user, colon, password = base64.b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        user, colon, password = "", "", ""
    if not colon or not user or "\0" in password:
        raise Refused("UNAUTHORIZED", "malformed Basic credentials")
    return user, password


def parse_scope(text: str) -> tuple[str, str, list[str]]:
    """`repository:NAME:ACTION,…` -> type, name, actions; the type may have a class in brackets, the name colons."""
    kind, _, rest = text.partition(":")
    name, _, actions = rest.rpartition(":")
    return kind.partition("(")[0], name, actions.split(",")


def _key(path: str) -> bytes:
    """The secret of this registry's tokens, made at its first start: tokens outlive a restart."""
    try:
        with open(path, "rb") as file:
            key = file.read()
        if len(key) >= 32:
            return key
    except FileNotFoundError:
        pass
    key = secrets.token_bytes(32)
    temporary = f"{path}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(key)
        file.flush()
        os.fsync(fd)
    os.rename(temporary, path)
    return key
