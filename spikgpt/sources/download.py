"""Files of a study from where it published them, or from a mirror.

A download that broke off goes on where it stopped, if the server's file is still the same, and a file takes its name
once it has the size and the hash that the recipe lists. The cache keeps files by their address and hash, so that no
recipe gets what another one downloaded from elsewhere.
"""

from __future__ import annotations

import errno
import hashlib
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn
from urllib.parse import quote

from spikgpt.errors import DownloadError, HubError, fault, printable
from spikgpt.files import alone, sha256_of
from spikgpt.reference.hub_errors import Unreachable, bad_address, network_error, status_of, wait_of
from spikgpt.reference.transfer.requests import Improper, Meter, in_time, stream, whole
from spikgpt.sources.paths import path_within
from spikgpt.sources.spec import SourceFile

# How often a file is asked for that no more of arrives, and the seconds to wait after the first try; they double.
TRIES, WAIT = 5, 1.0
# Seconds without a byte after which a try is given up.
TIMEOUT = 30.0
# Bytes at most of a file whose size only the server states, and of one whose size nobody states.
LARGEST_FILE, LARGEST_UNSTATED = 100 * 1024**3, 8 * 1024**3
# Bytes of the disk that a file of unknown size leaves free, and bytes between two looks at the disk.
LEFT_FREE, LOOK = 2 * 1024**3, 64 * 1024**2
# First bytes of a file that tell a web page; no table or archive begins with "<".
HEAD = 256
# Refusals that may pass, those that stay, and failures that do.
PASSING, GONE = (408, 416, 425, 429), (401, 403, 404, 410)
HOPELESS = ("ConnectError", "OfflineModeIsEnabled", "UnsupportedProtocol")

GO_ON = "Check the connection and run the same command again: it goes on where it stopped. Or name a mirror: --mirror."
MOVED = "It may have moved: look at the page of the study, or name a mirror that has the file: --mirror."
PAGE, POINTER = "a web page", "a Git LFS pointer"
ROOM = "Make room, or name a folder on another disk: --cache."
BY_HAND = "Some files are given to people alone: get it there by hand and put it into a folder to name with --mirror."
REPLACED = (
    "The study may have replaced it: compare the recipe with its page, or name a mirror that has the file: --mirror."
)


def download(files: Sequence[SourceFile], cache: Path, mirror: str | None, *, accession: str) -> dict[str, Path]:
    """Get files of a study into ``cache/ACCESSION/KEY/NAME``, or find them there, and return their paths by name.

    ``KEY`` is made of the file's address and the sha256 that the recipe states.

    Parameters
    ----------
    mirror
        A folder or an address that has the files as ``ACCESSION/NAME``; it is asked instead of their own addresses. The
        files of a folder stay there.

    Raises
    ------
    DownloadError
        When a file cannot be had, or is another than expected.
    ConfigError
        When another process is downloading files of the study.
    """
    if mirror and not mirror.startswith(("http://", "https://")):
        return {file.name: _mirrored(file, Path(mirror), accession) for file in files}
    from huggingface_hub import utils
    from tqdm import tqdm

    urls = {file.name: _address(file, mirror, accession) for file in files}
    paths = {file.name: path_within(cache, accession, _key(urls[file.name], file), file.name) for file in files}
    missing = [file for file in files if not paths[file.name].is_file() or _wrong(file, paths[file.name])]
    if not missing:
        return paths
    folder = path_within(cache, accession)
    _make_room(missing, folder)
    refusal = f"Another process is downloading to {folder}. Wait until it is done, or name another folder: --cache."
    sizes = [file.size for file in missing if file.size is not None]
    total = sum(sizes) if len(sizes) == len(missing) else None
    hidden = True if utils.are_progress_bars_disabled() else None
    with (
        alone(folder / ".lock", refusal),
        tqdm(desc=accession, total=total, unit="B", unit_scale=True, disable=hidden) as bar,
    ):
        for file in missing:
            paths[file.name].parent.mkdir(exist_ok=True)
            _Download(file, urls[file.name], paths[file.name], bar).run()
    return paths


def _address(file: SourceFile, mirror: str | None, accession: str) -> str:
    """Return the address to get a file from."""
    return f"{mirror.rstrip('/')}/{quote(accession)}/{quote(file.name)}" if mirror else file.url


def _key(url: str, file: SourceFile) -> str:
    """Return the name of the folder in the cache for what an address and a hash name."""
    return hashlib.sha256(f"{url}\n{file.sha256 or ''}".encode()).hexdigest()[:16]


class _Changed(ConnectionError):
    """The server's file is another than the one of which a part is here."""


