"""The sync path, over requests."""

from __future__ import annotations

import time

import requests
import urllib3

from airflow_provider_segstats.api import Reply, Request
from airflow_provider_segstats.errors import CertificateError, NoAnswerError, NotSentError, SegStatsError
from airflow_provider_segstats.settings import Settings
from airflow_provider_segstats.transport import (
    MAX_BODY,
    body_too_large,
    ca_file,
    is_untrusted,
    phrase,
    proxy_for,
    timed_out,
    unusable_url,
)

_CHUNK = 64 * 1024


class SyncTransport:
    """One pooled session to one server."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session = requests.Session()
        # No .netrc (it would replace the token) and no proxy or CA variables: `proxy_for` and `ca_file`.
        self._session.trust_env = False
        self._session.verify = ca_file(settings) if settings.verify else False
        if proxy := proxy_for(settings):
            self._session.proxies = {"http": proxy, "https": proxy}

    def close(self) -> None:
        """Close the pooled connections."""
        self._session.close()

    def send(self, request: Request) -> Reply:
        """Return the reply; raises a :class:`TransportError` when there is no whole one."""
        give_up = time.monotonic() + self._settings.timeout
        try:
            with self._session.post(
                request.url,
                data=request.body,
                headers=dict(request.headers),
                timeout=self._settings.timeout,
                allow_redirects=False,
                stream=True,
            ) as response:
                body = bytearray()
                # requests limits the time between two reads; a server that trickles must not hold us.
                for chunk in response.iter_content(_CHUNK):
                    body += chunk
                    if len(body) > MAX_BODY:
                        raise body_too_large()
                    if time.monotonic() > give_up:
                        raise timed_out(self._settings)
                headers = {name.lower(): value for name, value in response.headers.items()}
                return Reply(response.status_code, headers, bytes(body))
        except requests.RequestException as error:
            raise self._translated(error) from error

    def _translated(self, error: requests.RequestException) -> SegStatsError:
        if isinstance(error, requests.exceptions.InvalidURL):
            return unusable_url()
        if isinstance(error, requests.ConnectTimeout):
            return NotSentError(f"no connection within {self._settings.timeout:g} s")
        if isinstance(error, requests.Timeout):
            return timed_out(self._settings)
        if is_untrusted(error):
            return CertificateError(f"the server's certificate is not trusted: {phrase(error)}")
        reason = getattr(error.args[0], "reason", None) if error.args else None
        never_connected = isinstance(reason, urllib3.exceptions.NewConnectionError) or isinstance(
            error, requests.exceptions.ProxyError
        )
        if never_connected:
            return NotSentError(f"could not connect: {phrase(error)}")
        return NoAnswerError(f"no whole answer: {phrase(error)}")
