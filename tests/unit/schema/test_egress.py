"""No URL that a stranger names leads to what is not the world's."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from twofold_schema import egress
from twofold_schema.egress import Egress
from twofold_schema.errors import InvalidWebhook

STRICT = Egress()

#: Public in the eyes of some version of Python, and none of ours.
_SPECIAL = egress.networks(
    "168.63.129.16/32,192.0.0.0/24,192.31.196.0/24,192.52.193.0/24,192.88.99.0/24,192.175.48.0/24"
)

IPV4 = st.ip_addresses(v=4)
IPV6 = st.ip_addresses(v=6)


def _embedded(prefix: str, shift: int) -> st.SearchStrategy[IPv6Address]:
    """IPv6 addresses that hold any IPv4 address behind a prefix."""
    begin = int(IPv6Address(prefix))
    return IPV4.map(lambda inner: IPv6Address(begin | (int(inner) << shift)))


class TestAddresses:
    @given(IPV4)
    def test_of_ipv4_what_is_open_is_the_worlds(self, address: IPv4Address) -> None:
        if STRICT.allows(address):
            assert address.is_global
            assert not address.is_multicast
            assert not address.is_reserved

    @given(IPV4)
    def test_of_ipv4_what_is_the_worlds_is_open(self, address: IPv4Address) -> None:
        assume(address.is_global and not address.is_multicast and not address.is_reserved)
        assume(not any(address in network for network in _SPECIAL))
        assert STRICT.allows(address)

    @given(st.one_of(IPV6, st.integers(2**125, 2**126 - 1).map(IPv6Address)))
    def test_of_ipv6_what_is_open_is_the_worlds(self, address: IPv6Address) -> None:
        if STRICT.allows(address):
            assert address.is_global
            assert not address.is_multicast
            assert not address.is_reserved

    @given(
        st.one_of(
            _embedded("::ffff:0:0", 0),  # mapped
            _embedded("::", 0),  # compatible
            _embedded("64:ff9b::", 0),  # NAT64
            _embedded("64:ff9b:1::", 0),  # NAT64 of a network's own
            _embedded("2002::", 80),  # 6to4
            _embedded("2001::", 0),  # Teredo
        )
    )
    def test_what_holds_an_ipv4_address_is_closed(self, address: IPv6Address) -> None:
        assert not STRICT.allows(address)

    @pytest.mark.parametrize(
        "address",
        [
            "0.0.0.0",
            "10.0.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.255.255.254",
            "168.63.129.16",
            "169.254.169.254",
            "172.31.255.255",
            "192.0.0.192",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fe80::1%eth0",
            "2606:4700::1%eth0",
            "fc00::1",
            "fd00:ec2::254",
            "fec0::1",
            "ff02::1",
            "2001:db8::1",
            "3fff::1",
        ],
    )
    def test_these_are_closed(self, address: str) -> None:
        assert not STRICT.allows(ip_address(address))

    @pytest.mark.parametrize(
        "address", ["1.1.1.1", "93.184.216.34", "172.32.0.1", "2606:4700:4700::1111"]
    )
    def test_these_are_open(self, address: str) -> None:
        assert STRICT.allows(ip_address(address))

    @given(st.one_of(IPV4, IPV6))
    def test_the_operator_opens_networks_and_nothing_beside_them(
        self, address: IPv4Address | IPv6Address
    ) -> None:
        mine = egress.networks("10.1.0.0/16, fd00:1::/64")
        inside = any(address in network for network in mine)
        assert Egress(networks=mine).allows(address) == (inside or STRICT.allows(address))


class TestReceivers:
    @pytest.mark.parametrize(
        ("url", "host", "port", "target", "authority"),
        [
            ("https://a.example", "a.example", 443, "/", "a.example"),
            ("https://A.example:443/x?y=1", "a.example", 443, "/x?y=1", "a.example"),
            ("https://a.example?y", "a.example", 443, "/?y", "a.example"),
            ("https://1.1.1.1/", "1.1.1.1", 443, "/", "1.1.1.1"),
            ("https://[2606:4700::1]/", "2606:4700::1", 443, "/", "[2606:4700::1]"),
        ],
    )
    def test_are_taken_apart(
        self, url: str, host: str, port: int, target: str, authority: str
    ) -> None:
        receiver = STRICT.receiver(url)
        assert (receiver.host, receiver.port, receiver.target) == (host, port, target)
        assert receiver.authority == authority

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "a.example",
            "ftp://a.example/",
            "HTTPS://a.example/",
            "http://a.example/",
            "https:///x",
            "https://user@a.example/",
            "https://user:password@a.example/",
            "https://a.example@b.example/",
            "https://a.example\\@b.example/",
            "https://a.example#x",
            "https://a.example/#x",
            "https://a.example:0/",
            "https://a.example:22/",
            "https://a.example:99999/",
            "https://a.example:/",
            "https://ä.example/",
            "https://a%2eexample/",
            "https://a.example/ x",
            "https://a.example/\r\nHost: b",
            "https://a.example/\x00",
            "https://-a.example/",
            "https://[::1/",
            "https://[1.1.1.1]/",
            "https://127.0.0.1/",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://169.254.169.254/latest/meta-data",
            "https://a.example/" + "x" * 2000,
        ],
    )
    def test_that_are_none_are_refused(self, url: str) -> None:
        with pytest.raises(InvalidWebhook):
            STRICT.receiver(url)

    @given(st.text(max_size=60), st.sampled_from(["", "https://", "https://a.example"]))
    def test_whatever_is_accepted_has_a_host_that_reads_one_way(
        self, text: str, before: str
    ) -> None:
        try:
            receiver = STRICT.receiver(before + text)
        except InvalidWebhook:
            return
        assert receiver.host.isascii()
        assert not set(receiver.host) & set("@/\\?#% ")
        assert receiver.target.startswith("/")
        assert receiver.target.isprintable()

    def test_without_tls_where_the_operator_says_so(self) -> None:
        plain = Egress(plain=True, ports=egress.ports("80"))
        assert plain.receiver("http://a.example/").authority == "a.example"


class TestSettings:
    def test_ports(self) -> None:
        assert egress.ports("443, 8000-8002") == {443, 8000, 8001, 8002}

    @pytest.mark.parametrize("text", ["x", "0", "65536", "9-1", "-1", "1-", "٤٤٣"])
    def test_that_are_none(self, text: str) -> None:
        with pytest.raises(ValueError, match="no port"):
            egress.ports(text)

    @pytest.mark.parametrize("text", ["x", "10.0.0.1/8", "10.0.0.0/33"])
    def test_networks_that_are_none(self, text: str) -> None:
        with pytest.raises(ValueError):
            egress.networks(text)