class _Download:
    """A file on its way."""

    def __init__(self, file: SourceFile, url: str, path: Path, bar: Any) -> None:
        self.file, self.url, self.path, self.bar, self.before = file, url, path, bar, bar.n
        # What has arrived of it, and what the server calls the version of that, with the size of the whole.
        self.part, self.mark = (path.with_name(f".{file.name}.{ending}") for ending in ("part", "version"))
        # Bytes that may come, bytes after which the disk is looked at again, and whether the size is known.
        self.limit, self.look, self.stated = 0, 0, False

    def run(self) -> None:
        """Get the file, however often it breaks off as long as more of it arrives, and once more if it is wrong."""
        tries, wrong = 0, ""
        while True:
            before = self._received()
            try:
                self._go_on()
            except (network_error(), bad_address(), HubError, OSError, ValueError) as error:
                tries = 1 if self._received() > before else tries + 1
                if tries == TRIES or not self._may_pass(error):
                    raise self._failure(error) from None
                time.sleep(max(wait_of(error), WAIT * 2 ** (tries - 1)))
                continue
            again, wrong = bool(wrong), _wrong(self.file, self.part)
            if not wrong:
                break
            self.part.unlink()
            if again:
                msg = f"{self._named()} {wrong}, downloaded twice. {REPLACED}"
                raise DownloadError(msg)
        self.part.replace(self.path)
        self.mark.unlink(missing_ok=True)

    def _received(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _go_on(self) -> None:
        """Ask for what is missing, and write it."""
        version, _, total = (self.mark.read_text() if self.mark.exists() else "").partition("\n")
        with self.part.open("ab") as into:
            # Without a hash, two versions of a file could become one.
            start = into.tell() if version or self.file.sha256 else 0
            if start and start == self.file.size:
                return
            headers = {"Range": f"bytes={start}-"} if start else {}
            headers |= {"If-Range": version} if start and version else {}

            def begin(response: Any) -> None:
                if response.status_code == 206 and start:
                    self._check_rest(response, start, version, total)
                else:
                    self._begin(response, into)

            def ask(meter: Meter) -> None:
                # write() knows a lower limit, once the server has stated a size.
                limit = max(LARGEST_FILE, self.file.size or 0)
                stream(self.url, headers, meter, write, TIMEOUT, {}, limit=limit, check=begin)

            def write(chunk: bytes) -> None:
                if not into.tell() and (what := _no_data(chunk)):
                    raise Improper(what)
                self._check_room(into.tell() + len(chunk))
                into.write(chunk)
                self.bar.update(self.before + into.tell() - self.bar.n)

            in_time(self.file.name, ask)
        if self.file.size is not None and self._received() < self.file.size:
            msg = f"it ended after {self._received()} bytes of {self.file.size}"
            raise ConnectionError(msg)

    def _check_rest(self, response: Any, start: int, version: str, total: str) -> None:
        """Take an answer as the rest of the file whose begin is here, or refuse it."""
        stated = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if not stated or int(stated[1]) != start:
            msg = f"another part than from byte {start}"
            raise Improper(msg)
        # Servers that do not know If-Range send the rest of whatever they have now.
        if version not in ("", *_versions(response)) or (total and stated[2] not in (total, "*")):
            msg = "the server has another version of the file now"
            raise _Changed(msg)
        self._bound(int(stated[2]) if stated[2] != "*" else None)

    def _begin(self, response: Any, into: BinaryIO) -> None:
        """Take an answer as the whole of the file, or refuse it."""
        whole(response)
        if response.headers.get("Content-Type", "").lower().startswith(("text/html", "application/xhtml")):
            raise Improper(PAGE)
        if self.url.startswith("https:") and response.request.url.scheme != "https" and not self.file.sha256:
            msg = "a redirect from https to plain http, where anybody on the way can change the file"
            raise Improper(msg)
        length = response.headers.get("Content-Length", "")
        self._bound(int(length) if length.isdecimal() else None)
        into.truncate(0)
        version = next(iter(_versions(response)), "")
        # Weak names are shared by versions that differ in bytes.
        self.mark.write_text(f"{'' if version.startswith('W/') else version}\n{length}")

    def _bound(self, stated: int | None) -> None:
        """Set how many bytes the file may have, by the recipe or else the server, and see that the disk has room."""
        self.limit = self.file.size if self.file.size is not None else LARGEST_UNSTATED
        if self.file.size is None and stated is not None:
            self.limit = min(stated, LARGEST_FILE)
        self.look, self.stated = 0, stated is not None or self.file.size is not None
        if stated is not None and stated > self.limit:
            self._refuse_size(stated)
        self._check_room(stated or 0)

    def _check_room(self, size: int) -> None:
        """Refuse a file of so many bytes where it is too large for the recipe, the server's word, or the disk."""
        if size > self.limit:
            self._refuse_size(None)
        if size < self.look:
            return
        received = self._received()
        self.look = received + LOOK
        free = shutil.disk_usage(self.part.parent).free
        if size - received > free or (not self.stated and size > LOOK and free < LEFT_FREE):
            raise OSError(errno.ENOSPC, f"it has {size} bytes or more, and {free} bytes are free")

    def _refuse_size(self, stated: int | None) -> NoReturn:
        msg = f"{stated} bytes; expected at most {self.limit}" if stated else f"more than {self.limit} bytes"
        raise Improper(msg)

    def _may_pass(self, error: Exception) -> bool:
        """Tell whether another try may go better, and let go of a part that the server has no rest for."""
        status = status_of(error)
        if status == 416 or isinstance(error, Improper | _Changed):
            self.part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno:
            return False  # of the disk; the client's errors have none
        if isinstance(error, (Improper, bad_address())) or type(error).__name__ in HOPELESS:
            return False
        return status is None or status >= 500 or status in PASSING

    def _failure(self, error: Exception) -> DownloadError:
        status, text = status_of(error), printable(str(error).partition("\n")[0])[:200].rstrip(".")
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            return DownloadError(f"{self._named()} does not fit on the disk: {error.strerror}. {ROOM}")
        if isinstance(error, OSError) and error.errno:
            return DownloadError(f"{self.path} cannot be written: {error.strerror}. {fault(error) or ''}".rstrip())
        if type(error).__name__ == "OfflineModeIsEnabled":
            return DownloadError(f"{self._named()} was not downloaded: HF_HUB_OFFLINE is set. Unset it and connect.")
        if type(error).__name__ == "UnsupportedProtocol":
            reason, remedy = "the server leads to an address that is neither http nor https", MOVED
        elif status:
            reason, remedy = f"the server answered {status}", MOVED if status in GONE else GO_ON
        elif isinstance(error, Improper):
            reason, remedy = f"the server answered with {error.what}", BY_HAND if error.what == PAGE else REPLACED
            if self.file.size is None and error.what.startswith("more than"):
                remedy = "State the size of the file in the recipe, or name a mirror that has the file: --mirror."
        elif isinstance(error, Unreachable):
            reason, remedy = f"the server is too slow, {self._received()} bytes arrived", GO_ON
        else:
            reason, remedy = f"{type(error).__name__}: {text}", GO_ON
        return DownloadError(f"{self._named()} was not downloaded: {reason}. {remedy}")

    def _named(self) -> str:
        return f"{self.path.parents[1].name}/{self.file.name} ({self.url})"


def _versions(response: Any) -> list[str]:
    """Return what a server calls the version of a file: its ETag, its time, or nothing."""
    return [response.headers[name] for name in ("ETag", "Last-Modified") if name in response.headers]


def _no_data(head: bytes) -> str:
    """Say what stands where a file was expected, by its first bytes; empty when it may be that file."""
    start = head[:HEAD].removeprefix(b"\xef\xbb\xbf").lstrip()
    return POINTER if start.startswith(b"version https://git-lfs") else PAGE if start.startswith(b"<") else ""


def _wrong(file: SourceFile, path: Path) -> str:
    """Say in what a file differs from what is expected; empty when in nothing."""
    size = path.stat().st_size
    if file.size not in (None, size):
        return f"has {size} bytes; expected {file.size}"
    if file.sha256 is None:
        with path.open("rb") as content:
            what = _no_data(content.read(HEAD))
        return f"is {what}" if what else ""
    found = sha256_of(path)
    return "" if found == file.sha256 else f"has the sha256 {found}; expected {file.sha256}"


def _mirrored(file: SourceFile, mirror: Path, accession: str) -> Path:
    """Return a file of a mirror's folder, or refuse it."""
    path = path_within(mirror, accession, file.name, links=True)
    if not path.is_file():
        msg = f"{path} is not there. Get it from {file.url} and put it there, or leave --mirror out."
        raise DownloadError(msg)
    if wrong := _wrong(file, path):
        msg = f"{path} {wrong}. Copy it again from {file.url}, or leave --mirror out."
        raise DownloadError(msg)
    return path


def _make_room(files: Sequence[SourceFile], folder: Path) -> None:
    """Make a folder for files, and refuse a disk that has no room for them."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        msg = f"{folder} cannot be made: {error.strerror}. {fault(error) or 'Name another folder: --cache.'}"
        raise DownloadError(msg) from None
    needed = sum(file.size or 0 for file in files)
    if needed > free:
        msg = f"The files need {needed / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f}. Name another one: --cache."
        raise DownloadError(msg)
