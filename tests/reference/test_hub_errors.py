"""Errors of the Hub are retried if that can help, and are reported in one line."""

from __future__ import annotations

import errno
import ssl
import subprocess
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from huggingface_hub import utils
from huggingface_hub.errors import OfflineModeIsEnabled

from spikgpt.errors import ConfigError, HubError, ReferenceNotFound, SpikGPTError, SpikGPTWarning
from spikgpt.reference import hub as hub_module
from spikgpt.reference import hub_errors
from spikgpt.reference.hub import Hub
from spikgpt.reference.hub_errors import Unreachable, connection_remedy, retried, translated_errors
from spikgpt.reference.registry import resolve
from tests.hub_server import Fault, LoopbackHub
from tests.hub_server.answers import HubAnswer
from tests.reference.test_hub import FILES, REPO, SECRET, pulled, push


def test_a_token_gives_access_to_its_own_namespace(tmp_path: Path) -> None:
    with LoopbackHub(tokens={SECRET: "islets", "hf_other": "other"}) as hub:

        def client(token: str | None) -> Hub:
            return Hub(hub.endpoint, token, tmp_path / "cache")

        with pytest.raises(HubError, match="does not know this token, or requires one.*hf auth login"):
            push(client(None))
        with pytest.raises(HubError, match="This token gives no access to islets/small"):
            push(client("hf_other"))
        push(client(SECRET), private=True)
        for token in (None, "hf_other"):
            with pytest.raises(
                ReferenceNotFound, match="There is no repository islets/small on the Hub, or it is priv"
            ):
                pulled(client(token))
        with pytest.raises(HubError, match="The Hub does not know this token"):
            pulled(client("hf_wrong"))
        assert pulled(client(SECRET)) == FILES


@pytest.mark.parametrize(
    "fault",
    [
        Fault("error", "GET /api/models"),
        Fault("error", "GET .*/resolve/.*a.json"),
        Fault("error", "GET /cdn"),
        Fault("cut", "GET /api/models"),
        Fault("cut", "GET /cdn", 2),
        Fault("cut", "GET .*/resolve/.*a.json"),
        Fault("rate limit", "GET /api/models"),
        Fault("rate limit", "GET /cdn"),
    ],
    ids=lambda fault: f"{fault.kind} {fault.request}",
)
@pytest.mark.slow
def test_a_request_that_fails_once_is_retried(hub: LoopbackHub, client: Hub, fault: Fault) -> None:
    hub.put(REPO, FILES)
    hub.fail(fault)
    assert pulled(client) == FILES
    assert hub.faults == ()


LATER = {"Retry-After": "Sat, 28 Nov 2026 10:00:03 GMT", "Date": "Sat, 28 Nov 2026 10:00:01 GMT"}


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "2"}, [2.0]),
        ({"RateLimit": '"api";r=0;t=2', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}, [2.0]),
        ({"RateLimit": '"api"; r=0; t=90'}, [60.0]),
        ({"RateLimit-Reset": "2"}, [2.0]),
        (LATER, [2.0]),
        ({"RateLimit": '"api";r=0;t=300'}, []),
        ({"Retry-After": "soon"}, [1.0]),
    ],
    ids=str,
)
def test_a_busy_hub_is_retried_after_the_stated_time(
    hub: LoopbackHub, client: Hub, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], seconds: list[float]
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    hub.put(REPO, FILES)

    def busy(request: str, answer: HubAnswer) -> HubAnswer:
        if waited or not request.startswith("GET /api/models"):
            return answer
        return replace(answer, status=429, headers={**headers, "Content-Length": "0"}, body=b"")

    hub.forge = busy
    if seconds:
        assert pulled(client) == FILES
    else:
        # The stated time is longer than all retries together would wait.
        with pytest.raises(HubError, match="The Hub asks for fewer requests, .* Try again in 300 s"):
            pulled(client)
    assert waited == seconds


def test_a_login_page_is_recognised(hub: LoopbackHub, client: Hub, tmp_path: Path) -> None:
    hub.put(REPO, FILES)
    assert pulled(client) == FILES

    def portal(request: str, answer: HubAnswer) -> HubAnswer:
        page = b"<!doctype html><title>Log in</title>"
        return replace(answer, status=200, headers={"Content-Type": "text/html"}, body=page)

    hub.forge = portal
    with pytest.raises(HubError, match="with a web page.* log in to the network in a browser"):
        pulled(Hub(hub.endpoint, cache_dir=tmp_path / "other"))
    with pytest.warns(SpikGPTWarning, match="with a web page.* The cached commit .* is used"):
        assert pulled(client) == FILES


