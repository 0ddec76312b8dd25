"""Which proxy a request takes: the connection's, else the environment's, for both HTTP clients."""

from __future__ import annotations

import re
from contextlib import suppress
from fnmatch import fnmatchcase
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit
from urllib.request import getproxies_environment

from airflow_provider_segstats.core.errors import ConfigurationError
from airflow_provider_segstats.core.settings import Settings, usable_proxy
from airflow_provider_segstats.core.transport import PORTS


def proxy_for(settings: Settings) -> str | None:
    """Return the proxy's URL: the connection's, else the environment's.

    That is ``HTTPS_PROXY`` or ``HTTP_PROXY`` by the server's scheme, else ``ALL_PROXY``, but for the hosts of
    ``NO_PROXY``; all in small letters, too.
    """
    if settings.proxy:
        return settings.proxy
    url = urlsplit(settings.base_url)
    found = getproxies_environment()
    variable = url.scheme if found.get(url.scheme) else "all"
    proxy = found.get(variable)
    if not proxy or goes_direct(url.hostname or "", url.port or PORTS[url.scheme], found.get("no", "")):
        return None
    if "://" not in proxy:  # as others read these variables
        proxy = f"http://{proxy}"
    if proxy.lower().startswith("socks"):
        what = "names a SOCKS proxy, and only those of HTTP are spoken to"
    elif not usable_proxy(proxy):
        what = "is not a URL such as http://user:password@proxy:3128"
    else:
        return proxy
    raise ConfigurationError(
        f"the environment's {variable}_proxy {what}; set the connection's extra proxy, or no_proxy"
    )


def goes_direct(host: str, port: int, no_proxy: str) -> bool:
    """Whether a host is one of ``NO_PROXY``: names (and those below them), patterns, addresses and ranges.

    Each may have a port. An address or a range only matches a host that is written as an address: no name is
    looked up.
    """
    host, items = host.lower().rstrip("."), re.split(r"[,\s]+", no_proxy.lower())
    return any(_matches(item, host, port) for item in items)


def _matches(item: str, host: str, port: int) -> bool:
    with_port = re.fullmatch(r"(\[.+\](?:/\d+)?|[^:]*):(\d+)", item)  # of IPv6, only [::1] can have one
    entry, its_port = with_port.groups() if with_port else (item, str(port))
    entry = entry.replace("[", "").replace("]", "")
    if its_port != str(port):
        return False
    with suppress(ValueError):
        network = ip_network(entry, strict=False)
        with suppress(ValueError):
            address = ip_address(host)
            mapped = getattr(address, "ipv4_mapped", None)
            return address in network or (mapped is not None and mapped in network)
        return False
    name = entry.removeprefix("*").removeprefix(".").rstrip(".")
    return host == name or host.endswith(f".{name}") or fnmatchcase(host, entry)
