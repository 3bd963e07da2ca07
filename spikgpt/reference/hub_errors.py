"""Errors of the Hub: the errors after which a request is repeated, and the message for each error.

The client's errors are imported inside functions, as that takes a tenth of a second.
"""

from __future__ import annotations

import errno
import os
import re
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar, cast
from urllib.parse import urlsplit

from spikgpt.errors import ConfigError, HubError, ReferenceNotFound, SpikGPTError, install_command, printable

# Tries of a read that may succeed the next time.
TRIES = 3
# Seconds to wait for the next try at most. A Hub that asks for more than the tries left can wait is not asked again.
LONGEST_WAIT = 60.0
# Statuses and failures that stay the same in the next try.
REFUSALS = (400, 401, 403, 404, 409, 412, 413, 416, 422)
HOPELESS = ("ConnectError", "OfflineModeIsEnabled", "ProxyError", "TooManyRedirects", "UnsupportedProtocol")
# Variables that the client reads. Other programs read REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE.
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
SCHEMES = ("http", "https", "socks5", "socks5h")
OTHER_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
ADDRESS = re.compile(r"https?://[^/\s'\"]+(/[^\s'\"]*)?")
BEARER = re.compile(r"(Bearer [!-~]+)?")
# Errors of a disk; errors during writing name no file.
DISK_ERRORS = (errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC, errno.EROFS, errno.ESTALE)
LOG_IN = "log in with hf auth login, set HF_TOKEN or give a token"

T = TypeVar("T")


class Unreachable(HubError):
    """The Hub cannot be reached now; cached files are used instead."""


class Offline(Unreachable):
    """The user has turned requests to the Hub off."""


def named(repo: str, revision: str | None) -> str:
    """Return ``org/name@revision``, or ``org/name`` for the main branch."""
    return f"{repo}@{revision}" if revision else repo


@contextmanager
def translated_errors(repo: str, revision: str | None = None, *, writing: bool = False) -> Iterator[None]:
    """Turn the client's errors into errors of this library."""
    try:
        yield
    except SpikGPTError:
        raise
    except Exception as error:
        ours = _our_error(cause_of(error), named(repo, revision), repo, "written" if writing else "read")
        if ours is None:
            raise
        raise ours from None


def cause_of(error: Exception) -> Exception:
    """Return the error behind one that the client raises around another, or the error itself."""
    cause = error.__cause__
    wrapped = type(error).__name__ in ("RuntimeError", "ValueError", "LocalEntryNotFoundError")
    return cause if wrapped and isinstance(cause, Exception) else error


