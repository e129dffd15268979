"""Ports that a server can come back to."""

from pathlib import Path

from dimflow.server_lifecycle import free_port


def test_free_ports_are_out_of_reach_of_outgoing_connections() -> None:
    first_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert first_outgoing > 12_000, "this machine leaves no room below; the law does not apply"
    assert all(10_000 <= free_port() < first_outgoing for _ in range(50))
