"""The address of the page, and who can reach it."""

import re
import socket
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, ip_address

from bcos_core.errors import BcosError, first_line

_AUTHORITY = re.compile(r"(?:\[([0-9a-f:.]{2,45})\]|([a-z0-9._-]{1,255}))(?::([0-9]{1,5}))?", re.ASCII)
"""HOST, HOST:PORT or [IPV6]:PORT, in lower case."""


@dataclass(frozen=True)
class Address:
    """A host and a port of this machine to listen at."""

    host: str = "127.0.0.1"
    port: int = 7860
    """0 for any free one."""

    @property
    def url(self) -> str:
        """Address for a browser on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"

    @property
    def warning(self) -> str | None:
        """A line about who can reach the page, if that is anyone but users of this machine."""
        addresses = [ip_address(found) for found in _resolved(self.host)]
        if all(address.is_loopback for address in addresses):
            return None
        where = "any address of this machine" if any(a.is_unspecified for a in addresses) else self.host
        return (
            f"everyone who can reach {where} on port {self.port} can use this page and the networks behind it, without "
            "a password and unencrypted; --host 127.0.0.1 is for this machine alone"
        )

    def answers_to(self, authority: str) -> bool:
        """Whether ``HOST:PORT`` is this page: its own name or IP address, or ``localhost``.

        Where it listens at all addresses of this machine, any IP address is accepted: DNS rebinding needs a name.
        """
        if (parts := _AUTHORITY.fullmatch(authority.lower())) is None:
            return False
        host, port = _normal(parts[1] or parts[2]), int(parts[3] or 80)
        return port == self.port and (host in self._names or (self._is_anywhere and _ip_address(host) is not None))

    def is_origin(self, origin: str) -> bool:
        """Whether a header Origin names this page."""
        scheme, _, authority = origin.partition("://")
        return scheme.lower() == "http" and self.answers_to(authority)

    @cached_property
    def _names(self) -> frozenset[str]:
        own = {_normal(name) for name in (self.host, *_resolved(self.host))}
        machine = {_normal(socket.gethostname()), _normal(socket.getfqdn())} if self._is_anywhere else set()
        return frozenset({"localhost", "127.0.0.1", "::1"} | own | machine)

    @cached_property
    def _is_anywhere(self) -> bool:
        return any(ip_address(found).is_unspecified for found in _resolved(self.host))

    def free(self) -> "Address":
        """Return the address with the port that it will have, after checking that it is free.

        Raises:
            BcosError: a host that is not this machine, or a port that is taken or not allowed.
        """
        family = socket.AF_INET6 if ":" in _resolved(self.host)[0] else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self.host, self.port))
            except OSError as reason:
                raise BcosError(
                    f"cannot listen at {self.host} on port {self.port}: {reason.strerror or first_line(reason)}; name "
                    "another port with --port (0 for any that is free), or an address of this machine with --host"
                ) from reason
            return Address(self.host, int(probe.getsockname()[1]))


def _normal(host: str) -> str:
    """Return a host in the form in which hosts are compared."""
    return str(_ip_address(host) or host.lower().removesuffix("."))


def _ip_address(host: str) -> IPv4Address | IPv6Address | None:
    with suppress(ValueError):
        return ip_address(host)
    return None


def _resolved(host: str) -> list[str]:
    """Return the IP addresses of a host."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as reason:
        raise BcosError(f"there is no host {host!r}: {reason.strerror or first_line(reason)}") from reason
    return [str(address[0]) for *_, address in found]