def _our_error(error: Exception, name: str, repo: str, done: str) -> SpikGPTError | None:
    """Return the error that a user sees for one of the client; None for a mistake in this library."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return HubError(f"{repo} is open to those who accept its terms: do so on its page, then {LOG_IN}.")
    if isinstance(error, errors.RepositoryNotFoundError) and "Invalid credentials" not in str(error):
        return ReferenceNotFound(f"There is no repository {repo} on the Hub, or it is private: {LOG_IN}.")
    if isinstance(error, errors.RevisionNotFoundError):
        return ReferenceNotFound(f"{name} is no revision of {repo}; name a branch, a tag or a commit of its page.")
    if isinstance(error, errors.HFValidationError):
        return ReferenceNotFound(f"{name!r} is no name of a repository: {first_line(error)}")
    if isinstance(error, OSError) and (error.filename or error.errno in DISK_ERRORS):
        return ConfigError(
            f"The cache cannot be written ({error.strerror}: {error.filename or 'a file'}). Free some space, or name a "
            "folder of yours: cache_dir=, --cache-dir or HF_HOME."
        )
    if isinstance(error, (network_error(), OSError, RuntimeError, ValueError)):
        if type(error).__name__ == "OfflineModeIsEnabled":
            return Offline(f"HF_HUB_OFFLINE is set, so {name} was not {done}. Unset it and connect.")
        kind = HubError if status_of(error) in REFUSALS else Unreachable
        return kind(_refusal(name, error, done))
    if isinstance(error, (bad_address(), TypeError, LookupError, AttributeError, AssertionError)):
        problem = f"{type(error).__name__}: {first_line(error)}"
        return HubError(f"The Hub's answer about {name} cannot be understood ({problem}). Check HF_ENDPOINT.")
    return None


def _refusal(name: str, error: Exception, done: str) -> str:
    """Return why the Hub refused a request or did not answer, and what to do."""
    status = status_of(error)
    if status == 401:
        return f"The Hub does not know this token, or requires one, so {name} was not {done}: {LOG_IN}."
    if status == 403:
        return f"This token gives no access to {name}, which was not {done}; use another token."
    if status in (409, 412):
        return f"Somebody else has committed to {name} meanwhile, so nothing was pushed. Look at it, then push again."
    if status == 429:
        seconds = requested_wait(error)
        wait = "some minutes" if seconds is None else f"{seconds:.0f} s"
        return f"The Hub asks for fewer requests, so {name} was not {done}. Try again in {wait}."
    if status in REFUSALS:
        return f"The Hub answered {status}, so {name} was not {done}. Check the name, and HF_ENDPOINT if it is set."
    if type(error).__name__ == "LocalTokenNotFoundError":
        return f"There is no token on this machine, so {name} was not {done}: {LOG_IN}."
    reason = f"it answered {status}" if status else f"{type(error).__name__}: {first_line(error)}"
    remedy = "Try again later." if status and status >= 500 else connection_remedy(error)
    return f"The Hub cannot be reached ({reason}), so {name} was not {done}. {remedy}"


def retried(call: Callable[[], T]) -> T:
    """Return the result of a read; repeat it when the Hub is busy, fails or breaks off.

    The wait is as long as the Hub asks for, or a second.
    """
    for tries_left in reversed(range(TRIES)):
        try:
            return call()
        except network_error() as error:
            hopeless = type(error).__name__ in HOPELESS or status_of(error) in REFUSALS
            if hopeless or not tries_left or (requested_wait(error) or 0) > tries_left * LONGEST_WAIT:
                raise
            time.sleep(wait_of(error))
    raise AssertionError  # the last try returns or raises


def network_error() -> type[Exception]:
    """Return the client's class of network errors, which is that of httpx or of httpx2."""
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError.__bases__[0]


def bad_address() -> type[Exception]:
    """Return the client's class of errors about malformed addresses."""
    package = import_module(network_error().__module__.partition(".")[0])
    return cast(type[Exception], package.InvalidURL)


def status_of(error: BaseException | None) -> int | None:
    """Return the HTTP status of an error; None without a status."""
    return getattr(getattr(error, "response", None), "status_code", None)


def wait_of(error: BaseException | None) -> float:
    """Return the seconds to wait before the next try: as many as the Hub asks for, up to a minute, or one second."""
    seconds = requested_wait(error)
    return 1.0 if seconds is None else min(seconds, LONGEST_WAIT)


