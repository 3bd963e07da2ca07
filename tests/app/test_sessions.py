"""Each session has its own files, which are deleted with the session."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from spikgpt.app import sessions as module
from spikgpt.app.sessions import PageSession, Sessions
from spikgpt.service.refusals import Kind, Refusal


def upload_writer(content: bytes) -> Callable[[Path], Awaitable[Path]]:
    """Return a function that writes ``content`` as an upload into a folder, and returns the path."""

    async def write(folder: Path) -> Path:
        (folder / "upload").write_bytes(content)
        return folder / "upload"

    return write


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_an_upload_replaces_the_one_before(tmp_path: Path) -> None:
    session = PageSession(tmp_path)
    asyncio.run(session.receive("one.h5ad", upload_writer(b"1")))
    asyncio.run(session.receive("../two.h5ad", upload_writer(b"2")))
    assert files(tmp_path) == ["two.h5ad"]
    assert session.upload is not None
    assert session.upload.read_bytes() == b"2"
    session.forget_upload()
    assert files(tmp_path) == []
    assert session.upload is None


def test_an_upload_that_fails_leaves_the_one_before(tmp_path: Path) -> None:
    session = PageSession(tmp_path)
    asyncio.run(session.receive("one.h5ad", upload_writer(b"1")))

    async def fail(folder: Path) -> Path:
        (folder / "upload").write_bytes(b"half")
        raise Refusal(Kind.TOO_MANY_BYTES, "too many")

    with pytest.raises(Refusal, match="too many"):
        asyncio.run(session.receive("two.h5ad", fail))
    assert files(tmp_path) == ["one.h5ad"]
    assert session.uploads_running == 0


def test_results_have_an_address_that_nobody_can_guess(tmp_path: Path) -> None:
    async def check() -> None:
        sessions = Sessions(tmp_path, 2)
        first, second = await sessions.session_of("one"), await sessions.session_of("other")
        assert first is await sessions.session_of("one")
        assert first is not second
        folder = first.new_folder()
        (folder / "labels.csv").write_text("labels")
        address = first.keep_results(folder)
        assert len(address) > 30
        assert sessions.results(address) == folder
        assert sessions.results("") is None
        assert sessions.results(second.token) is None
        # New results replace the earlier results.
        newer = first.keep_results(first.new_folder())
        assert sessions.results(address) is None
        assert sessions.results(newer) is not None
        assert files(tmp_path) == []

    asyncio.run(check())


def test_a_session_ends_with_its_run_and_its_files(tmp_path: Path) -> None:
    async def check() -> None:
        sessions = Sessions(tmp_path, 2)
        session = await sessions.session_of("one")
        await session.receive("one.h5ad", upload_writer(b"1"))
        session.run = run = asyncio.create_task(asyncio.sleep(100))
        await asyncio.sleep(0)
        await sessions.close("one")
        await sessions.close("one")
        assert run.cancelled()
        assert (len(sessions), files(tmp_path)) == (0, [])
        with pytest.raises(Refusal, match=r"This page was closed\. Load it again\."):
            session.new_folder()
        with pytest.raises(Refusal, match="no longer known"):
            sessions.by_token(session.token)

    asyncio.run(check())


def test_an_upload_that_ends_after_its_session_is_removed(tmp_path: Path) -> None:
    async def check() -> None:
        sessions = Sessions(tmp_path, 2)
        session = await sessions.session_of("one")

        async def write(folder: Path) -> Path:
            await sessions.close("one")
            return await upload_writer(b"late")(folder)

        with pytest.raises(FileNotFoundError):
            await session.receive("one.h5ad", write)
        assert files(tmp_path) == []

    asyncio.run(check())


def test_running_uploads_and_results_count_towards_the_limit(tmp_path: Path) -> None:
    async def check() -> None:
        sessions = Sessions(tmp_path, 1)
        first, second = await sessions.session_of("one"), await sessions.session_of("other")

        async def write(folder: Path) -> Path:
            for session in (first, second):
                with pytest.raises(Refusal, match="holds 1 upload already"):
                    await sessions.check_room(session)
            return await upload_writer(b"1")(folder)

        await first.receive("one.h5ad", write)
        first.keep_results(first.new_folder())
        first.forget_upload()
        await sessions.check_room(first)
        with pytest.raises(Refusal, match="holds 1 upload already"):
            await sessions.check_room(second)

    asyncio.run(check())


def test_uploads_and_sessions_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> None:
        sessions = Sessions(tmp_path, 1)
        first, second = await sessions.session_of("one"), await sessions.session_of("other")
        await first.receive("one.h5ad", upload_writer(b"1"))
        await sessions.check_room(first)
        with pytest.raises(Refusal, match="holds 1 upload already"):
            await sessions.check_room(second)
        monkeypatch.setattr(module, "MOST", 2)
        with pytest.raises(Refusal, match="2 pages are open"):
            await sessions.session_of("third")
        # A session with an open page is kept. An idle session without a page ends if a new client needs its place.
        first.used -= 2 * module.IDLE
        sessions.connect("one")
        with pytest.raises(Refusal, match="2 pages are open"):
            await sessions.session_of("third")
        assert files(tmp_path) == ["one.h5ad"]
        sessions.disconnect("one")
        first.used -= 2 * module.IDLE
        await sessions.check_room(second)
        await sessions.session_of("third")
        assert files(tmp_path) == []
        await sessions.close_all()
        assert len(sessions) == 0

    asyncio.run(check())
