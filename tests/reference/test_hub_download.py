"""Downloads from the Hub are kept in the cache only with the listed hash."""

from __future__ import annotations

import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from spikgpt.errors import ConfigError, DamagedReference, HubError
from spikgpt.reference import hub_errors, hub_requests
from spikgpt.reference.hub import Hub
from tests.hub_server import Fault, LoopbackHub
from tests.reference.test_hub import FILES, REPO, pulled


def test_a_file_with_another_hash_is_not_kept(hub: LoopbackHub, client: Hub, tmp_path: Path) -> None:
    hub.put(REPO, FILES)
    hub.fail(Fault("damage", "GET /cdn"))
    assert pulled(client) == FILES
    hub.put(REPO, {**FILES, "model.safetensors": b"newer"})
    hub.fail(Fault("damage", "GET /cdn", 9))
    with pytest.raises(
        DamagedReference, match=r"does not hold what it lists, downloaded twice: model.safetensors. Nothing"
    ):
        pulled(client)
    blobs = next((tmp_path / "cache").rglob("blobs"))
    assert len(list(blobs.iterdir())) == 3
    hub.clear_faults()
    assert pulled(client)["model.safetensors"] == b"newer"


def test_a_cached_file_stays_until_another_copy_has_arrived(hub: LoopbackHub, client: Hub) -> None:
    hub.put(REPO, FILES)
    folder = client.snapshot(REPO, None, tuple(FILES), required=())
    (folder / "a.json").resolve().write_bytes(b"damaged")
    away = Hub("http://127.0.0.1:9", cache_dir=client.cache_dir)
    with pytest.raises(HubError, match="is not whole in the local cache. The Hub cannot be reached"):
        away.repair(REPO, folder.name, FILES)
    hub.fail(Fault("error", "GET .*/resolve/.*a.json", 9))
    with pytest.raises(HubError, match="it answered 500"):
        client.repair(REPO, folder.name, FILES)
    assert (folder / "a.json").read_bytes() == b"damaged"


def test_a_full_disk_is_named_in_the_error(hub: LoopbackHub, client: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(client._api, "hf_hub_download", full)
    hub.put(REPO, FILES)
    with pytest.raises(ConfigError, match=r"The cache cannot be written \(No space left on device: .*Free some space"):
        pulled(client)


@pytest.mark.parametrize("end", ["error", "slow", "Ctrl-C"])
def test_an_altered_file_is_deleted_if_other_downloads_fail(
    hub: LoopbackHub, client: Hub, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.put(REPO, FILES)
    altered = FILES["model.safetensors"][::-1]
    other = "GET .*/resolve/.*a.json"
    hub.forge = lambda request, answer: replace(answer, body=altered) if "GET /cdn" in request else answer
    if end == "error":
        monkeypatch.setattr(hub_errors, "TRIES", 1)
        hub.fail(Fault("error", other, 9))
    else:
        monkeypatch.setattr(hub_requests, "PATIENCE", 0.5 if end == "slow" else 60.0)
        hub.fail(Fault("slow", other, 9, 2.0))
    if end == "Ctrl-C":
        threading.Timer(0.7, signal.raise_signal, [signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt if end == "Ctrl-C" else HubError):
        pulled(client)
    assert any(request.path.startswith("/cdn") for request in hub.requests)
    assert altered not in [path.read_bytes() for path in Path(str(client.cache_dir)).rglob("*") if path.is_file()]
    hub.forge = lambda request, answer: answer
    hub.clear_faults()
    monkeypatch.setattr(hub_requests, "PATIENCE", 60.0)
    assert pulled(client, commit) == FILES
