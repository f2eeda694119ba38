"""Names, addresses and interfaces: do the hosts reach each other?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from allgrad.launch.doctor.facts import Facts, Interface
from allgrad.launch.doctor.finding import BROKEN, WARNING, Finding, broken, warning

# Variables that name interfaces; those of the second row name what to leave out.
_CHOICES = (
    "UCX_NET_DEVICES",
    "GLOO_SOCKET_IFNAME",
    "NCCL_SOCKET_IFNAME",
    "FI_TCP_IFACE",
    "MPICH_OFI_INTERFACE",
    "HYDRA_IFACE",
    "OMPI_MCA_btl_tcp_if_include",
    "PRTE_MCA_prte_if_include",
)

_SLOW_GIGABYTES_PER_S = 0.08


def _chosen(facts: Facts) -> Iterator[tuple[str, str, list[Interface]]]:
    """Each variable, each name in it, and the interfaces that this name stands for."""
    for variable in _CHOICES:
        text = facts.environ.get(variable, "")
        if not text or text.startswith("^") or text == "all":
            continue
        exact = not variable.startswith("NCCL") or text.startswith("=")  # NCCL takes beginnings
        for name in text.lstrip("=").split(","):
            device = name.strip().partition(":")[0]
            if not device or "/" in device or device in facts.rdma:
                continue  # a subnet, or an InfiniBand device
            found = [
                interface
                for interface in facts.interfaces
                if interface.name == device or (not exact and interface.name.startswith(device))
            ]
            yield variable, name.strip(), found


def interface_missing(facts: Facts) -> Iterator[Finding]:
    """A variable names an interface that this host does not have."""
    names = ", ".join(i.name for i in facts.interfaces)
    for variable, name, found in _chosen(facts):
        if not found:
            yield broken(
                "interface_missing",
                f"{variable} names {name}, but {facts.host.name} has {names}",
                f"unset {variable}, or set it to one that every host has",
            )


def interface_down(facts: Facts) -> Iterator[Finding]:
    """A variable names an interface that is there and carries nothing."""
    for variable, name, found in _chosen(facts):
        if found and not any(each.up for each in found):
            yield broken(
                "interface_down",
                f"{variable} names {name}, which is down on {facts.host.name}",
                f"ip link set {found[0].name} up (as root), or name another interface",
            )


def hostname_unknown(facts: Facts) -> Iterator[Finding]:
    """Launchers and gloo connect to what the hostname stands for."""
    if facts.host.name_problem:
        yield Finding(
            "hostname_unknown",
            BROKEN if facts.several_hosts else WARNING,
            f"the hostname {facts.host.name} stands for no address ({facts.host.name_problem}): "
            "launchers that connect to it by name fail or wait long",
            f"a line in /etc/hosts: '127.0.0.1 {facts.host.name}' on a single machine; the "
            "address of its network interface where there are several hosts",
        )


def hostname_loopback(facts: Facts) -> Iterator[Finding]:
    """Other hosts that ask this one for its address are sent to themselves."""
    found = facts.host.addresses
    if facts.several_hosts and found and all(a.startswith("127.") or a == "::1" for a in found):
        yield warning(
            "hostname_loopback",
            f"the hostname {facts.host.name} stands for {', '.join(found)} on this host, an "
            "address that no other host can reach",
            f"in /etc/hosts replace the line '127... {facts.host.name}' by the address of a "
            "network interface",
        )


def virtual_interface(facts: Facts) -> Iterator[Finding]:
    """MPI and gloo may choose a bridge that leads nowhere outside of this host."""
    if not facts.several_hosts or any(facts.environ.get(name) for name in _CHOICES):
        return
    usable = [i for i in facts.interfaces if i.up and i.addresses and not i.is_loopback]
    virtual = [i.name for i in usable if i.virtual]
    real = [i.name for i in usable if not i.virtual]
    if virtual and real:
        yield warning(
            "virtual_interface",
            f"{facts.host.name} has {', '.join(virtual)} beside {', '.join(real)}: MPI may try to "
            "reach other hosts through it, and hang",
            f"export UCX_NET_DEVICES={real[0]} (MPICH; FI_TCP_IFACE={real[0]} with libfabric), "
            f"OMPI_MCA_btl_tcp_if_include={real[0]} (Open MPI)",
        )


def same_address(job: Sequence[Facts]) -> Iterator[Finding]:
    """Two hosts with one address: bridges of containers have the same on every host."""
    owners: dict[str, set[tuple[str, str]]] = {}
    for facts in job:
        for interface in facts.interfaces:
            for address in interface.addresses:
                if interface.up and not interface.is_loopback and not address.startswith("fe80"):
                    owners.setdefault(address, set()).add((facts.host.name, interface.name))
    for address, places in owners.items():
        hosts = {host for host, _ in places}
        if len(hosts) > 1:
            named = sorted({name for _, name in places})
            yield warning(
                "clashing_interfaces",
                f"{' and '.join(sorted(hosts)[:2])} both have the address {address} "
                f"({', '.join(named)}): a host that tries to reach the other there reaches itself",
                "name the interface of the real network: UCX_NET_DEVICES or FI_TCP_IFACE (MPICH), "
                "OMPI_MCA_btl_tcp_if_include (Open MPI), GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME",
            )
            return


def slow_network(job: Sequence[Facts], gigabytes_per_s: float) -> Iterator[Finding]:
    """After the self test: hosts average more slowly than over the slowest usual network."""
    hosts = len({facts.host.name for facts in job})
    # What a host sends in a ring: all but its own share, twice (once to sum, once to spread).
    sent = gigabytes_per_s * 2 * (hosts - 1) / hosts
    if hosts > 1 and sent < _SLOW_GIGABYTES_PER_S:
        yield warning(
            "slow_network",
            f"{hosts} hosts average gradients at {gigabytes_per_s * 1e3:.0f} MB/s, "
            f"{sent * 1e3:.0f} MB/s on each link: less than a network of 1 Gbit/s gives",
            "look which interface is used (UCX_NET_DEVICES, FI_TCP_IFACE, "
            "OMPI_MCA_btl_tcp_if_include) and its speed: ethtool NAME",
        )
