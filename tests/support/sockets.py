"""Where processes listen, from Linux's /proc."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

_LISTENS = "0A"
Address = IPv4Address | IPv6Address


def listening(pids: Iterable[int]) -> list[tuple[Address, int]]:
    """The addresses and ports on which these processes accept TCP connections."""
    inodes = {inode for pid in pids for inode in _sockets(pid)}
    return [(address, port) for inode, address, port in _table() if inode in inodes]


def num_listening(port: int) -> int:
    """How many sockets, of whatever process, accept connections on a port."""
    return sum(one == port for _, _, one in _table())


def _sockets(pid: int) -> Iterable[str]:
    try:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            kind, _, inode = str(descriptor.readlink()).partition(":")
            if kind == "socket":
                yield inode.strip("[]")
    except OSError:
        return  # it has ended since


def _table() -> Iterable[tuple[str, Address, int]]:
    """Inode, address and port of every socket that listens."""
    for name in ("tcp", "tcp6"):
        for line in Path("/proc/net", name).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENS:
                address, _, port = fields[1].partition(":")
                yield fields[9], _address(bytes.fromhex(address)), int(port, 16)


def _address(words: bytes) -> Address:
    """The kernel writes words of four bytes in the machine's order: here, the lowest first."""
    found = ip_address(b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4)))
    mapped = getattr(found, "ipv4_mapped", None)
    return found if mapped is None else mapped