@pytest.mark.parametrize(
    ("status", "message"),
    [(404, "The Hub answered 404, .*Check the name, and HF_ENDPOINT"), (503, "it answered 503.*Try again later")],
)
def test_an_answer_without_a_reason_has_its_own_remedy(
    hub: LoopbackHub, client: Hub, monkeypatch: pytest.MonkeyPatch, status: int, message: str
) -> None:
    monkeypatch.setattr(hub_errors, "TRIES", 1)
    hub.forge = lambda _, answer: replace(answer, status=status, headers={"Content-Length": "0"}, body=b"")
    with pytest.raises(HubError, match=message):
        pulled(client)


def test_errors_are_one_line_in_a_notebook(client: Hub, hub: LoopbackHub) -> None:
    for repository in ("islets/none", "islets/small@v9", "a/b/c@d"):
        with pytest.raises(SpikGPTError) as raised:
            resolve(repository, hub=client)
        shown = "".join(traceback.format_exception(raised.value))
        assert "During handling" not in shown
        assert "direct cause" not in shown
        assert len(shown.splitlines()) < 25


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("error", "GET ", 99), "is not in the local cache. The Hub cannot be reached .it answered 500"),
        (Fault("error", "GET /cdn", 99), "The Hub cannot be reached .it answered 500"),
        (Fault("cut", "GET /api", 99), "The Hub cannot be reached .RemoteProtocolError"),
        (Fault("rate limit", "GET /api", 99), "The Hub asks for fewer requests, so islets/small was not read"),
        (Fault("slow", "GET /api", 99, 1.0), "The Hub cannot be reached .ReadTimeout"),
    ],
    ids=["error", "error of a file", "cut", "rate limit", "slow"],
)
def test_a_lasting_error_is_reported(
    hub: LoopbackHub, client: Hub, fault: Fault, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "TIMEOUT", 0.2)
    monkeypatch.setattr(hub_errors, "TRIES", 2)
    hub.put(REPO, FILES)
    hub.fail(fault)
    with pytest.raises(HubError, match=message):
        pulled(client)
    hub.clear_faults()
    monkeypatch.setattr(hub_module, "TIMEOUT", 10.0)
    assert pulled(client) == FILES


def test_requests_that_cannot_succeed_are_not_retried(hub: LoopbackHub, client: Hub) -> None:
    hub.put(REPO, FILES)
    with pytest.raises(
        ReferenceNotFound, match="islets/small@v9 is no revision of islets/small; name a branch, a tag or a commit"
    ):
        pulled(client, "v9")
    with pytest.raises(ReferenceNotFound, match="There is no repository islets/none on the Hub, or it is private"):
        client.names("islets/none", None)
    assert len(hub.requests) == 2

    def offline() -> None:
        calls.append(1)
        msg = "offline"
        raise OfflineModeIsEnabled(msg)

    calls: list[int] = []
    with (
        pytest.raises(Unreachable, match="HF_HUB_OFFLINE is set, so a/b was not read. Unset it"),
        translated_errors("a/b"),
    ):
        retried(offline)
    assert calls == [1]


def test_the_cause_of_an_upload_error_is_named() -> None:
    with pytest.raises(Unreachable, match="TimeoutError: too late.*a/b@v1 was not written"):  # noqa: PT012
        with translated_errors("a/b", "v1", writing=True):
            msg = "upload failed"
            raise RuntimeError(msg) from TimeoutError("too late")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), ConfigError),
        (PermissionError(errno.EACCES, "Permission denied", "blobs/x"), ConfigError),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), Unreachable),
        (OSError(errno.EMFILE, "Too many open files"), Unreachable),
        (ssl.SSLError(1, "[SSL] record layer failure"), Unreachable),
    ],
)
def test_disk_errors_and_network_errors_are_distinguished(error: OSError, kind: type[SpikGPTError]) -> None:
    with pytest.raises(kind), translated_errors("a/b"):
        raise error


VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@pytest.fixture
def _fresh_client(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make a new client with the settings of the test."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    utils.close_session()
    yield
    utils.close_session()


@pytest.mark.usefixtures("_fresh_client")
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SSL_CERT_FILE", "none.pem", "SSL_CERT_FILE names none.pem, which does not exist"),
        ("SSL_CERT_FILE", "empty.pem", "SSL_CERT_FILE names empty.pem, which holds no certificates"),
        ("SSL_CERT_FILE", ".", "SSL_CERT_FILE names ., which is no file"),
        ("ALL_PROXY", "socks5://127.0.0.1:9", "ALL_PROXY names a SOCKS proxy.*install socksio, or unset ALL_PROXY"),
        ("all_proxy", "socks5h://127.0.0.1:9", "all_proxy names a SOCKS proxy"),
        ("HTTP_PROXY", "user:secret", "^(?!.*secret).*HTTP_PROXY is no proxy address.*://HOST:PORT"),
        ("HTTPS_PROXY", "ftp://127.0.0.1:9", "HTTPS_PROXY is no proxy address"),
        ("HF_TOKEN", "hf_\u00e4", "HF_TOKEN is no token"),
        ("HF_TOKEN", "Bearer hf_a", "HF_TOKEN is no token"),
    ],
)
def test_a_wrong_setting_is_named_and_the_cache_is_used(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.pem").write_text("nothing")
    hub.put(REPO, FILES)
    monkeypatch.setenv("HF_TOKEN", "hf_fine")
    client = Hub(hub.endpoint, True, tmp_path / "cache")
    assert pulled(client) == FILES
    utils.close_session()
    monkeypatch.setenv(name, value)
    with pytest.raises(HubError, match=message):
        pulled(Hub(hub.endpoint, True, tmp_path / "other"))
    with pytest.warns(SpikGPTWarning, match=f"{message.removeprefix('^')}.* The cached commit .* of {REPO} is used"):
        assert pulled(client) == FILES


@pytest.mark.parametrize(
    "endpoint",
    [
        "huggingface.co",
        "localhost:8765",
        "'http://127.0.0.1:9'",
        "http://",
        "http://a:b",
        "http://a:99999",
        "http://a:0",
        "http://:80",
    ],
)
def test_invalid_addresses_of_a_hub_are_refused(endpoint: str, tmp_path: Path) -> None:
    with pytest.raises(HubError, match="The endpoint is .*; expected an address such as https://HOST"):
        pulled(Hub(endpoint, cache_dir=tmp_path))


@pytest.mark.parametrize("endpoint", ["http://[::1]:8080", "https://user:pw@host", "https://host:65535/hub"])
def test_other_addresses_of_a_hub_are_accepted(endpoint: str) -> None:
    assert Hub(endpoint)._endpoint == endpoint


def test_a_slash_at_the_end_of_the_address_does_no_harm(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.put(REPO, FILES)
    assert pulled(Hub(f"{hub.endpoint}/", cache_dir=tmp_path)) == FILES


@pytest.fixture
def untrusted(tmp_path: Path) -> Iterator[str]:
    """Yield the address of an https server with a self-signed certificate."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1"]
    options = ["-keyout", "key.pem", "-out", "cert.pem", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, *options], cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda request, client_address: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"https://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("_fresh_client")
def test_an_untrusted_certificate_is_named(untrusted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Hub(untrusted, cache_dir=tmp_path)
    with pytest.raises(HubError, match="certificate is not trusted; set SSL_CERT_FILE to the certificates of"):
        pulled(client)
    # Other programs read REQUESTS_CA_BUNDLE, and this client does not.
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/etc/lab.pem")
    with pytest.raises(HubError, match="set SSL_CERT_FILE to /etc/lab.pem; REQUESTS_CA_BUNDLE is not read here"):
        pulled(client)
    monkeypatch.setenv("SSL_CERT_FILE", "/etc/other.pem")
    remedy = connection_remedy(OSError("CERTIFICATE_VERIFY_FAILED"))
    assert "SSL_CERT_FILE names /etc/other.pem" in remedy
    assert "lab.pem" not in remedy


@pytest.mark.usefixtures("_fresh_client")
@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate has expired (_ssl.c:1)", "Check the clock of this machine"),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate is not yet valid (_ssl.c:1)", "Check the clock of this machine"),
        ("[SSL: WRONG_VERSION_NUMBER] wrong version number", "does not speak https"),
        ("[SSL] record layer failure (_ssl.c:1006)", "does not speak https"),
        ("[SSL: UNKNOWN_PROTOCOL] unknown protocol", "does not speak https"),
        ("[Errno -2] Name or service not known", "Check the connection and HF_ENDPOINT."),
    ],
)
def test_a_connection_that_fails_has_its_own_remedy(error: str, remedy: str) -> None:
    assert remedy in connection_remedy(OSError(error))


def test_a_proxy_that_may_be_the_cause_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    assert connection_remedy(OSError("refused")).endswith("and the proxy: HTTPS_PROXY.")
