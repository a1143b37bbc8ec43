"""Which addresses agents may live at."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from tasks.addresses import AddressPolicy, host_refusal


@pytest.mark.parametrize(
    ("address", "permitted"),
    [
        ("93.184.216.34", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("10.1.2.3", True),
        ("10.2.0.1", False),
        ("192.168.0.1", False),
        ("172.16.0.1", False),
        ("100.64.0.1", False),
        ("100.100.100.200", False),
        ("168.63.129.16", False),
        ("169.254.169.254", False),
        ("64:ff9b::a9fe:a9fe", False),  # 169.254.169.254 through NAT64
        ("64:ff9b::5db8:d822", True),
        ("2002:a9fe:a9fe::1", False),  # ... through 6to4
        ("::ffff:10.2.0.1", False),
        ("2001:0:5db8:d822::1", False),  # Teredo
        ("::", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("239.255.255.250", False),
        ("ff02::1", False),
        ("fe80::1%3", False),
        ("fc00::1", False),
        ("255.255.255.255", False),
    ],
)
def test_address_policy(address: str, permitted: bool) -> None:
    policy = AddressPolicy(allowed=(*AddressPolicy().allowed, ip_network("10.1.0.0/16")))
    assert (policy.refusal(address) is None) is permitted


def test_no_allow_list_opens_what_is_never_allowed() -> None:
    policy = AddressPolicy(allowed=(ip_network("0.0.0.0/0"), ip_network("::/0")))
    assert policy.refusal("10.0.0.1") is None
    for address in ("169.254.169.254", "fe80::1", "fd00:ec2::254", "100.100.100.200", "0.0.0.0"):
        assert "never" in (policy.refusal(address) or "")


@pytest.mark.parametrize(
    ("host", "words"),
    [
        *((host, None) for host in ("agent.example", "127.0.0.1", "::1", "8.8.8.8", "0xa.example")),
        *(
            (host, None)
            for host in ("xn--bcher-kva.example", "a1", "1a", "3com.example", "münchen")
        ),
        *(
            (host, "odd spelling")
            for host in (
                *("2852039166", "0xa9fea9fe", "0XA9.254.0xa9.1", "0x7f.1", "0177.0.0.1", "127.1"),
                *("127.0.0.01", "127.0.0.1.", "1.2.3.4.5", "256.1.1.1", "0x", "agent.example.7"),
                *("\uff11\uff12\uff17.0.0.1", "127\u30020\u30020\u30021", "\u2460"),
            )
        ),
        ("169.254.169.254", "never allowed"),
        ("::ffff:169.254.169.254", "never allowed"),
        ("fe80::1%eth0", "never allowed"),
        ("10.0.0.1", "allow-list"),
    ],
)
def test_a_hosts_spelling_is_plain_or_refused(host: str, words: str | None) -> None:
    found = host_refusal(host, AddressPolicy())
    assert found is None if words is None else words in (found or ""), found
