"""Files of a study from where it published them, or from a mirror.

A download that broke off goes on where it stopped, if the server's file is still the same, and a file takes its name
once it has the size and the hash that the recipe lists.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO
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
# Bytes of a file whose size is not known, at most.
LARGEST_FILE = 100 * 1024**3
# Refusals that may pass, those that stay, and failures that do.
PASSING, GONE = (408, 416, 425, 429), (401, 403, 404, 410)
HOPELESS = ("ConnectError", "OfflineModeIsEnabled", "UnsupportedProtocol")

GO_ON = "Check the connection and run the same command again: it goes on where it stopped. Or name a mirror: --mirror."
MOVED = "It may have moved: look at the page of the study, or name a mirror that has the file: --mirror."
PAGE = "a web page"
BY_HAND = "Some files are given to people alone: get it there by hand and put it into a folder to name with --mirror."
REPLACED = (
    "The study may have replaced it: compare the recipe with its page, or name a mirror that has the file: --mirror."
)


def download(files: Sequence[SourceFile], cache: Path, mirror: str | None, *, accession: str) -> dict[str, Path]:
    """Get files of a study into ``cache/ACCESSION/NAME``, or find them there, and return their paths by name.

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

    paths = {file.name: path_within(cache, accession, file.name) for file in files}
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
            url = f"{mirror.rstrip('/')}/{quote(accession)}/{quote(file.name)}" if mirror else file.url
            _Download(file, url, paths[file.name], bar).run()
    return paths


class _Download:
    """A file on its way."""

    def __init__(self, file: SourceFile, url: str, path: Path, bar: Any) -> None:
        self.file, self.url, self.path, self.bar, self.before = file, url, path, bar, bar.n
        # What has arrived of it, and what the server calls the version of that.
        self.part, self.mark = (path.with_name(f".{file.name}.{ending}") for ending in ("part", "version"))

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
                    raise self._failure(error) from error
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
        version = self.mark.read_text() if self.mark.exists() else ""
        with self.part.open("ab") as into:
            # Without a hash, two versions of a file could become one.
            start = into.tell() if version or self.file.sha256 else 0
            if start and start == self.file.size:
                return
            headers = {"Range": f"bytes={start}-"} if start else {}
            headers |= {"If-Range": version} if start and version else {}

            def begin(response: Any) -> None:
                self._begin(response, start, into)

            def ask(meter: Meter) -> None:
                limit = LARGEST_FILE if self.file.size is None else self.file.size
                stream(self.url, headers, meter, write, TIMEOUT, {}, limit=limit, check=begin)

            def write(chunk: bytes) -> None:
                into.write(chunk)
                self.bar.update(self.before + into.tell() - self.bar.n)

            in_time(self.file.name, ask)
        if self.file.size is not None and self._received() < self.file.size:
            msg = f"it ended after {self._received()} bytes of {self.file.size}"
            raise ConnectionError(msg)

    def _begin(self, response: Any, start: int, into: BinaryIO) -> None:
        """Take an answer as the rest of the file, or as the whole of it."""
        if response.status_code == 206 and start:
            if response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                return
            msg = f"another part than from byte {start}"
            raise Improper(msg)
        whole(response)
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise Improper(PAGE)
        into.truncate(0)
        version = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        # Weak names are shared by versions that differ in bytes.
        self.mark.write_text("" if version.startswith("W/") else version)

    def _may_pass(self, error: Exception) -> bool:
        """Tell whether another try may go better, and let go of a part that the server has no rest for."""
        status = status_of(error)
        if status == 416 or isinstance(error, Improper):
            self.part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno:
            return False  # of the disk; the client's errors have none
        if isinstance(error, (Improper, bad_address())) or type(error).__name__ in HOPELESS:
            return False
        return status is None or status >= 500 or status in PASSING

    def _failure(self, error: Exception) -> DownloadError:
        status, text = status_of(error), printable(str(error).partition("\n")[0])[:200].rstrip(".")
        if isinstance(error, OSError) and error.errno:
            return DownloadError(f"{self.path} cannot be written: {error.strerror}. {fault(error) or ''}".rstrip())
        if type(error).__name__ == "OfflineModeIsEnabled":
            return DownloadError(f"{self._named()} was not downloaded: HF_HUB_OFFLINE is set. Unset it and connect.")
        if status:
            reason, remedy = f"the server answered {status}", MOVED if status in GONE else GO_ON
        elif isinstance(error, Improper):
            reason, remedy = f"the server answered with {error.what}", BY_HAND if error.what == PAGE else REPLACED
        elif isinstance(error, Unreachable):
            reason, remedy = f"the server is too slow, {self._received()} bytes arrived", GO_ON
        else:
            reason, remedy = f"{type(error).__name__}: {text}", GO_ON
        return DownloadError(f"{self._named()} was not downloaded: {reason}. {remedy}")

    def _named(self) -> str:
        return f"{self.path.parent.name}/{self.file.name} ({self.url})"


def _wrong(file: SourceFile, path: Path) -> str:
    """Say in what a file differs from what is expected; empty when in nothing."""
    size = path.stat().st_size
    if file.size not in (None, size):
        return f"has {size} bytes; expected {file.size}"
    if file.sha256 is None:
        return ""
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
        raise DownloadError(msg) from error
    needed = sum(file.size or 0 for file in files)
    if needed > free:
        msg = f"The files need {needed / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f}. Name another one: --cache."
        raise DownloadError(msg)
