"""A connection's fields, and Airflow connections of every form, as settings or as a clear refusal."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest

from airflow_provider_segstats.core.errors import ConfigurationError
from airflow_provider_segstats.core.settings import Settings
from airflow_provider_segstats.hooks import SegStatsHook

if TYPE_CHECKING:
    from collections.abc import Callable

TOKEN = "abcdefghijklmnqrstuvwxyz"


def settings(host: str | None = "example.com", **fields: Any) -> Settings:
    return Settings.from_fields(**{"host": host, "password": TOKEN, **fields})


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({"host": "example.com"}, "https://example.com/api/v1.1"),
        ({"host": " example.com "}, "https://example.com/api/v1.1"),
        ({"host": "EXAMPLE.com"}, "https://example.com/api/v1.1"),
        ({"host": "example.com", "port": 8443}, "https://example.com:8443/api/v1.1"),
        ({"host": "example.com", "schema": "http"}, "http://example.com/api/v1.1"),
        ({"host": "example.com", "schema": "HTTP", "port": 80}, "http://example.com:80/api/v1.1"),
        ({"host": "example.com:8443"}, "https://example.com:8443/api/v1.1"),
        ({"host": "example.com:8443", "port": 8443}, "https://example.com:8443/api/v1.1"),
        ({"host": "example.com/prefix"}, "https://example.com/prefix/api/v1.1"),
        ({"host": "https://example.com"}, "https://example.com/api/v1.1"),
        ({"host": "https://example.com/"}, "https://example.com/api/v1.1"),
        ({"host": "HTTPS://example.com", "schema": "https"}, "https://example.com/api/v1.1"),
        ({"host": "http://example.com:8080/a/b/"}, "http://example.com:8080/a/b/api/v1.1"),
        ({"host": "https://example.com/api/v1.1"}, "https://example.com/api/v1.1"),
        ({"host": "https://example.com/a/api/v1.1/"}, "https://example.com/a/api/v1.1"),
        ({"host": "127.0.0.1", "port": 8080}, "https://127.0.0.1:8080/api/v1.1"),
        ({"host": "[::1]", "port": 8080}, "https://[::1]:8080/api/v1.1"),
        ({"host": "http://[2001:db8::1]:8080"}, "http://[2001:db8::1]:8080/api/v1.1"),
        ({"host": "example.com", "extra": {"base_path": "v2"}}, "https://example.com/v2"),
        ({"host": "example.com", "extra": {"base_path": "/v2/"}}, "https://example.com/v2"),
        ({"host": "example.com", "extra": {"base_path": "/"}}, "https://example.com"),
        ({"host": "example.com/a", "extra": {"base_path": "/"}}, "https://example.com/a"),
        ({"host": "example.com", "extra": {"base_path": ""}}, "https://example.com/api/v1.1"),
        # As people paste them.
        ({"host": "https:/example.com"}, "https://example.com/api/v1.1"),
        ({"host": "https:example.com"}, "https://example.com/api/v1.1"),
        ({"host": "https//example.com"}, "https://example.com/api/v1.1"),
        ({"host": "https:\\\\example.com"}, "https://example.com/api/v1.1"),
        ({"host": "https:///example.com"}, "https://example.com/api/v1.1"),
        ({"host": "//example.com"}, "https://example.com/api/v1.1"),
        ({"host": "https://https://example.com"}, "https://example.com/api/v1.1"),
        ({"host": "http://HTTP:/example.com:81/a"}, "http://example.com:81/a/api/v1.1"),
        ({"host": "httpbin.org"}, "https://httpbin.org/api/v1.1"),
        ({"host": "2001:db8::1"}, "https://[2001:db8::1]/api/v1.1"),
        ({"host": "::1", "port": 8080, "schema": "http"}, "http://[::1]:8080/api/v1.1"),
        ({"host": '"https://example.com"\n'}, "https://example.com/api/v1.1"),
        ({"host": "'example.com'"}, "https://example.com/api/v1.1"),
        ({"host": "<https://example.com/>"}, "https://example.com/api/v1.1"),
        ({"host": "`example.com` "}, "https://example.com/api/v1.1"),
        ({"host": "\ufeffexample.com\u200b\u00a0"}, "https://example.com/api/v1.1"),
        ({"host": "example.com", "schema": " HTTPS:// "}, "https://example.com/api/v1.1"),
        ({"host": "https://example.com//api//v1.1/"}, "https://example.com/api/v1.1"),
        ({"host": "https://example.com/api/v1.1/segments/refresh_counters"}, "https://example.com/api/v1.1"),
        ({"host": "example.com/a/api/v1.1/tasks/status/"}, "https://example.com/a/api/v1.1"),
        ({"host": "example.com/api/v1.1/databases/list/"}, "https://example.com/api/v1.1"),
        ({"host": "example.com/segments"}, "https://example.com/segments/api/v1.1"),
        ({"host": "example.com", "extra": {"base_path": "'/v2'"}}, "https://example.com/v2"),
        ({"host": "example.com", "extra": {"base_path": "/v2/tasks/status"}}, "https://example.com/v2"),
    ],
)
def test_a_host_of_any_form_becomes_one_base_url(fields: dict[str, Any], url: str) -> None:
    assert settings(**fields).base_url == url


NO_URL = "the connection's host is neither a name nor a URL"
PARTS = "the connection's host may hold scheme, name, port and path only"


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"host": None}, "the connection has no host"),
        ({"host": " "}, "the connection has no host"),
        ({"host": "exa mple.com"}, NO_URL),
        ({"host": "example.com\n.evil"}, NO_URL),
        ({"host": "https://"}, NO_URL),
        ({"host": "/api"}, NO_URL),
        ({"host": "example.com:port"}, NO_URL),
        ({"host": "example.com:99999"}, NO_URL),
        ({"host": "[::1"}, NO_URL),
        ({"host": "a..b.com"}, NO_URL),
        ({"host": ".com"}, NO_URL),
        ({"host": "a" * 64 + ".com"}, NO_URL),
        ({"host": "\u00ad.com"}, NO_URL),
        ({"host": "http:"}, NO_URL),
        ({"host": "exa\u200bmple.com"}, NO_URL),
        ({"host": "example.com,"}, NO_URL),
        ({"host": "*.example.com"}, NO_URL),
        ({"host": "example.com\\api"}, NO_URL),
        ({"host": "2001:db8::1::2"}, NO_URL),
        ({"host": "http://https://example.com"}, "the connection's host says http and https"),
        ({"host": "example.com", "port": 99999}, "the connection's port is 99999; it can be 1 to 65535"),
        ({"host": "example.com", "port": -1}, "the connection's port is -1; it can be 1 to 65535"),
        ({"host": "https://me@example.com"}, PARTS),
        ({"host": f"https://me:{TOKEN}@example.com"}, PARTS),
        ({"host": f"https://example.com/?token={TOKEN}"}, PARTS),
        ({"host": "https://example.com/#x"}, PARTS),
        ({"host": "ftp://example.com"}, "the connection's schema is 'ftp'; it can be https or http"),
        (
            {"host": "example.com", "schema": "ftp"},
            "the connection's schema is 'ftp'; it can be https or http",
        ),
        (
            {"host": "https://example.com", "schema": "http"},
            "the connection's host says schema https, its schema http",
        ),
        ({"host": "example.com:81", "port": 80}, "the connection's host says port 81, its port 80"),
        ({"password": None}, "the connection has no password; put the API token there"),
        ({"password": ""}, "the connection has no password; put the API token there"),
        ({"password": " \n"}, "the connection has no password; put the API token there"),
        ({"extra": "{"}, "the connection's extra is not JSON"),
        ({"extra": "[1]"}, "the connection's extra is not a JSON object"),
        ({"extra": "null x"}, "the connection's extra is not JSON"),
    ],
)
def test_a_field_that_cannot_be_used_is_refused_in_one_line(fields: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        settings(**fields)
    shown = f": {fields['host']!r}" if line == NO_URL else ""
    assert str(caught.value) == line + shown


@pytest.mark.parametrize("host", [f"https://exa mple.com/{TOKEN}", f"{TOKEN}, example.com"])
def test_a_host_is_shown_without_the_token(host: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        settings(host)
    assert str(caught.value) == f"{NO_URL}: {host.replace(TOKEN, '***')!r}"


@pytest.mark.parametrize("format", ["json", "xml"])
@pytest.mark.parametrize(
    "password", [f"{TOKEN}\n", f"  {TOKEN}\r\n", f"\ufeff{TOKEN}\u200b", f"\t{TOKEN}\u00a0"]
)
def test_a_token_is_pasted_without_what_stands_around_it(password: str, format: Any) -> None:
    of = settings(password=password, format=format, extra={"token_in": "header"})
    assert of == settings(format=format, extra={"token_in": "header"})


@pytest.mark.parametrize("extra", [None, "", "  ", "{}", "null", {}, '{"format": ""}', {"format": None}])
def test_an_extra_that_is_not_set_means_the_defaults(extra: Any) -> None:
    of = settings(extra=extra)
    assert (of.format, of.token_in, of.verify, of.timeout) == ("json", "body", True, 30.0)
    assert (of.proxy, of.requests_per_second, of.account) == (None, None, "example.com")
    assert of.failure_statuses == {"failed", "error", "canceled", "cancelled", "stopped", "aborted"}
    assert of.success_statuses == {"completed", "success"}
    assert of.refused_statuses == {429, 503}
    assert of.unknown_task_codes == {404}
    assert (of.time_zone, of.segment_url) == (ZoneInfo("UTC"), None)


@pytest.mark.parametrize(
    ("extra", "name", "value"),
    [
        ({"format": "xml"}, "format", "xml"),
        ({"format": " XML "}, "format", "xml"),
        ({"token_in": "header"}, "token_in", "header"),
        ({"verify": False}, "verify", False),
        ({"verify": "False"}, "verify", False),
        ({"verify": "true"}, "verify", True),
        ({"verify": " /etc/ca.pem "}, "verify", "/etc/ca.pem"),
        ({"verify": "'/etc/ca.pem'"}, "verify", "/etc/ca.pem"),
        *(
            ({"verify": word}, "verify", False)
            for word in ("0", "no", "off", "f", "n", "FALSE ", '"false"', 0)
        ),
        *(({"verify": word}, "verify", True) for word in ("1", "Yes", "on", "t", "y", 1)),
        *(({"verify": word}, "verify", True) for word in ("None", "null", " ", '""')),  # not set
        ({"format": '"xml"'}, "format", "xml"),
        ({"timeout": " 5\u00a0"}, "timeout", 5.0),
        ({"unknown_task_codes": '["404", "441"]'}, "unknown_task_codes", {404, 441}),
        ({"proxy": " 'http://proxy:3128'\n"}, "proxy", "http://proxy:3128"),
        ({"time_zone": '"UTC"'}, "time_zone", ZoneInfo("UTC")),
        ({"timeout": 5}, "timeout", 5.0),
        ({"timeout": "2.5"}, "timeout", 2.5),
        ({"proxy": "http://me:pw@proxy:3128"}, "proxy", "http://me:pw@proxy:3128"),
        ({"proxy": "https://proxy"}, "proxy", "https://proxy"),
        ({"failure_statuses": ["Dead", "gone"]}, "failure_statuses", {"dead", "gone"}),
        ({"failure_statuses": "Dead, gone"}, "failure_statuses", {"dead", "gone"}),
        ({"failure_statuses": '["dead", "gone"]'}, "failure_statuses", {"dead", "gone"}),
        ({"unknown_task_codes": [404, 441]}, "unknown_task_codes", {404, 441}),
        ({"unknown_task_codes": "404, 441"}, "unknown_task_codes", {404, 441}),
        ({"unknown_task_codes": "[404]"}, "unknown_task_codes", {404}),
        ({"unknown_task_codes": 441}, "unknown_task_codes", {441}),
        ({"requests_per_second": 2}, "requests_per_second", 2.0),
        ({"requests_per_second": "0.5"}, "requests_per_second", 0.5),
        ({"account": " shop "}, "account", "shop"),
        ({"success_statuses": ["Done", "completed"]}, "success_statuses", {"done", "completed"}),
        ({"success_statuses": "Done"}, "success_statuses", {"done"}),
        ({"failure_statuses": []}, "failure_statuses", set()),
        ({"failure_statuses": "[]"}, "failure_statuses", set()),
        ({"unknown_task_codes": []}, "unknown_task_codes", set()),
        ({"refused_statuses": [429]}, "refused_statuses", {429}),
        ({"refused_statuses": "429, 502,503"}, "refused_statuses", {429, 502, 503}),
        ({"refused_statuses": 503}, "refused_statuses", {503}),
        ({"refused_statuses": []}, "refused_statuses", set()),
        ({"refused_statuses": " [] "}, "refused_statuses", set()),
        ({"time_zone": "Europe/Berlin"}, "time_zone", ZoneInfo("Europe/Berlin")),
        ({"time_zone": " America/New_York "}, "time_zone", ZoneInfo("America/New_York")),
        (
            {"segment_url": "https://example.com/r/{resource_id}?s={segment_id}&d={db_id}#{segment_id}"},
            "segment_url",
            "https://example.com/r/{resource_id}?s={segment_id}&d={db_id}#{segment_id}",
        ),
        ({"segment_url": " http://example.com:81 "}, "segment_url", "http://example.com:81"),
    ],
)
def test_an_extra_may_be_json_or_text_as_forms_and_uris_give_it(
    extra: dict[str, Any], name: str, value: object
) -> None:
    assert getattr(settings(extra=extra), name) == value
    assert getattr(settings(extra=json.dumps(extra)), name) == value


NUMBER = "must be a number above 0"
PROXY = "extra proxy must be a URL such as http://user:password@proxy:3128"
IN_BOTH = "cannot stand in both success_statuses and failure_statuses"
IANA = "it takes IANA names such as Europe/Berlin"
LINK = (
    "extra segment_url must be an http or https URL whose path has no braces but {segment_id}, {resource_id} "
    "and {db_id}"
)
VERIFY = "extra verify can be true, false or the path of a CA file"


@pytest.mark.parametrize(
    ("extra", "line"),
    [
        ({"format": "yaml"}, "extra format can be json or xml"),
        ({"format": 1}, "extra format must be text"),
        ({"token_in": "url"}, "extra token_in can be body or header"),
        ({"base_path": 1}, "extra base_path must be text"),
        ({"account": ["a"]}, "extra account must be text"),
        ({"verify": 2}, VERIFY),
        *(
            ({"base_path": path}, f"extra base_path must be a path such as /api/v1.1, not {path!r}")
            for path in ("https://example.com/api/v1.1", "/a b", "/api?x=1", "/api#x", "\\\\api")
        ),
        ({"verify": {"a": 1}}, VERIFY),
        *(
            ({name: value}, f"extra {name} {NUMBER}")
            for name in ("timeout", "requests_per_second")
            for value in (0, -1, "0", True, "fast", "nan", "inf", [1], float("inf"))
        ),
        ({"proxy": 5}, "extra proxy must be text"),
        ({"proxy": f"me:{TOKEN}@proxy:3128"}, PROXY),
        ({"proxy": f"socks5://me:{TOKEN}@proxy:3128"}, PROXY),
        ({"proxy": f"http://me:{TOKEN}@proxy:port"}, PROXY),
        ({"proxy": "http://"}, PROXY),
        ({"failure_statuses": ["completed"]}, f"completed {IN_BOTH}"),
        ({"failure_statuses": "failed, Success, Completed"}, f"completed, success {IN_BOTH}"),
        ({"success_statuses": "Failed"}, f"failed {IN_BOTH}"),
        ({"success_statuses": []}, "extra success_statuses must name at least one status"),
        ({"success_statuses": "[]"}, "extra success_statuses must name at least one status"),
        ({"success_statuses": True}, "extra success_statuses must be a list"),
        ({"failure_statuses": ["a", "A"]}, "extra failure_statuses must be different names"),
        ({"failure_statuses": [1]}, "extra failure_statuses must be different names"),
        ({"failure_statuses": {"a": 1}}, "extra failure_statuses must be a list"),
        ({"failure_statuses": True}, "extra failure_statuses must be a list"),
        ({"unknown_task_codes": ["x"]}, "extra unknown_task_codes must be whole numbers"),
        ({"unknown_task_codes": [None]}, "extra unknown_task_codes must be whole numbers"),
        ({"unknown_task_codes": {}}, "extra unknown_task_codes must be a list"),
        ({"refused_statuses": "busy"}, "extra refused_statuses must be whole numbers"),
        ({"refused_statuses": [429, 200]}, "extra refused_statuses must be numbers from 400 to 599"),
        ({"refused_statuses": 0}, "extra refused_statuses must be numbers from 400 to 599"),
        ({"time_zone": 1}, "extra time_zone must be text"),
        *(
            ({"time_zone": zone}, f"extra time_zone names no time zone: {zone!r}; {IANA}")
            for zone in ("Europe/Berln", "Europe", "/etc/passwd", "../UTC", "UTC+1", "a\x00b", "CEST?")
        ),
        ({"segment_url": 1}, "extra segment_url must be text"),
        *(
            ({"segment_url": url}, f"{LINK}: {url!r}")
            for url in (
                "example.com/{segment_id}",
                "javascript:alert({segment_id})",
                "https:///{segment_id}",
                "https://{segment_id}.example.com/",
                "https://me:pw@example.com/{segment_id}",
                "https://example.com/{segment}",
                "https://example.com/{}",
                "https://example.com/{0}",
                "https://example.com/{segment_id.real}",
                "https://example.com/{segment_id!r}",
                "https://example.com/{segment_id:08}",
                "https://example.com/{segment_id",
                "https://example.com/segment_id}",
                "https://example.com/{{segment_id}}",
                "https://example.com/a b",
            )
        ),
    ],
    ids=str,
)
def test_a_bad_extra_is_refused_in_one_line_that_quotes_no_secret(extra: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        settings(extra=extra)
    assert str(caught.value) == line


def test_a_links_pattern_can_be_filled_with_a_segments_ids() -> None:
    pattern = settings(extra={"segment_url": "https://example.com/{db_id}/{segment_id}"}).segment_url
    assert pattern is not None
    assert pattern.format(segment_id=7, resource_id=24, db_id=1) == "https://example.com/1/7"


@pytest.mark.parametrize("value", [404.7, "4.5", True, float("nan"), float("inf")], ids=repr)
def test_an_unknown_task_code_that_is_no_whole_number_is_refused(value: object) -> None:
    with pytest.raises(ConfigurationError):
        settings(extra={"unknown_task_codes": [value]})


def test_unknown_extras_are_named_beside_the_known_ones() -> None:
    with pytest.raises(ConfigurationError) as caught:
        settings(extra={"fromat": "xml", "Verify": True, "timeout": 5})
    assert str(caught.value) == (
        "unknown extra Verify, fromat; known are format, base_path, token_in, verify, timeout, proxy, "
        "success_statuses, failure_statuses, refused_statuses, unknown_task_codes, requests_per_second, "
        "account, time_zone, segment_url"
    )


@pytest.mark.parametrize("token", ["t\u00e9", "a\nb", "a\tb", "\x7f"])
def test_a_token_that_no_header_can_carry_is_refused_for_headers_only(token: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be a header"):
        settings(password=token, extra={"token_in": "header"})
    assert settings(password=token).token == token


def test_the_operators_format_overrides_the_connections() -> None:
    assert settings(extra={"format": "json"}, format="xml").format == "xml"


def test_settings_are_hashable_equal_by_value_and_show_no_secret() -> None:
    extra = {"proxy": f"http://me:{TOKEN}@proxy:3128"}
    one, other = settings(extra=extra), settings(extra=extra)
    assert one == other
    assert hash(one) == hash(other)
    assert TOKEN not in f"{one} {one!r}"


@pytest.mark.parametrize(
    ("url", "in_clear"),
    [
        ("https://example.com", False),
        ("http://example.com", True),
        ("http://10.0.0.1", True),
        ("http://localhost:8080", False),
        ("http://a.localhost", False),
        ("http://127.0.0.2", False),
        ("http://[::1]", False),
        ("http://localhost.example.com", True),
        ("http://127.evil.example", True),
    ],
)
def test_a_token_is_in_clear_over_http_to_another_machine(url: str, in_clear: bool) -> None:
    assert settings(url).sends_token_in_clear is in_clear


class TestAirflowConnections:
    @pytest.mark.parametrize(
        ("connection", "wanted"),
        [
            (
                (
                    "segstats://:to%2Fken@example.com:8443/http?format=xml&verify=false&timeout=5&"
                    "unknown_task_codes=404%2C441&failure_statuses=dead&requests_per_second=2"
                ),
                {
                    "base_url": "http://example.com:8443/api/v1.1",
                    "token": "to/ken",
                    "format": "xml",
                    "verify": False,
                    "timeout": 5.0,
                    "unknown_task_codes": frozenset({404, 441}),
                    "failure_statuses": frozenset({"dead"}),
                    "requests_per_second": 2.0,
                },
            ),
            ("segstats://:t@example.com", {"base_url": "https://example.com/api/v1.1", "token": "t"}),
            (
                "segstats://:t@https%3A%2F%2Fexample.com%3A8443%2Fprefix",
                {"base_url": "https://example.com:8443/prefix/api/v1.1"},
            ),
            (
                "segstats://:t%0A@[2001:db8::1]:8443/http?verify=no",
                {"base_url": "http://[2001:db8::1]:8443/api/v1.1", "token": "t", "verify": False},
            ),
            (
                {"conn_type": "segstats", "host": "http://[::1]:8080", "password": "t\u00e9<&>"},
                {"base_url": "http://[::1]:8080/api/v1.1", "token": "t\u00e9<&>"},
            ),
            (
                {"conn_type": "segstats", "host": "e.com", "password": "t", "extra": {"token_in": "header"}},
                {"token_in": "header"},
            ),
            (
                {"conn_type": "segstats", "host": "e.com", "password": "t", "extra": '{"timeout": 5}'},
                {"timeout": 5.0},
            ),
            (
                {"conn_type": "segstats", "host": "e.com", "port": "8443", "password": "t"},
                {"base_url": "https://e.com:8443/api/v1.1"},
            ),
        ],
    )
    def test_a_connection_of_the_environment_is_read_in_both_forms(
        self, monkeypatch: pytest.MonkeyPatch, connection: Any, wanted: dict[str, Any]
    ) -> None:
        text = connection if isinstance(connection, str) else json.dumps(connection)
        monkeypatch.setenv("AIRFLOW_CONN_SEGSTATS_DEFAULT", text)
        of = SegStatsHook().get_conn()
        assert {name: getattr(of, name) for name in wanted} == wanted

    def test_an_airflow_connection_of_another_name_is_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_SHOP", "segstats://:t@shop.example")
        assert SegStatsHook("shop").get_conn().account == "shop.example"

    def test_an_unknown_extra_of_a_connection_is_refused(self, connect: Callable[..., None]) -> None:
        connect("example.com", fromat="xml")
        with pytest.raises(
            ConfigurationError, match=r"^connection 'segstats_default': unknown extra fromat; "
        ):
            SegStatsHook().get_conn()
