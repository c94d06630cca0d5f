"""berth top, berth port."""

from berth.cli.client import fail, query, quote
from berth.cli.command import parse_command
from berth.cli.flags import Syntax
from berth.cli.table import natural

TYPE_CHECKING = False
if TYPE_CHECKING:
    from berth.cli.main import Invocation

SYNTAX = {
    "top": Syntax("CONTAINER [ps OPTIONS]", at_least=1, interspersed=False),
    "port": Syntax("CONTAINER [PRIVATE_PORT[/PROTO]]", at_least=1, at_most=2),
}
_CELL = 20


def top(call: "Invocation") -> int:
    """berth top"""
    parsed = parse_command(call, SYNTAX)
    options = query(ps_args=" ".join(parsed.arguments[1:]))
    found = call.client.json("GET", f"/containers/{quote(parsed.arguments[0])}/top{options}")
    rows = [found["Titles"], *(found["Processes"] or [])]
    widths = [max(_CELL, *(len(row[column]) + 3 for row in rows if column < len(row))) for column in range(len(rows[0]))]
    for row in rows:
        print("".join(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)) + row[-1])
    return 0


def port(call: "Invocation") -> int:
    """berth port"""
    parsed = parse_command(call, SYNTAX)
    name = parsed.arguments[0]
    ports = call.client.json("GET", f"/containers/{quote(name)}/json")["NetworkSettings"]["Ports"] or {}
    if len(parsed.arguments) == 1:
        for private, bindings in sorted(ports.items(), key=lambda item: natural(item[0])):
            for binding in bindings or []:
                print(f"{private} -> {_address(binding)}")
        return 0
    wanted = parsed.arguments[1]
    number, slash, protocol = wanted.partition("/")
    if not number.isdigit() or int(number) > 65535:
        fail(f"Error: invalid port ({number}): it is not a number from 0 to 65535")
        return 1
    bindings = ports.get(f"{number}/{protocol if slash else 'tcp'}") or []
    if not bindings:
        fail(f"Error: No public port '{wanted}' published for {name}")
        return 1
    for binding in bindings:
        print(_address(binding))
    return 0


def _address(binding: "dict[str, str]") -> str:
    host = binding["HostIp"]
    return f"[{host}]:{binding['HostPort']}" if ":" in host else f"{host}:{binding['HostPort']}"
