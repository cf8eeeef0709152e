"""Where Twofold may send requests that strangers asked for.

Whoever names a URL must not reach through Twofold what he cannot reach himself: the machine's own
services, its network, the cloud's metadata (OWASP, "Server-Side Request Forgery Prevention"). What
a name leads to is known only once it is resolved, so that addresses are checked then, and by
numbers: what IANA's registries of special-purpose addresses (RFC 6890) list is closed, and so is
each kind of IPv6 address that holds an IPv4 address which others would make of it.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, TypeAlias

from twofold_schema.errors import AddressRefused, InvalidWebhook

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

_MAX_URL = 2000
_PORTS = {"http": 80, "https": 443}

# Of RFC 3986, without user, fragment, percent-encoded hosts and anything outside ASCII: what two
# readers could read in two ways is no address of ours.
_URL = re.compile(
    r"(?P<scheme>https?)://"
    r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9.])?|\[[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<target>(?:/[A-Za-z0-9._~:/@!$&'()*+,;=%-]*)?(?:\?[A-Za-z0-9._~:/?@!$&'()*+,;=%-]*)?)",
    re.ASCII,
)

_CLOSED_IPV4: Final = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this host
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # shared by a carrier's customers
            "127.0.0.0/8",  # loopback
            "168.63.129.16/32",  # Azure's own services, in every virtual machine
            "169.254.0.0/16",  # link-local: most clouds' metadata
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # IETF protocols: Oracle's metadata
            "192.0.2.0/24",  # documentation
            "192.31.196.0/24",  # AS112
            "192.52.193.0/24",  # AMT
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",  # private
            "192.175.48.0/24",  # AS112
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/3",  # multicast, reserved, broadcast
        ),
    )
)

#: What IANA gives out for hosts that the whole world may reach. All else is closed: loopback,
#: IPv4-mapped and -compatible, NAT64, local, link-local, multicast.
_OPEN_IPV6: Final = IPv6Network("2000::/3")
_CLOSED_IPV6: Final = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # IETF protocols: Teredo among them
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4
            "2620:4f:8000::/48",  # AS112
            "3fff::/20",  # documentation
        ),
    )
)


@dataclass(frozen=True, slots=True)
class Receiver:
    """A URL, taken apart once: what is checked is what is connected to.

    Attributes:
        host: A name, or an address without brackets.
        target: Path and query.
    """

    scheme: str
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """As the `Host` header has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Egress:
    """What is open.

    Attributes:
        networks: Open though their addresses are not the world's.
        ports: Of receivers.
        plain: Whether a receiver may be reached without TLS.
    """

    networks: tuple[Network, ...] = ()
    ports: Collection[int] = field(default_factory=lambda: frozenset({443}))
    plain: bool = False

    def receiver(self, url: str) -> Receiver:
        """Take a URL apart that may be sent to, as far as it can be known before it is resolved.

        Raises:
            InvalidWebhook: It is no such URL, or it names an address that is closed.
        """
        written = _URL.fullmatch(url)
        if len(url) > _MAX_URL or written is None:
            raise InvalidWebhook(
                "A receiver is https://host/path in ASCII, without user, password and fragment, "
                f"of {_MAX_URL} characters at most."
            )
        scheme, host = written["scheme"], written["host"].strip("[]").lower()
        if scheme == "http" and not self.plain:
            raise InvalidWebhook(
                "A receiver's URL begins with https://; only the operator can allow http "
                "(TWOFOLD_WEBHOOK_HTTP)."
            )
        port = int(written["port"] or _PORTS[scheme])
        if port not in self.ports:
            raise InvalidWebhook(
                f"Port {port} is not open to webhooks; use another, or ask the operator to open it "
                "(TWOFOLD_WEBHOOK_PORTS)."
            )
        try:
            address = ip_address(host)
        except ValueError:
            if ":" in host:
                raise InvalidWebhook(f"[{host}] is no IPv6 address.") from None
        else:
            if not self.allows(address):
                raise InvalidWebhook(AddressRefused().message)
        target = written["target"]
        return Receiver(scheme, host, port, target if target.startswith("/") else f"/{target}")

    def allows(self, address: Address) -> bool:
        """Whether a connection may be made to this address."""
        if any(address in network for network in self.networks):
            return True
        if isinstance(address, IPv4Address):
            return not any(address in network for network in _CLOSED_IPV4)
        return (
            address.scope_id is None
            and address in _OPEN_IPV6
            and not any(address in network for network in _CLOSED_IPV6)
        )


def networks(text: str) -> tuple[Network, ...]:
    """Networks from `10.1.0.0/16,fd00:1::/64`.

    Raises:
        ValueError: One of them is none.
    """
    return tuple(ip_network(entry.strip()) for entry in text.split(",") if entry.strip())


def ports(text: str) -> frozenset[int]:
    """Ports from `443,8000-8999`.

    Raises:
        ValueError: One of them is none.
    """
    found: set[int] = set()
    for entry in filter(None, (entry.strip() for entry in text.split(","))):
        written = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", entry, re.ASCII)
        first, last = (int(written[1]), int(written[2] or written[1])) if written else (0, 0)
        if not 1 <= first <= last <= 65535:
            raise ValueError(f"{entry!r} is no port; write 443 or 8000-8999, comma-separated")
        found.update(range(first, last + 1))
    return frozenset(found)
