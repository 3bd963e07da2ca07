"""Download a study's files from their publisher or a mirror.

A broken download resumes if the server still has the same file. A file gets its final name after its size and hash
match the recipe. The cache names folders by a hash of the address and the sha256. So no recipe gets a file that another
recipe downloaded from another address.
"""

from __future__ import annotations

import errno
import hashlib
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

from spikgpt.errors import DownloadError, HubError, fault, printable
from spikgpt.files import hold_lock, sha256_of
from spikgpt.reference.hub_errors import Unreachable, bad_address, network_error, status_of, wait_of
from spikgpt.reference.hub_requests import ImproperAnswer, Meter, session, with_timeout
from spikgpt_recipes.layouts import StudyFile
from spikgpt_recipes.paths import path_within

# Largest number of tries without progress, and seconds to wait after the first try. The wait doubles each time.
TRIES, WAIT = 5, 1.0
# Seconds without a received byte after which a try ends.
TIMEOUT = 30.0
# Largest size of a file in bytes: if only the server states the size, and if no size is stated.
LARGEST_FILE, LARGEST_UNSTATED = 100 * 1024**3, 8 * 1024**3
# Bytes of the disk that stay free if no size is stated, and received bytes between two checks of the disk.
LEFT_FREE, CHECK_EVERY = 2 * 1024**3, 64 * 1024**2
# Number of first bytes that are checked for a web page. No table or archive begins with "<".
HEAD = 256
# HTTP statuses of temporary errors, HTTP statuses of refused or missing files, and permanent errors by class name.
PASSING, GONE = (408, 416, 425, 429), (401, 403, 404, 410)
LASTING_ERRORS = ("ConnectError", "OfflineModeIsEnabled", "UnsupportedProtocol")

PAGE, POINTER = "a web page", "a Git LFS pointer"
RESUME = "Check the connection and run the same command again: the download resumes. Or name a mirror: --mirror."
MOVED = "It may have moved: check the page of the study, or name a mirror that has the file: --mirror."
BY_HAND = "Some servers refuse programs: download the file in a browser into a folder, and name the folder: --mirror."
REPLACED = "The study may have replaced the file: compare the recipe with its page, or name a mirror: --mirror."
STATE_SIZE = "State the size of the file in the recipe, or name a mirror that has the file: --mirror."


def download(files: Sequence[StudyFile], cache: Path, mirror: str | None, *, accession: str) -> dict[str, Path]:
    """Download the missing files of a study to ``cache/ACCESSION/KEY/NAME``, and return all paths by name.

    ``KEY`` is a hash of the file's address and of the sha256 in the recipe.

    Parameters
    ----------
    mirror
        Folder or address with the files as ``ACCESSION/NAME``, used instead of their own addresses. The files of a
        folder stay there.

    Raises
    ------
    DownloadError
        When a file is not available, or differs from the recipe.
    ConfigError
        When another process is downloading files of the study.
    """
    if mirror and not mirror.startswith(("http://", "https://")):
        return {file.name: _mirrored(file, Path(mirror), accession) for file in files}
    from huggingface_hub import utils
    from tqdm import tqdm

    start = f"{mirror.rstrip('/')}/{quote(accession)}/" if mirror else ""
    urls = {file.name: f"{start}{quote(file.name)}" if mirror else str(file.url) for file in files}
    paths = {file.name: path_within(cache, accession, _key(urls[file.name], file), file.name) for file in files}
    missing = [file for file in files if not paths[file.name].is_file() or _difference(file, paths[file.name])]
    if not missing:
        return paths
    folder = path_within(cache, accession)
    _check_space(missing, folder)
    refusal = f"Another process is downloading to {folder}. Wait until it is done, or name another folder: --cache."
    sizes = [file.size for file in missing if file.size is not None]
    total = sum(sizes) if len(sizes) == len(missing) else None
    hidden = True if utils.are_progress_bars_disabled() else None
    with (
        hold_lock(folder / ".lock", refusal),
        tqdm(desc=accession, total=total, unit="B", unit_scale=True, disable=hidden) as bar,
    ):
        for file in missing:
            paths[file.name].parent.mkdir(exist_ok=True)
            _Download(file, urls[file.name], paths[file.name], bar).run()
    return paths


def _key(url: str, file: StudyFile) -> str:
    """Return the name of the cache folder for an address and a hash."""
    return hashlib.sha256(f"{url}\n{file.sha256 or ''}".encode()).hexdigest()[:16]


class _ChangedError(ConnectionError):
    """The server has another version of a partly downloaded file."""


