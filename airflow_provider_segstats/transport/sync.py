"""The sync path, over requests."""

from __future__ import annotations

import re
import threading
from http.cookiejar import DefaultCookiePolicy
from queue import Empty, SimpleQueue

import requests
import urllib3

from airflow_provider_segstats.api import Reply, Request
from airflow_provider_segstats.errors import NotSentError, SegStatsError
from airflow_provider_segstats.settings import Settings
from airflow_provider_segstats.transport import (
    MAX_BODY,
    body_too_large,
    ca_file,
    phrase,
    proxy_for,
    timed_out,
    unconnected_or_unanswered,
    unusable_url,
)

_CHUNK = 64 * 1024
# What requests' own limits get on top, so that they speak first: they know more of what went wrong.
_GRACE = 0.5


class SyncTransport:
    """One pooled session to one server."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session = requests.Session()
        # No .netrc (it would replace the token) and no proxy or CA variables: `proxy_for` and `ca_file`.
        self._session.trust_env = False
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
        if not settings.verify:  # the hook says so once; urllib3 would at every request
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        self._session.verify = ca_file(settings) if settings.verify else False
        if proxy := proxy_for(settings):
            self._session.proxies = {"http": proxy, "https": proxy}

    def close(self) -> None:
        """Close the pooled connections."""
        self._session.close()

    def send(self, request: Request) -> Reply:
        """Return the reply; raises a :class:`TransportError` when there is no whole one."""
        outcome: SimpleQueue[Reply | Exception] = SimpleQueue()

        def exchange() -> None:
            try:
                outcome.put(self._exchange(request))
            except Exception as error:  # noqa: BLE001 - raised again on the caller's thread
                outcome.put(error)

        # requests limits the time between two reads only. A server that trickles must not hold the
        # caller, so the exchange has a thread to itself, which is left behind when it takes too long.
        threading.Thread(target=exchange, name="segstats-request", daemon=True).start()
        try:
            result = outcome.get(timeout=self._settings.timeout + _GRACE)
        except Empty:
            raise timed_out(self._settings) from None
        if isinstance(result, requests.RequestException | urllib3.exceptions.HTTPError):
            raise self._translated(result) from result
        if isinstance(result, Exception):
            raise result
        return result

    def _exchange(self, request: Request) -> Reply:
        with self._session.post(
            request.url,
            data=request.body,
            headers=dict(request.headers),
            timeout=self._settings.timeout,
            allow_redirects=False,
            stream=True,
        ) as response:
            body = bytearray()
            for chunk in response.iter_content(_CHUNK):
                body += chunk
                if len(body) > MAX_BODY:
                    raise body_too_large()
            headers = {name.lower(): value for name, value in response.headers.items()}
            return Reply(response.status_code, headers, bytes(body))

    def _translated(self, error: Exception) -> SegStatsError:
        reason = getattr(error.args[0], "reason", None) if error.args else None
        match error:
            case requests.exceptions.InvalidURL():
                return unusable_url()
            case requests.ConnectTimeout():
                return NotSentError(f"no connection within {self._settings.timeout:g} s")
            case requests.Timeout():
                return timed_out(self._settings)
            case requests.exceptions.ProxyError():
                answer = re.search(r"Tunnel connection failed: (\d+)", str(error))
                why = f"the proxy answered HTTP {answer[1]}" if answer else phrase(error)
                return NotSentError(f"could not connect: {why}")
        never_connected = isinstance(reason, urllib3.exceptions.NewConnectionError)
        return unconnected_or_unanswered(error, never_connected=never_connected)
