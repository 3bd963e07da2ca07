"""Errors of the Hub: repeat requests after some errors, and turn each error into a message for the user.

The client's error classes are imported inside functions, because the import takes a tenth of a second.
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

# Largest number of attempts to read from the Hub.
TRIES = 3
# Longest wait before the next attempt, in seconds. If the Hub asks for a longer wait than all remaining attempts allow,
# there is no further attempt.
LONGEST_WAIT = 60.0
# HTTP statuses, and names of the Hub client's exceptions, after which another attempt would fail too.
REFUSALS = (400, 401, 403, 404, 409, 412, 413, 416, 422)
HOPELESS = ("ConnectError", "OfflineModeIsEnabled", "ProxyError", "TooManyRedirects", "UnsupportedProtocol")
# Environment variables of proxies, and the allowed schemes in the address of a proxy.
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
SCHEMES = ("http", "https", "socks5", "socks5h")
# Environment variables of certificates that other programs read, and the client does not.
OTHER_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
ADDRESS = re.compile(r"https?://[^/\s'\"]+(/[^\s'\"]*)?")
BEARER = re.compile(r"(Bearer [!-~]+)?")
# Error numbers of a disk. Errors during writing name no file, and are recognised by these numbers.
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
    """Return the cause of an error if the client only wraps the cause, otherwise the error itself."""
    cause = error.__cause__
    wrapped = type(error).__name__ in ("RuntimeError", "ValueError", "LocalEntryNotFoundError")
    return cause if wrapped and isinstance(cause, Exception) else error


def _our_error(error: Exception, name: str, repo: str, done: str) -> SpikGPTError | None:
    """Translate an error of the client into an error for the user; return None for a bug in this library.

    ``name`` is the repository with its revision; ``done`` is ``read`` or ``written``.
    """
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
    """Return a message which says why the Hub refused a request or did not answer, and what to do."""
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
    """Return the result of ``call``, which reads from the Hub; repeat the call if the Hub is busy or fails.

    The wait between two attempts is as long as the Hub asks for, or one second.
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
    """Return the base class of the client's network errors, from the package httpx or httpx2."""
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError.__bases__[0]


def bad_address() -> type[Exception]:
    """Return the class of errors about malformed URLs, from the package httpx or httpx2."""
    package = import_module(network_error().__module__.partition(".")[0])
    return cast(type[Exception], package.InvalidURL)


def status_of(error: BaseException | None) -> int | None:
    """Return the HTTP status of an error; None if the error has no HTTP response."""
    return getattr(getattr(error, "response", None), "status_code", None)


def wait_of(error: BaseException | None) -> float:
    """Return the seconds to wait before the next attempt: the wait that the Hub asks for, at most 60, else 1."""
    seconds = requested_wait(error)
    return 1.0 if seconds is None else min(seconds, LONGEST_WAIT)


def requested_wait(error: BaseException | None) -> float | None:
    """Return the seconds that the Hub asks to wait before the next request; None if it asks for no wait.

    The headers state a number of seconds, a date, or the seconds until the rate limit is reset.
    """
    headers = getattr(getattr(error, "response", None), "headers", {})
    after = headers.get("Retry-After", "").strip()
    window = re.search(r";\s*t\s*=\s*(\d{1,9})", headers.get("RateLimit", ""))
    for seconds in (after, window and window[1], headers.get("RateLimit-Reset", "").strip()):
        if seconds and re.fullmatch(r"[0-9]{1,9}", seconds):
            return float(seconds)
    try:
        until = parsedate_to_datetime(after)
        # Use the clock of the server if the answer states its time, because the clock of this machine may be wrong.
        now = parsedate_to_datetime(headers["Date"]) if headers.get("Date") else datetime.now(UTC)
        return max((until - now).total_seconds(), 0.0)
    except (TypeError, ValueError):
        return None


def connection_remedy(error: BaseException) -> str:
    """Return a sentence which says what to do when no connection to the Hub can be made."""
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
    """Return a message that names the invalid network setting which keeps the client of the Hub from starting."""
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
    """Return a message on an invalid proxy setting; None if all settings are valid.

    The message does not repeat the address of the proxy, because the address may contain a password.
    """
    # Imported here, because annotation without the Hub does not need this function.
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
    """Refuse a malformed address of a Hub; ``name`` names its setting in the message."""
    try:
        parts = urlsplit(address)
        valid = ADDRESS.fullmatch(address) and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        msg = f"{name} is {address!r}; expected an address such as https://HOST:PORT."
        raise Unreachable(msg)


def check_token(authorization: str, name: str) -> None:
    """Refuse a token with characters that an HTTP header cannot hold; ``name`` names its setting in the message."""
    if not BEARER.fullmatch(authorization):
        problem = "it holds a blank, a line break or a character beyond ASCII"
        msg = f"{name} is no token: {problem}. Copy the token again."
        raise Unreachable(msg)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, at most 200 characters."""
    return printable((str(error).splitlines() or [""])[0])[:200]


def _set_variables(*names: str) -> str:
    """Return the names of those environment variables that are set, in upper or lower case, joined by commas."""
    cases = (case for name in names for case in (name.lower(), name))
    return ", ".join(case for case in cases if os.environ.get(case))
