"""What goes wrong with the Hub: tried again where that helps, and told in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub.errors import OfflineModeIsEnabled

from spikgpt.errors import HubError, ReferenceNotFound
from spikgpt.reference import hub as hub_module
from spikgpt.reference import hub_errors
from spikgpt.reference.hub import Hub
from spikgpt.reference.hub_errors import Unreachable, explained, retried
from spikgpt.testing.hub import Fault, LoopbackHub
from tests.reference.test_hub import FILES, REPO, SECRET, pulled, push


def test_tokens_open_what_they_may(tmp_path: Path) -> None:
    with LoopbackHub(tokens={SECRET: "islets", "hf_other": "other"}) as hub:

        def client(token: str | None) -> Hub:
            return Hub(hub.endpoint, token, tmp_path / "cache")

        with pytest.raises(HubError, match="does not know this token, or wants one.*hf auth login"):
            push(client(None))
        with pytest.raises(HubError, match="This token may not write to islets/small"):
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
def test_what_goes_wrong_once_is_tried_again(hub: LoopbackHub, client: Hub, fault: Fault) -> None:
    hub.put(REPO, FILES)
    hub.fail(fault)
    assert pulled(client) == FILES
    assert hub.faults == ()


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
def test_what_stays_wrong_is_said(
    hub: LoopbackHub, client: Hub, fault: Fault, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "TIMEOUT", 0.2)
    monkeypatch.setattr(hub_errors, "TRIES", 2)
    hub.put(REPO, FILES)
    hub.fail(fault)
    with pytest.raises(HubError, match=message):
        pulled(client)
    hub.forgive()
    monkeypatch.setattr(hub_module, "TIMEOUT", 10.0)
    assert pulled(client) == FILES


def test_what_cannot_succeed_is_not_tried_again(hub: LoopbackHub, client: Hub) -> None:
    hub.put(REPO, FILES)
    with pytest.raises(ReferenceNotFound, match="islets/small has no revision 'v9'; name a branch, a tag or a commit"):
        pulled(client, "v9")
    with pytest.raises(ReferenceNotFound, match="There is no repository islets/none on the Hub, or it is private"):
        client.names("islets/none", None)
    assert len(hub.requests) == 2

    def offline() -> None:
        calls.append(1)
        msg = "offline"
        raise OfflineModeIsEnabled(msg)

    calls: list[int] = []
    with pytest.raises(Unreachable, match="HF_HUB_OFFLINE is set, so a/b was not read. Unset it"), explained("a/b"):
        retried(offline)
    assert calls == [1]


def test_uploads_say_what_they_wrap() -> None:
    with pytest.raises(Unreachable, match="TimeoutError: too late.*a/b@v1 was not written"):  # noqa: PT012
        with explained("a/b", "v1", writing=True):
            msg = "upload failed"
            raise RuntimeError(msg) from TimeoutError("too late")
