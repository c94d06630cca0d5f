"""Words for networks."""

from berth.cli.texts import Text

_FILTERS = "Several values of one filter widen, several filters narrow."

TEXTS: "dict[str, Text]" = {
    "network create": Text(
        "Makes a network. Containers in it know each other by name and alias; containers of other networks do not reach them. Its id is "
        "printed.",
        "Drivers: bridge is a network inside this host, with a way out through it; macvlan and ipvlan put containers on the host's own "
        "network, by the interface that -o parent=eth0 names.",
        "--ip-range, --gateway and --aux-address belong to the subnet that they are in. Without --subnet the engine takes addresses that "
        "the host has no route to.",
        "Options of the bridge driver, each beginning with com.docker.network: bridge.name (of the interface), bridge.enable_icc (whether "
        "its containers reach each other), bridge.enable_ip_masquerade, bridge.host_binding_ipv4 (where ports are published), "
        "bridge.gateway_mode_ipv4 and _ipv6 (nat, nat-unprotected, routed, isolated), bridge.inhibit_ipv4, host_ipv4 and host_ipv6 (what "
        "containers' packets leave with), driver.mtu, container_iface_prefix. Of macvlan: parent, macvlan_mode (bridge, private, passthru, vepa). Of ipvlan: parent, ipvlan_mode (l2, "
        "l3, l3s), ipvlan_flag (bridge, private, vepa).",
        examples=(("A network", "berth network create shop"),
                  ("With addresses of your choice", "berth network create --subnet 172.30.0.0/16 --ip-range 172.30.5.0/24 --gateway 172.30.0.1 shop"),
                  ("Both families, and no way out", "berth network create --internal --ipv6 --subnet 172.31.0.0/24 --subnet fd00:31::/64 lab"),
                  ("On the host's own network", "berth network create -d macvlan --subnet 192.168.1.0/24 --gateway 192.168.1.1 -o parent=eth0 lan")),
        see_also=("network connect", "network inspect", "network rm", "run"),
    ),
    "network connect": Text(
        "Connects a container to one more network, also while it runs. It is known there by its name and by --alias.",
        "Of several networks, the one with the highest --gw-priority is the container's way out; among equals, the first by name.",
        examples=(("One more network", "berth network connect shop web"),
                  ("With an address and a name of its own there", "berth network connect --ip 172.30.0.7 --alias db shop postgres1")),
        see_also=("network disconnect", "network create", "run"),
    ),
    "network disconnect": Text(
        "Takes a container out of a network, also while it runs; its connections there break.",
        examples=(("Out of one", "berth network disconnect shop web"),),
        see_also=("network connect", "network rm"),
    ),
    "network rm": Text(
        "Removes networks, by name or id. One that a running container is in stays, and so do bridge, host and none.",
        examples=(("Two of them", "berth network rm shop lab"), ("In a script, whether it is there or not", "berth network rm --force shop")),
        see_also=("network prune", "network ls", "network disconnect"),
    ),
    "network ls": Text(
        "Lists networks.",
        "Filters: name and id (a part of it), driver, scope, type (custom or builtin), label, dangling (true: no container uses it). "
        + _FILTERS,
        "Fields for --format: .ID .Name .Driver .Scope .IPv4 .IPv6 .Internal .Labels .Label .CreatedAt.",
        examples=(("All", "berth network ls"), ("Your own, by name", "berth network ls --filter type=custom --format '{{.Name}}'")),
        see_also=("network inspect", "network create", "network prune"),
    ),
    "network inspect": Text(
        "Prints all that is known of networks as JSON, or what a Go template makes of it: addresses, options, and who is in them.",
        examples=(("Its subnets", "berth network inspect -f '{{range .IPAM.Config}}{{.Subnet}} {{end}}' shop"),
                  ("Who is in it", "berth network inspect -f '{{range .Containers}}{{.Name}} {{.IPv4Address}}{{println}}{{end}}' shop")),
        see_also=("network ls", "inspect"),
    ),
    "network prune": Text(
        "Removes all networks of your own that no container uses.",
        "Filters: label, label! (without it), until (made before: 24h, or a time). " + _FILTERS,
        examples=(("All of them, asked before", "berth network prune"),
                  ("Those without a label, unasked", "berth network prune --force --filter 'label!=keep'")),
        see_also=("network rm", "network ls", "system prune"),
    ),
}  # fmt: skip
