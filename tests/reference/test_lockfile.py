"""Digests and lock files: a reference with other bytes is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from spikgpt.errors import ConfigError, DamagedReference
from spikgpt.reference.format import MANIFEST, digest_of
from spikgpt.reference.hub import Hub
from spikgpt.reference.lockfile import VersionPin
from spikgpt.sharing import open_reference, pull
from tests.damage import listed
from tests.fuzz.alter_answers import REPO, SOURCE, files_of, reference_files
from tests.hub_server import LoopbackHub

DIGEST = digest_of(reference_files()[MANIFEST])
OTHER = listed({**reference_files(), "genes.json": reference_files()["genes.json"] + b"\n"})


def test_a_reference_with_another_digest_is_refused(hub: LoopbackHub, client: Hub, tmp_path: Path) -> None:
    hub.put(REPO, reference_files())
    for expect in (DIGEST, DIGEST.upper(), f"sha256:{DIGEST}"):
        assert open_reference(REPO, hub=client, pin=VersionPin(expect)).digest == DIGEST
    assert pull(REPO, tmp_path / "out", hub=client, pin=VersionPin(DIGEST)).digest == DIGEST
    # The pulled files have the bytes of the repository, even if this version would write other bytes.
    assert files_of(tmp_path / "out") == reference_files()
    hub.put(REPO, OTHER)
    with pytest.raises(DamagedReference, match=f"{REPO} has the digest .*; expected {DIGEST}. Nothing was written"):
        pull(REPO, tmp_path / "other", hub=client, pin=VersionPin(DIGEST))
    assert not (tmp_path / "other").exists()
    for invalid in ("", "x" * 64, DIGEST[:-1], DIGEST + "\n", f"md5:{DIGEST}"):
        with pytest.raises(ConfigError, match="give the 64 digits of a sha256"):
            VersionPin(invalid)


def test_a_lock_file_keeps_the_commit_and_the_digest(hub: LoopbackHub, client: Hub, tmp_path: Path) -> None:
    commit = hub.put(REPO, reference_files())
    lock = tmp_path / "locks" / "spikgpt.lock"
    pin = VersionPin(lock=lock)
    pull(REPO, tmp_path / "first", hub=client, pin=pin)
    pull(str(SOURCE), tmp_path / "folder", pin=pin)
    entry = {"digest": DIGEST, "repository": REPO, "commit": commit}
    assert json.loads(lock.read_text()) == {
        "version": 1,
        "references": {str(SOURCE): {"digest": DIGEST}, REPO: entry},
    }
    written = lock.read_bytes()
    hub.put(REPO, OTHER)
    hub.requests.clear()
    # The branch has moved, but the locked commit is used, which is in the cache.
    pull(REPO, tmp_path / "second", hub=client, pin=pin)
    assert hub.requests == []
    pull(REPO, tmp_path / "third", hub=Hub(hub.endpoint, cache_dir=tmp_path / "fresh"), pin=pin)
    assert files_of(tmp_path / "second") == files_of(tmp_path / "third") == reference_files()
    assert lock.read_bytes() == written
    # Another name of the same repository gets a separate entry in the lock file.
    pull(f"{REPO}@main", tmp_path / "main", hub=client, pin=pin)
    assert files_of(tmp_path / "main") == OTHER
    assert list(json.loads(lock.read_text())["references"]) == [str(SOURCE), REPO, f"{REPO}@main"]


def test_a_digest_other_than_the_locked_digest_is_refused(hub: LoopbackHub, client: Hub, tmp_path: Path) -> None:
    hub.put(REPO, reference_files())
    lock, pin = tmp_path / "spikgpt.lock", VersionPin(lock=tmp_path / "spikgpt.lock")
    pull(REPO, tmp_path / "first", hub=client, pin=pin)
    lock.write_text(lock.read_text().replace(DIGEST, "0" * 64))
    with pytest.raises(DamagedReference, match=f"has the digest {DIGEST}; .*lock has 0000.*delete '{REPO}' from"):
        pull(REPO, tmp_path / "second", hub=client, pin=pin)
    assert not (tmp_path / "second").exists()
    # Another process has written the entry meanwhile.
    with pytest.raises(DamagedReference, match="lock has 0000"):
        pin.record(REPO, None, None, DIGEST)


def test_entries_of_several_processes_are_all_kept(tmp_path: Path) -> None:
    lock = tmp_path / "locks" / "spikgpt.lock"
    code = (
        "import sys\nfrom pathlib import Path\nimport filelock\nfrom spikgpt.reference.lockfile import VersionPin\n"
        "print('ready', flush=True)\nsys.stdin.readline()\nfor number in range(20):\n"
        "    assert VersionPin(lock=Path(sys.argv[1])).record(f'{sys.argv[2]}-{number}', None, None, sys.argv[3])\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, lock, name, DIGEST], stdin=-1, stdout=-1, text=True)
        for name in ("one", "other")
    ]
    assert [process.stdout and process.stdout.readline() for process in processes] == ["ready\n"] * 2
    for process in processes:
        process.stdin and process.stdin.write("go\n")
        process.stdin and process.stdin.flush()
    assert [process.communicate() and process.returncode for process in processes] == [0, 0]
    names = [f"{name}-{number}" for name in ("one", "other") for number in range(20)]
    assert list(json.loads(lock.read_text())["references"]) == sorted(names)
    assert sorted(path.name for path in lock.parent.iterdir()) == [".spikgpt.lock.held", "spikgpt.lock"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"version": 2, "references": {}}',
        '{"version": 1}',
        '{"version": 1, "references": {"a": {"digest": "0"}}}',
        '{"version": 1, "references": {"a": {}}}',
        '{"version": 1, "references": {}, "references": {}}',
    ],
)
def test_an_invalid_lock_file_is_refused(tmp_path: Path, text: str) -> None:
    lock = tmp_path / "spikgpt.lock"
    lock.write_text(text)
    with pytest.raises(ConfigError, match=r"spikgpt.lock is not .*Correct the lock file, or delete it"):
        open_reference("pancreas", pin=VersionPin(lock=lock))
    assert lock.read_text() == text
    with pytest.raises(ConfigError, match="is no lock file; name another one"):
        open_reference("pancreas", pin=VersionPin(lock=tmp_path))


def test_with_a_lock_a_repository_is_used_instead_of_a_folder_of_its_name(
    hub: LoopbackHub, client: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    commit, pin = hub.put(REPO, reference_files()), VersionPin(lock=tmp_path / "spikgpt.lock")
    pull(REPO, REPO, hub=client, pin=pin)
    assert open_reference(REPO, hub=client, pin=pin).origin == f"{REPO}@{commit}"
