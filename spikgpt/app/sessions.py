"""Sessions of the page: the upload and the results of each open page, in a folder of its own."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from spikgpt.app.folders import safe_name
from spikgpt.errors import with_noun
from spikgpt.service.refusals import Kind, Refusal

# Seconds without an action after which a session ends if its page has no connection. An open page keeps a connection.
IDLE = 120.0
# Largest number of sessions.
MOST = 1000


class PageSession:
    """Session of an open page, with its upload, its run and its results.

    Parameters
    ----------
    parent
        Folder for the folder of the session, which is made for the first upload or result.
    """

    def __init__(self, parent: Path) -> None:
        # Secret name of the session in the address of its upload.
        self.token = secrets.token_urlsafe(24)
        self.folder = parent / secrets.token_hex(16)
        self.upload: Path | None = None
        self.uploads_running = 0
        # Secret address of the results, and the folder of the job that wrote the results; None without results.
        self.results: tuple[str, Path] | None = None
        self.run: asyncio.Task[object] | None = None
        self.used = time.monotonic()
        self.is_closed = False

    def new_folder(self) -> Path:
        """Return a new folder inside the session's folder.

        Raises
        ------
        Refusal
            When the session has ended.
        """
        self.used = time.monotonic()
        if self.is_closed:
            msg = "This page was closed. Load it again."
            raise Refusal(Kind.BAD_REQUEST, msg)
        folder = self.folder / secrets.token_hex(8)
        folder.mkdir(parents=True, mode=0o700)
        return folder

    async def receive(self, name: str, write: Callable[[Path], Awaitable[Path]]) -> None:
        """Replace the upload by a new file; ``write`` writes this file to a new folder, and returns its path."""
        folder = self.new_folder()
        self.uploads_running += 1
        try:
            received = await write(folder)
            # Keep the user's name of the file: messages show the name, and its ending states the format.
            path = received.rename(folder / safe_name(name))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            self.uploads_running -= 1
        self.forget_upload()
        self.upload = path
        if self.is_closed:
            self.remove()

    def forget_upload(self) -> None:
        """Remove the upload."""
        if self.upload is not None:
            shutil.rmtree(self.upload.parent, ignore_errors=True)
            self.upload = None

    def keep_results(self, folder: Path) -> str:
        """Replace the results by the results in a job's folder, and return their secret address."""
        self.forget_results()
        self.results = secrets.token_urlsafe(24), folder
        return self.results[0]

    def forget_results(self) -> None:
        """Remove the results."""
        if self.results is not None:
            shutil.rmtree(self.results[1], ignore_errors=True)
            self.results = None

    async def stop(self) -> bool:
        """Stop the run of this session; return True if a run was going on."""
        run, self.run = self.run, None
        if run is None or run.done():
            return False
        run.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await run
        return True

    def remove(self) -> None:
        """Remove the session's folder."""
        self.upload = self.results = None
        shutil.rmtree(self.folder, ignore_errors=True)


class Sessions:
    """All sessions of a server.

    Parameters
    ----------
    folder
        Folder for the folders of the sessions.
    most_files
        Number of sessions that may hold an upload or results at the same time.
    """

    def __init__(self, folder: Path, most_files: int) -> None:
        self._folder, self._most_files = folder, most_files
        self._sessions: dict[str, PageSession] = {}
        # Number of open connections of each page, by Gradio's key of the page.
        self._connections = Counter[str]()

    def __len__(self) -> int:
        return len(self._sessions)

    async def session_of(self, key: str) -> PageSession:
        """Return the session of a page by Gradio's key of the page; begin a session if the page has none.

        Raises
        ------
        Refusal
            When there are too many sessions.
        """
        if key not in self._sessions:
            await self._close_idle()
            if len(self._sessions) >= MOST:
                msg = f"{MOST} pages are open. Load this page again later."
                raise Refusal(Kind.BUSY, msg)
            self._sessions[key] = PageSession(self._folder)
        session = self._sessions[key]
        session.used = time.monotonic()
        return session

    def by_token(self, token: str) -> PageSession:
        """Return a session by its token, for an upload.

        Raises
        ------
        Refusal
            When no session has this token.
        """
        for session in self._sessions.values():
            if secrets.compare_digest(session.token.encode(), token.encode()):
                return session
        msg = "This page is no longer known to the server. Load it again."
        raise Refusal(Kind.NOT_FOUND, msg)

    async def check_room(self, session: PageSession) -> None:
        """Refuse an upload when too many other uploads are kept or are being received.

        Results count as an upload, because they hold a copy of the cells. Unfinished uploads of all sessions count too,
        so that many uploads at once cannot fill the disk.

        Raises
        ------
        Refusal
            When there are too many uploads.
        """
        await self._close_idle()
        other_sessions = (other for other in self._sessions.values() if other is not session)
        uploads = sum(other.upload is not None or other.results is not None for other in other_sessions)
        uploads += sum(other.uploads_running for other in self._sessions.values())
        if uploads >= self._most_files:
            msg = f"The server holds {with_noun(uploads, 'upload')} already. Upload this file again later."
            raise Refusal(Kind.BUSY, msg)

    def results(self, address: str) -> Path | None:
        """Return the folder of the job whose results have a secret address; None if no results have this address."""
        for session in self._sessions.values():
            if session.results and secrets.compare_digest(session.results[0].encode(), address.encode()):
                session.used = time.monotonic()
                return session.results[1]
        return None

    def connect(self, key: str) -> None:
        """Count a new connection of a page."""
        self._connections[key] += 1

    def disconnect(self, key: str) -> None:
        """Count the end of a connection of a page."""
        self._connections[key] -= 1
        if self._connections[key] <= 0:
            del self._connections[key]
        if key in self._sessions:
            self._sessions[key].used = time.monotonic()

    def is_connected(self, key: str) -> bool:
        """Return True while a page keeps a connection."""
        return key in self._connections

    async def _close_idle(self) -> None:
        """End idle sessions without a connection."""
        now = time.monotonic()
        for key, session in list(self._sessions.items()):
            is_running = session.uploads_running or (session.run is not None and not session.run.done())
            if not self.is_connected(key) and not is_running and now - session.used > IDLE:
                await self.close(key)

    async def close(self, key: str) -> None:
        """End a session: stop its run, and remove its files."""
        session = self._sessions.pop(key, None)
        if session is not None:
            session.is_closed = True
            await session.stop()
            session.remove()

    async def close_all(self) -> None:
        """End all sessions."""
        for key in list(self._sessions):
            await self.close(key)
