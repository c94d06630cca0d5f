"""What other parts of Docker serve: swarms, plugins, registries, builds. Answers as an engine that has none of them.

Clients probe these: an answer in Docker's own words tells them what an engine in no swarm tells them. This
group is asked last, so that a group which serves one of these paths takes it from here by doing so.
"""

from berth import errors
from berth.api.request import parse_filters
from berth.http.exchange import Exchange, Handler
from berth.http.routing import Route

_NO_MANAGER = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.'
)
_NO_SWARM = "This node is not part of a swarm"
_OF_MANAGERS = """
GET /swarm, POST /swarm/update, POST /swarm/unlock, GET /swarm/unlockkey,
GET /services, POST /services/create, GET /services/{id}, DELETE /services/{id}, POST /services/{id}/update, GET /services/{id}/logs,
GET /tasks, GET /tasks/{id}, GET /tasks/{id}/logs,
GET /nodes, GET /nodes/{id}, DELETE /nodes/{id}, POST /nodes/{id}/update,
GET /secrets, POST /secrets/create, GET /secrets/{id}, DELETE /secrets/{id}, POST /secrets/{id}/update,
GET /configs, POST /configs/create, GET /configs/{id}, DELETE /configs/{id}, POST /configs/{id}/update
"""
_OF_MEMBERS = "POST /swarm/leave"
_OF_PLUGINS = """
GET /plugins/{name...}/json, DELETE /plugins/{name...}, POST /plugins/{name...}/enable, POST /plugins/{name...}/disable,
POST /plugins/{name...}/upgrade, POST /plugins/{name...}/push, POST /plugins/{name...}/set
"""
_LATER = {
    "POST /swarm/init, POST /swarm/join": "swarms are not there in this version of berth; run containers one by one",
    "POST /plugins/pull, POST /plugins/create, GET /plugins/privileges": "plugins are not there in this version of berth",
    "POST /session, POST /grpc": "this version of berth does not speak BuildKit's protocol: set DOCKER_BUILDKIT=0, or use berth build",
    "GET /containers/{id}/checkpoints, POST /containers/{id}/checkpoints, DELETE /containers/{id}/checkpoints/{checkpoint}":
        "checkpoints are not there yet in this version of berth",
}  # fmt: skip


class Stubs:
    """Handlers that need nothing of the engine."""

    def routes(self) -> list[Route]:
        found: list[Route] = [
            ("GET", "/plugins", self.plugins),
        ]  # fmt: skip
        found += _all(_OF_MANAGERS, _refusal(errors.Unavailable(_NO_MANAGER)))
        found += _all(_OF_MEMBERS, _refusal(errors.Unavailable(_NO_SWARM)))
        found += _all(_OF_PLUGINS, self.plugin)
        for endpoints, text in _LATER.items():
            found += _all(endpoints, _refusal(errors.NotImplementedHere(text)))
        return found

    async def plugins(self, exchange: Exchange) -> None:
        parse_filters(exchange.query.get("filters", ""))
        exchange.respond(200, [])

    async def plugin(self, exchange: Exchange) -> None:
        raise errors.NotFound(f'plugin "{exchange.parameters["name"]}" not found')


def _refusal(error: errors.BerthError) -> Handler:
    async def refuse(exchange: Exchange) -> None:
        raise type(error)(str(error))

    return refuse


def _all(endpoints: str, handler: Handler) -> list[Route]:
    """`GET /a, POST /b` -> routes to one handler."""
    found = []
    for endpoint in endpoints.split(","):
        method, pattern = endpoint.split()
        found.append((method, pattern, handler))
    return found
