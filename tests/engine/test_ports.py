"""Which ports exclude each other, and who holds one."""

from __future__ import annotations

import os
import socket

import pytest

from conche.engine.connection import Engine
from conche.engine.ports import Port, Publisher, holder, overlap
from tests.stacks import free_port


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (Port("127.0.0.1", 53), Port("127.0.0.2", 53), True),
        (Port("127.0.0.1", 53), Port("127.0.0.1", 53), False),
        (Port("127.0.0.1", 53), Port("127.0.0.1", 54), True),
        (Port("127.0.0.1", 53), Port("127.0.0.1", 53, "udp"), True),
        (Port("0.0.0.0", 53), Port("127.0.0.2", 53), False),
        (Port("", 53), Port("127.0.0.2", 53), False),
        (Port("", 53), Port("::1", 53), False),
        (Port("::", 53), Port("::1", 53), False),
        (Port("::", 53), Port("127.0.0.1", 53), True),
        (Port("0.0.0.0", 53), Port("::1", 53), True),
        (Port("::ffff:127.0.0.1", 53), Port("127.0.0.1", 53), False),
        (Port("[::1]", 53), Port("::1", 53), False),
    ],
)
def test_two_ports_are_had_at_once_unless_they_meet(one: Port, other: Port, both: bool) -> None:
    assert (overlap(one, other), overlap(other, one)) == (not both, not both)


def listening(address: str, port: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
    server = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    server.bind((address, port))
    if kind == socket.SOCK_STREAM:
        server.listen()
    return server


def has_ipv6() -> bool:
    """Whether this machine answers on ::1, which a container's network of its own usually does not."""
    try:
        listening("::1", 0).close()
    except OSError:
        return False
    return True


ME = f"(pid {os.getpid()})"


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
@pytest.mark.parametrize(
    ("address", "taken", "free"),
    [
        ("127.0.0.1", ["127.0.0.1", "", "0.0.0.0"], ["127.0.0.2", "::1"]),
        ("0.0.0.0", ["127.0.0.1", "", "127.0.0.2"], ["::1"]),
        ("::1", ["::1", "", "::"], ["127.0.0.1", "0.0.0.0"]),
        ("::", ["::1", "", "::", "127.0.0.1", "0.0.0.0"], []),
    ],
)
def test_a_process_takes_what_the_kernel_gave_it(kind: int, address: str, taken: list[str], free: list[str]) -> None:
    if ":" in address and not has_ipv6():
        pytest.skip("needs IPv6")
    number, protocol = free_port(), "tcp" if kind == socket.SOCK_STREAM else "udp"
    with listening(address, number, kind):
        said = {one: holder(Engine(), Port(one, number, protocol), ()) for one in (*taken, *free)}
        other = {"tcp": "udp", "udp": "tcp"}[protocol]
        assert holder(Engine(), Port(address, number, other), ()) == ""

    assert {one for one, words in said.items() if words.endswith(ME)} == set(taken)
    assert {one for one, words in said.items() if not words} == set(free)


def test_what_gives_way_is_not_in_the_way_and_what_stands_beside_it_is() -> None:
    number = free_port()
    with listening("127.0.0.2", number), listening("127.0.0.1", number):
        own = [Port("127.0.0.2", number)]

        assert holder(Engine(), Port("127.0.0.2", number), (), own) == ""
        assert holder(Engine(), Port("127.0.0.1", number), (), own).endswith(ME)
        assert holder(Engine(), Port("0.0.0.0", number), (), own).endswith(ME)


def test_of_a_range_one_port_will_do() -> None:
    first = free_port()
    other = Publisher("dns", "", "", oneoff=False, ports=(Port("0.0.0.0", first),))
    both = Publisher("all", "", "", oneoff=False, ports=(Port("0.0.0.0", first), Port("0.0.0.0", first + 1)))

    assert holder(Engine("tcp://far"), Port("127.0.0.1", first, "tcp", first + 1), [other]) == ""
    assert holder(Engine("tcp://far"), Port("127.0.0.1", first, "tcp", first + 1), [both]) == "container all"
