"""Which addresses webhooks may reach: public ones, and those an operator allows."""

import ipaddress

import pytest

from service.errors import WebhookAddressRefused
from service.webhooks.allowed import AllowList, is_public, parse_hosts, parse_networks, reached

NOT_PUBLIC = [
    *("127.0.0.1", "127.255.0.9", "0.0.0.0", "10.0.0.1", "172.16.5.4", "192.168.0.1", "100.64.0.1"),
    *("169.254.169.254", "168.63.129.16", "192.0.0.192", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
    *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "fec0::1", "2001:db8::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::10.0.0.1", "64:ff9b:1::1"),
    *("2002:7f00:1::1", "2002:0a00:0001::", "2001:0:4136:e378:8000:63bf:80ff:fffe"),
]


@pytest.mark.parametrize("text", NOT_PUBLIC)
def test_an_address_that_is_not_public_is_refused(text: str) -> None:
    assert not is_public(reached(text))
    with pytest.raises(WebhookAddressRefused, match="not public"):
        AllowList().check_address("a.test", 443, text)


@pytest.mark.parametrize("text", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::"])
def test_a_public_address_is_accepted(text: str) -> None:
    AllowList().check_address("a.test", 443, text)


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("http://a.test/", "https"),
        ("ftp://a.test/", "https"),
        ("a.test", "https"),
        ("https:///path", "https"),
        ("https://user@a.test/", "user name"),
        ("https://:secret@a.test/", "user name"),
        ("https://a.test/#part", "fragment"),
        ("https://a.test:22/", "port"),
        ("https://a.test:0/", "port"),
        ("https://a.test:99999/", "not a URL"),
        ("https://[::1/", "not a URL"),
        ("https://a.test/\n", "printable"),
        ("https://a.test/a b", "printable"),
        ("https://b\u00fccher.test/", "printable"),
        ("https://a.test/" + "x" * 2048, "2048"),
        ("https://2130706433/", "four decimal"),
        ("https://127.1/", "four decimal"),
        ("https://127.0.0.1/", "not public"),
        ("https://[::ffff:10.0.0.1]/", "not public"),
        ("https://[fe80::1%25eth0]/", "not public"),
    ],
)
def test_a_url_that_can_be_refused_without_a_name_server_is(url: str, rule: str) -> None:
    with pytest.raises(WebhookAddressRefused, match=rule):
        AllowList().check_url(url)


@pytest.mark.parametrize(
    "url", ["https://a.test/", "https://a.test:8443/x?y=1", "https://8.8.8.8/", "https://xn--bcher-kva.test"]
)
def test_other_urls_are_accepted(url: str) -> None:
    assert AllowList().check_url(url).scheme == "https"


def test_an_allowed_host_lifts_the_limits_on_address_and_port() -> None:
    allow = AllowList(parse_hosts("Hooks.internal, other.internal:9443,[::1]:8443"))
    for host, port in (("hooks.internal", 1), ("HOOKS.internal.", 9000), ("other.internal", 9443)):
        allow.check_address(host, port, "10.0.0.1")
        allow.check_url(f"https://{host}:{port}/")
    allow.check_url("https://[::1]:8443/")
    for host, port in (("other.internal", 443), ("sub.hooks.internal", 443), ("10.0.0.1", 443)):
        with pytest.raises(WebhookAddressRefused):
            allow.check_address(host, port, "10.0.0.1")


def test_an_allowed_network_lifts_the_limits_on_its_addresses_and_their_ports() -> None:
    allow = AllowList(networks=parse_networks("10.1.0.0/16, fd00:1::/64"))
    for text in ("10.1.2.3", "::ffff:10.1.2.3", "fd00:1::5"):
        allow.check_address("a.test", 9000, text)
    allow.check_url("https://a.test:9000/")
    allow.check_url("https://10.1.2.3:9000/")
    for text in ("10.2.0.1", "8.8.8.8"):
        with pytest.raises(WebhookAddressRefused):
            allow.check_address("a.test", 9000, text)
    with pytest.raises(WebhookAddressRefused, match="port"):
        allow.check_url("https://10.2.0.1:9000/")


def test_no_entry_lifts_https() -> None:
    with pytest.raises(WebhookAddressRefused, match="https"):
        AllowList(parse_hosts("a.test"), (ipaddress.ip_network("0.0.0.0/0"),)).check_url("http://a.test/")


@pytest.mark.parametrize("text", ["https://a.test", "a.test:0", "a.test:70000", "a b", "[::1", "a.test/x", "*.test"])
def test_a_malformed_host_entry_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"hooks\.internal"):
        parse_hosts(text)


@pytest.mark.parametrize("text", ["10.1.0.1/16", "10.0.0.0/33", "a.test", "10.0.0.0/8;::/0"])
def test_a_malformed_network_entry_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"10\.1\.0\.0/16"):
        parse_networks(text)
