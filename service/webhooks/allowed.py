"""Which addresses a webhook may be sent to: public ones on the ports of https, and those an operator allows."""

import ipaddress
import re
from dataclasses import dataclass

from yarl import URL

from service.errors import WebhookAddressRefused

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

PORTS = (443, 8443)
_LONGEST_URL = 2048
_LAST_PORT = 65535
_HOST_ENTRY = re.compile(r"(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(?P<port>[1-9][0-9]{0,4}))?", re.ASCII)
_PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")
_TRANSLATED = (ipaddress.IPv6Network("64:ff9b::/96"),)
"""Prefixes of NAT64, whose last 32 bits are the IPv4 address that is reached."""
_METADATA = (ipaddress.ip_network("168.63.129.16/32"), ipaddress.ip_network("192.0.0.0/24"))
"""Addresses that count as public in Python 3.11, but lead to the host or the metadata of a cloud's machine."""


@dataclass(frozen=True, slots=True)
class AllowList:
    """What an operator allows beyond public addresses and the ports of https. A host without a port has any port."""

    hosts: frozenset[tuple[str, int | None]] = frozenset()
    networks: tuple[Network, ...] = ()

    def has_host(self, host: str, port: int) -> bool:
        """Whether an entry names this host, and this port if it has one."""
        return not self.hosts.isdisjoint({(_plain(host), None), (_plain(host), port)})

    def has_address(self, address: Address) -> bool:
        """Whether an entry contains this address."""
        return any(address in network for network in self.networks)

    def check_address(self, host: str, port: int, text: str) -> None:
        """Check an address that a connection to `host` would reach. Raises WebhookAddressRefused."""
        if self.has_host(host, port):
            return
        address = reached(text)
        if self.has_address(address):
            return
        if port not in PORTS:
            raise WebhookAddressRefused(f"the port is not {' or '.join(map(str, PORTS))}")
        if not is_public(address):
            raise WebhookAddressRefused("the address is not public")

    def check_url(self, text: str) -> URL:
        """The parsed address of an endpoint. Raises WebhookAddressRefused for what needs no name server to see."""
        try:
            url = URL(text)
            host, port = url.raw_host, url.port
        except ValueError:
            raise WebhookAddressRefused("it is not a URL") from None
        if len(text) > _LONGEST_URL or not text.isascii() or not text.isprintable() or " " in text:
            raise WebhookAddressRefused(f"it must have at most {_LONGEST_URL} printable ASCII characters and no space")
        if url.scheme != "https" or not host or port is None:
            raise WebhookAddressRefused("it must start with https://")
        if url.raw_user is not None or url.raw_password is not None:
            raise WebhookAddressRefused("it must not contain a user name or password")
        if "#" in text:
            raise WebhookAddressRefused("it must not contain a fragment")
        self._check_authority(host, port)
        return url

    def _check_authority(self, host: str, port: int) -> None:
        try:
            ipaddress.ip_address(host)
        except ValueError:
            if host.replace(".", "").isdigit():
                raise WebhookAddressRefused("an IPv4 address must have four decimal numbers") from None
            # A name can lead into an allowed network, which lifts the limit on the port; the connection decides.
            if port not in PORTS and not self.networks and not self.has_host(host, port):
                raise WebhookAddressRefused(f"the port is not {' or '.join(map(str, PORTS))}") from None
        else:
            self.check_address(host, port, host)


def parse_hosts(text: str) -> frozenset[tuple[str, int | None]]:
    """The entries of WEBHOOK_ALLOW_HOSTS: host or host:port, separated by commas. Raises ValueError."""
    hosts = set()
    for entry in _entries(text):
        match = _HOST_ENTRY.fullmatch(entry.lower())
        if match is None or int(match["port"] or 1) > _LAST_PORT:
            raise ValueError("must be hosts such as hooks.internal or hooks.internal:9443, separated by commas")
        hosts.add((_plain(match["host"].strip("[]")), int(match["port"]) if match["port"] else None))
    return frozenset(hosts)


def parse_networks(text: str) -> tuple[Network, ...]:
    """The entries of WEBHOOK_ALLOW_NETWORKS: networks, separated by commas. Raises ValueError."""
    try:
        return tuple(ipaddress.ip_network(entry) for entry in _entries(text))
    except ValueError:
        raise ValueError("must be networks such as 10.1.0.0/16 or fd00:1::/64, separated by commas") from None


def reached(text: str) -> Address:
    """The address that packets to this one reach: IPv4 inside of IPv6 is unpacked. A zone is ignored."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return address
    inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
    if inner is None and any(address in prefix for prefix in _TRANSLATED):
        inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return inner or address


def is_public(address: Address) -> bool:
    """Whether an address is one of the public internet: not private, loopback, link-local, multicast or reserved."""
    if (
        any(address in network for network in _METADATA)
        or address.is_multicast
        or address.is_reserved
        or not address.is_global
    ):
        return False
    return isinstance(address, ipaddress.IPv4Address) or address in _PUBLIC_V6


def _entries(text: str) -> list[str]:
    return [entry.strip() for entry in text.split(",") if entry.strip()]


def _plain(host: str) -> str:
    return host.lower().rstrip(".")