def requested_wait(error: BaseException | None) -> float | None:
    """Return the seconds that an answer asks to wait: as a number, as a date, or as the end of a window of requests."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    after = headers.get("Retry-After", "").strip()
    window = re.search(r";\s*t\s*=\s*(\d{1,9})", headers.get("RateLimit", ""))
    for seconds in (after, window and window[1], headers.get("RateLimit-Reset", "").strip()):
        if seconds and re.fullmatch(r"[0-9]{1,9}", seconds):
            return float(seconds)
    try:
        until = parsedate_to_datetime(after)
        # By the clock of the server, where the answer has its time.
        now = parsedate_to_datetime(headers["Date"]) if headers.get("Date") else datetime.now(UTC)
        return max((until - now).total_seconds(), 0.0)
    except (TypeError, ValueError):
        return None


def connection_remedy(error: BaseException) -> str:
    """Return what to do when no connection to the Hub can be made."""
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        if "expired" in text or "not yet valid" in text:
            return f"Check the clock of this machine, which says {time.strftime('%Y-%m-%d %H:%M')}."
        if bundle := os.environ.get("SSL_CERT_FILE"):
            return f"SSL_CERT_FILE names {bundle}, which does not hold the server's certificate; add it to that file."
        other = next((name for name in OTHER_BUNDLES if os.environ.get(name)), None)
        file = f"{os.environ[other]}; {other} is not read here" if other else "the certificates of your network (PEM)"
        return f"The server's certificate is not trusted; set SSL_CERT_FILE to {file}."
    if re.search(r"WRONG_VERSION_NUMBER|record layer failure|UNKNOWN_PROTOCOL", text, re.IGNORECASE):
        return "The server does not speak https; check whether HF_ENDPOINT is to begin with http://."
    proxies = _set_variables(*PROXIES)
    return f"Check the connection and HF_ENDPOINT{f', and the proxy: {proxies}' if proxies else ''}."


def setting_error(error: Exception) -> str:
    """Return an error that names the network setting because of which no client of the Hub can be made."""
    fault = _certificate_fault() or _proxy_fault()
    settings = "Check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY and SSL_CERT_FILE."
    return fault or f"The network settings cannot be used ({first_line(error)}). {settings}"


def _certificate_fault() -> str | None:
    if not (path := os.environ.get("SSL_CERT_FILE")):
        return None
    try:
        fault = None if Path(path).is_file() else "is no file" if Path(path).exists() else "does not exist"
        if fault is None:
            ssl.create_default_context(cafile=path)
    except OSError as error:  # ssl.SSLError is a subclass
        fault = "cannot be read" if isinstance(error, PermissionError) else "holds no certificates (PEM)"
    return fault and f"SSL_CERT_FILE names {path}, which {fault}. Name another file, or unset SSL_CERT_FILE."


def _proxy_fault() -> str | None:
    """Describe the fault of a proxy, if there is one; its address is not repeated, as it may hold a password."""
    # Annotation without the Hub does not need this import.
    from urllib.request import getproxies

    for kind, address in getproxies().items():
        if kind not in ("http", "https", "all") or not address:
            continue
        name = _set_variables(f"{kind}_PROXY".upper()) or f"the system's {kind} proxy"
        try:
            parts = urlsplit(address if "://" in address else f"http://{address}")
            valid = parts.scheme in SCHEMES and parts.hostname and parts.port != 0
        except ValueError:
            valid = False
        if not valid:
            return f"{name} is no proxy address; expected {', '.join(SCHEMES)}, then ://HOST:PORT. Or unset {name}."
        if parts.scheme.startswith("socks") and find_spec("socksio") is None:
            return f"{name} names a SOCKS proxy. Run: {install_command('socksio')}, or unset {name}."
    return None


def check_endpoint(address: str, name: str) -> None:
    """Refuse a malformed address of a Hub; ``name`` is the setting."""
    try:
        parts = urlsplit(address)
        valid = ADDRESS.fullmatch(address) and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        msg = f"{name} is {address!r}; expected an address such as https://HOST:PORT."
        raise Unreachable(msg)


def check_token(authorization: str, name: str) -> None:
    """Refuse a token that no header can hold; ``name`` is the setting."""
    if not BEARER.fullmatch(authorization):
        problem = "it holds a blank, a line break or a character beyond ASCII"
        msg = f"{name} is no token: {problem}. Copy the token again."
        raise Unreachable(msg)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, at most 200 characters."""
    return printable((str(error).splitlines() or [""])[0])[:200]


def _set_variables(*names: str) -> str:
    """Return the names of the environment variables that are set, in either case, as text."""
    cases = (case for name in names for case in (name.lower(), name))
    return ", ".join(case for case in cases if os.environ.get(case))