class _Download:
    """A download of one file, which resumes after a break."""

    def __init__(self, file: StudyFile, url: str, path: Path, bar: Any) -> None:
        self.file, self.url, self.path, self.bar, self.bar_start = file, url, path, bar, bar.n
        self.title = f"{path.parents[1].name}/{file.name} ({url})"
        # File of the received bytes, and file with the server's version and size of the whole file.
        self.part, self.version = (path.with_name(f".{file.name}.{ending}") for ending in ("part", "version"))
        # Largest size of the file, size at which the disk is checked next, and True if the size of the file is known.
        self.limit, self.next_check, self.stated = 0, 0, False

    def run(self) -> None:
        """Download the file; try again after a break, and once more when the file differs from the recipe."""
        tries, repeated = 0, False
        while True:
            before = self._received()
            try:
                self._resume()
            except (network_error(), bad_address(), HubError, OSError, ValueError) as error:
                tries = 1 if self._received() > before else tries + 1
                if not self._is_passing(error) or tries == TRIES:
                    raise self._failure(error) from None
                time.sleep(max(wait_of(error), WAIT * 2 ** (tries - 1)))
                continue
            difference = _difference(self.file, self.part)
            if not difference:
                break
            self.part.unlink()
            if repeated:
                msg = f"{self.title} {difference}, downloaded twice. {REPLACED}"
                raise DownloadError(msg)
            repeated = True
        self.part.replace(self.path)
        self.version.unlink(missing_ok=True)

    def _received(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _resume(self) -> None:
        """Request the missing bytes, and append them to the received bytes."""
        from huggingface_hub import utils

        version, _, total = (self.version.read_text() if self.version.exists() else "").partition("\n")
        with self.part.open("ab") as part:
            # Start anew without a version or hash: the rest could come from another version of the file.
            start = part.tell() if version or self.file.sha256 else 0
            if start and start == self.file.size:
                return
            headers = {"Range": f"bytes={start}-"} if start else {}
            headers |= {"If-Range": version} if start and version else {}

            def check(response: Any) -> None:
                if response.status_code == 206 and start:
                    self._check_rest(response, start, version, total)
                else:
                    self._check_whole(response)
                    part.truncate(0)

            def request() -> None:
                with session().stream("GET", self.url, headers=headers, timeout=TIMEOUT) as response:
                    utils.hf_raise_for_status(response)
                    check(response)
                    for chunk in response.iter_raw():
                        write(chunk)

            def write(chunk: bytes) -> None:
                if not part.tell() and (kind := _wrong_kind(chunk)):
                    raise ImproperAnswer(kind)
                self._check_size(part.tell() + len(chunk))
                part.write(chunk)
                self.bar.update(self.bar_start + part.tell() - self.bar.n)

            # write() applies a lower limit after the server has stated a size.
            with_timeout(self.file.name, request, meter=Meter(max(LARGEST_FILE, self.file.size or 0)))
        if self.file.size is not None and self._received() < self.file.size:
            msg = f"it ended after {self._received()} bytes of {self.file.size}"
            raise ConnectionError(msg)

    def _check_rest(self, response: Any, start: int, version: str, total: str) -> None:
        """Refuse a response that does not continue the received bytes."""
        stated = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if not stated or int(stated[1]) != start:
            msg = f"another part than from byte {start}"
            raise ImproperAnswer(msg)
        # Servers without support for If-Range send the rest of their present version.
        if version not in ("", *_versions(response)) or (total and stated[2] not in (total, "*")):
            msg = "the server has another version of the file now"
            raise _ChangedError(msg)
        self._set_limit(int(stated[2]) if stated[2] != "*" else None)

    def _check_whole(self, response: Any) -> None:
        """Refuse a response that is not a whole file; else store the version of the file."""
        if response.status_code != 200:
            msg = f"status {response.status_code}"
            raise ImproperAnswer(msg)
        if response.headers.get("Content-Type", "").lower().startswith(("text/html", "application/xhtml")):
            raise ImproperAnswer(PAGE)
        if self.url.startswith("https:") and response.request.url.scheme != "https" and not self.file.sha256:
            msg = "a redirect from https to plain http, where anybody on the way can change the file"
            raise ImproperAnswer(msg)
        length = response.headers.get("Content-Length", "")
        self._set_limit(int(length) if length.isdecimal() else None)
        version = next(iter(_versions(response)), "")
        # A weak ETag (W/...) may stand for versions with different bytes.
        self.version.write_text(f"{'' if version.startswith('W/') else version}\n{length}")

    def _set_limit(self, stated: int | None) -> None:
        """Set the largest size of the file, from the recipe or else from the server, and check the disk."""
        self.limit = self.file.size if self.file.size is not None else LARGEST_UNSTATED
        if self.file.size is None and stated is not None:
            self.limit = min(stated, LARGEST_FILE)
        self.next_check, self.stated = 0, stated is not None or self.file.size is not None
        if stated is not None and stated > self.limit:
            self._refuse_size(f"{stated} bytes; expected at most {self.limit}")
        self._check_size(stated or 0)

    def _check_size(self, size: int) -> None:
        """Refuse a file of ``size`` bytes that exceeds its limit or the free disk space."""
        if size > self.limit:
            self._refuse_size(f"more than {self.limit} bytes")
        if size < self.next_check:
            return
        received = self._received()
        self.next_check = received + CHECK_EVERY
        free = shutil.disk_usage(self.part.parent).free
        if size - received > free or (not self.stated and size > CHECK_EVERY and free < LEFT_FREE):
            raise OSError(errno.ENOSPC, f"it has {size} bytes or more, and {free} bytes are free")

    def _refuse_size(self, problem: str) -> NoReturn:
        raise ImproperAnswer(problem)

    def _is_passing(self, error: Exception) -> bool:
        """Return True if another try may succeed; delete received bytes that cannot be completed."""
        status = status_of(error)
        if status == 416 or isinstance(error, ImproperAnswer | _ChangedError):
            self.part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno:
            return False  # an error of the disk: errors of the HTTP client have no number
        if isinstance(error, (ImproperAnswer, bad_address())) or type(error).__name__ in LASTING_ERRORS:
            return False
        return status is None or status >= 500 or status in PASSING

    def _failure(self, error: Exception) -> DownloadError:
        """Return the error for the user."""
        status, name = status_of(error), type(error).__name__
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            remedy = "Free some space, or name a folder on another disk: --cache."
            return DownloadError(f"{self.title} does not fit on the disk: {error.strerror}. {remedy}")
        if isinstance(error, OSError) and error.errno:
            return DownloadError(f"{self.path} cannot be written: {error.strerror}. {fault(error) or ''}".rstrip())
        if name == "OfflineModeIsEnabled":
            reason, remedy = "HF_HUB_OFFLINE is set", "Unset it and connect."
        elif name == "UnsupportedProtocol":
            reason, remedy = "the server redirects to an address that is neither http nor https", MOVED
        elif status:
            reason, remedy = f"the server answered {status}", MOVED if status in GONE else RESUME
        elif isinstance(error, ImproperAnswer):
            reason, remedy = f"the server answered with {error.problem}", BY_HAND if error.problem == PAGE else REPLACED
            if self.file.size is None and error.problem.startswith("more than"):
                remedy = STATE_SIZE
        elif isinstance(error, Unreachable):
            reason, remedy = f"the server is too slow, {self._received()} bytes arrived", RESUME
        else:
            text = printable(str(error).partition("\n")[0])[:200].rstrip(".")
            reason, remedy = f"{name}: {text}", RESUME
        return DownloadError(f"{self.title} was not downloaded: {reason}. {remedy}")


def _versions(response: Any) -> list[str]:
    """Return the server's marks of a file's version: the ETag and the time of change, as far as stated."""
    return [response.headers[name] for name in ("ETag", "Last-Modified") if name in response.headers]


def _wrong_kind(head: bytes) -> str:
    """Return the kind of a file by its first bytes: a web page or a Git LFS pointer; empty for data."""
    start = head[:HEAD].removeprefix(b"\xef\xbb\xbf").lstrip()
    return POINTER if start.startswith(b"version https://git-lfs") else PAGE if start.startswith(b"<") else ""


def _difference(file: StudyFile, path: Path) -> str:
    """Return how a file differs from the recipe; empty if the file is as the recipe states."""
    size = path.stat().st_size
    if file.size not in (None, size):
        return f"has {size} bytes; expected {file.size}"
    if file.sha256 is None:
        with path.open("rb") as content:
            kind = _wrong_kind(content.read(HEAD))
        return f"is {kind}" if kind else ""
    digest = sha256_of(path)
    return "" if digest == file.sha256 else f"has the sha256 {digest}; expected {file.sha256}"


def _mirrored(file: StudyFile, mirror: Path, accession: str) -> Path:
    """Return the path of a file in a mirror folder; refuse a file that is missing or differs from the recipe."""
    path = path_within(mirror, accession, file.name, links=True)
    if not path.is_file():
        msg = f"{path} does not exist. Download it from {file.url}, or leave --mirror out."
        raise DownloadError(msg)
    if difference := _difference(file, path):
        msg = f"{path} {difference}. Copy it again from {file.url}, or leave --mirror out."
        raise DownloadError(msg)
    return path


def _check_space(files: Sequence[StudyFile], folder: Path) -> None:
    """Create a folder, and refuse files that exceed its free disk space."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        msg = f"{folder} cannot be made: {error.strerror}. {fault(error) or 'Name another folder: --cache.'}"
        raise DownloadError(msg) from None
    needed = sum(file.size or 0 for file in files)
    if needed > free:
        msg = f"The files need {needed / 1e9:.1f} GB; {folder} has {free / 1e9:.1f}. Name another folder: --cache."
        raise DownloadError(msg)
