"""What goes wrong with the Hub: which failures are worth another try, and how each is told to the user.

Among them are settings of this machine that keep the Hub from being asked: certificates, proxies, tokens and addresses.

The client's errors are imported inside functions, as that takes a tenth of a second.
"""

from __future__ import annotations

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

from spikgpt.errors import HubError, ReferenceNotFound, SpikGPTError, fault, install_command, printable

# How often a read is tried that may succeed the next time.
TRIES = 3
# Seconds to wait for the next try at most. A Hub that asks for more than the tries left can wait is not asked again.
LONGEST_WAIT = 60.0
# Answers that stay the same when asked again, and failures that do.
REFUSALS = (400, 401, 403, 404, 409, 412, 413, 416, 422)
HOPELESS = ("NoneType", "ConnectError", "OfflineModeIsEnabled", "ProxyError", "UnsupportedProtocol")
PROXIES = ("http", "https", "socks5", "socks5h")
# The client reads SSL_CERT_FILE; these belong to other programs.
OTHER_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
ADDRESS = re.compile(r"https?://[^/\s'\"]+(/[^\s'\"]*)?")
LOG_IN = "log in with hf auth login, set HF_TOKEN or give a token"

T = TypeVar("T")


class Unreachable(HubError):
    """The Hub cannot be asked now, so what is cached has to do."""


class Offline(Unreachable):
    """The user does not want the Hub to be asked."""


def named(repo: str, revision: str | None) -> str:
    """Return ``org/name@revision``, or ``org/name`` for the main branch."""
    return f"{repo}@{revision}" if revision else repo


@contextmanager
def explained(repo: str, revision: str | None = None, *, writing: bool = False) -> Iterator[None]:
    """Turn the client's errors into ours, Unreachable among them."""
    try:
        yield
    except SpikGPTError:
        raise
    except Exception as error:
        ours = _our_error(error, repo, revision, writing=writing)
        if ours is None:
            raise
        raise ours from None


def _our_error(error: Exception, repo: str, revision: str | None, *, writing: bool) -> SpikGPTError | None:
    """Return the error that a user sees for one of the client; None where the fault is ours."""
    from huggingface_hub import errors

    what = named(repo, revision)
    if isinstance(error, errors.GatedRepoError):
        return HubError(f"{repo} is open to those who accept its terms: do so on its page, then {LOG_IN}.")
    if isinstance(error, errors.RepositoryNotFoundError):
        if "Invalid credentials" in str(error):
            return HubError(_refusal(what, error, writing))
        return ReferenceNotFound(f"There is no repository {repo} on the Hub, or it is private: {LOG_IN}.")
    if isinstance(error, errors.RevisionNotFoundError):
        found = f"{repo} has no revision {revision!r}"
        return ReferenceNotFound(f"{found}; name a branch, a tag or a commit that its page shows.")
    if isinstance(error, errors.HFValidationError):
        return ReferenceNotFound(f"{what} is no name of a repository: {first_line(error)}")
    if isinstance(error, (network_error(), OSError, RuntimeError, ValueError)):
        # Uploads wrap what went wrong.
        cause = error.__cause__ if type(error) is RuntimeError else error
        kind = HubError if status_of(cause) in REFUSALS else Unreachable
        return (Offline if _is_offline(cause) else kind)(_refusal(what, cause, writing))
    if isinstance(error, (bad_address(), TypeError, LookupError, AttributeError, AssertionError)):
        found = f"{type(error).__name__}: {first_line(error)}"
        return HubError(f"The Hub answered something else than expected about {what} ({found}). Check HF_ENDPOINT.")
    return None


def retried(call: Callable[[], T]) -> T:
    """Call again when the Hub is busy, fails or breaks off, after the time that it asks for or a second."""
    for left in reversed(range(TRIES)):
        try:
            return call()
        except network_error() as error:
            hopeless = type(error).__name__ in HOPELESS or status_of(error) in REFUSALS
            if hopeless or not left or (asked_wait(error) or 0) > left * LONGEST_WAIT:
                raise
            time.sleep(wait_of(error))
    raise AssertionError  # the last try returns or raises


def network_error() -> type[Exception]:
    """Return what the client raises for a broken connection: of httpx or httpx2, depending on its version."""
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError.__bases__[0]


def status_of(error: BaseException | None) -> int | None:
    """Return the HTTP status that an error stands for, if it is one."""
    return getattr(getattr(error, "response", None), "status_code", None)


def wait_of(error: BaseException | None) -> float:
    """Return the seconds to wait before the next try: what the Hub asks for, up to a minute, or one."""
    asked = asked_wait(error)
    return 1.0 if asked is None else min(asked, LONGEST_WAIT)


def asked_wait(error: BaseException | None) -> float | None:
    """Return the seconds that an answer asks to wait: as a number, as a date, or as the end of a window of requests."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    after = headers.get("Retry-After", "").strip()
    window = re.search(r";\s*t\s*=\s*(\d{1,9})", headers.get("RateLimit", ""))
    for seconds in (after, window and window[1], headers.get("RateLimit-Reset", "").strip()):
        if seconds and re.fullmatch(r"[0-9]{1,9}", seconds):
            return float(seconds)
    try:
        until = parsedate_to_datetime(after)
        # By the clock of the server, where it tells the time.
        now = parsedate_to_datetime(headers["Date"]) if headers.get("Date") else datetime.now(UTC)
        return max((until - now).total_seconds(), 0.0)
    except (TypeError, ValueError):
        return None


def _is_offline(error: BaseException | None) -> bool:
    return type(error).__name__ == "OfflineModeIsEnabled"


def _refusal(what: str, error: BaseException | None, writing: bool) -> str:
    """Say why the Hub did not do what it was asked for, and what to do."""
    status = status_of(error)
    done = "written" if writing else "read"
    if status == 401:
        return f"The Hub does not know this token, or wants one, so {what} was not {done}: {LOG_IN}."
    if status == 403:
        return f"This token may not {'write to' if writing else 'read'} {what}; use one that may."
    if status in (409, 412):
        return f"Somebody else has committed to {what} meanwhile, so nothing was pushed. Look at it, then push again."
    if status == 429:
        asked = asked_wait(error)
        wait = "some minutes" if asked is None else f"{asked:.0f} s"
        return f"The Hub asks for fewer requests, so {what} was not {done}. Try again in {wait}."
    if status in REFUSALS:
        return f"The Hub answered {status}, so {what} was not {done}. Check the name, and HF_ENDPOINT if it is set."
    if _is_offline(error):
        return f"HF_HUB_OFFLINE is set, so {what} was not {done}. Unset it and connect."
    if type(error).__name__ == "LocalTokenNotFoundError":
        return f"There is no token on this machine, so {what} was not {done}: {LOG_IN}."
    if isinstance(error, OSError) and error.filename:
        remedy = fault(error) or "Check that file."
        return f"{error.filename} cannot be used ({error.strerror}), so {what} was not {done}. {remedy}"
    reason = f"it answered {status}" if status else f"{type(error).__name__}: {first_line(error)}"
    remedy = "Try again later." if status and status >= 500 else connection_remedy(error)
    return f"The Hub cannot be reached ({reason}), so {what} was not {done}. {remedy}"


def bad_address() -> type[Exception]:
    """Return what the client raises for an address that is none."""
    package = import_module(network_error().__module__.partition(".")[0])
    return cast(type[Exception], package.InvalidURL)


def wrong_setting(error: Exception) -> str:
    """Say which setting keeps a client of the Hub from being made, after ``error`` did."""
    wrong = _wrong_certificates() or _wrong_proxy()
    settings = "Check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY and SSL_CERT_FILE."
    return wrong or f"The settings of the network cannot be used ({first_line(error)}). {settings}"


def connection_remedy(error: BaseException | None) -> str:
    """Say what to do when no connection to the Hub can be made."""
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        if "expired" in text or "not yet valid" in text:
            return f"Check the clock of this machine, which says {time.strftime('%Y-%m-%d %H:%M')}."
        other = next((name for name in OTHER_BUNDLES if os.environ.get(name)), None)
        if other and not os.environ.get("SSL_CERT_FILE"):
            return f"{other} is not read here; set SSL_CERT_FILE to {os.environ[other]} too."
        return "The server's certificate is not trusted; set SSL_CERT_FILE to the certificates of your network (PEM)."
    if re.search(r"WRONG_VERSION_NUMBER|record layer failure|UNKNOWN_PROTOCOL", text):
        return "The server does not speak https; check whether HF_ENDPOINT is to begin with http://."
    proxies = [name for name in map(_variable, ("http", "https", "all")) if name]
    if proxies:
        return f"Check the connection, HF_ENDPOINT and the proxy: {', '.join(proxies)}."
    return "Check the connection and HF_ENDPOINT."


def wrong_token(authorization: str, source: str) -> str | None:
    """Say that a token can be in no header; ``source`` is where the token comes from."""
    if re.fullmatch(r"(Bearer [!-~]+)?", authorization):
        return None
    return f"{source} is no token: it holds a blank, a line break or a sign beyond ASCII. Copy the token again."


def wrong_endpoint(endpoint: str, source: str) -> str | None:
    """Say that an address of a Hub is none; ``source`` is where the address comes from."""
    try:
        valid = ADDRESS.fullmatch(endpoint) and urlsplit(endpoint).port != 0
    except ValueError:
        valid = None
    return None if valid else f"{source} is {endpoint!r}; expected an address such as https://HOST or http://HOST:PORT."


def first_line(error: BaseException | None) -> str:
    """Return the first line of an error's text, at most 200 characters."""
    return printable((str(error).splitlines() or [""])[0])[:200]


def _wrong_certificates() -> str | None:
    """Say what is wrong with the file of certificates."""
    if not (path := os.environ.get("SSL_CERT_FILE")):
        return None
    try:
        found = "is not there" if not Path(path).exists() else "is no file" if not Path(path).is_file() else None
        if found is None:
            ssl.create_default_context(cafile=path)
    except OSError as error:  # ssl.SSLError is one
        found = "cannot be read" if isinstance(error, PermissionError) else "holds no certificates (PEM)"
    return found and f"SSL_CERT_FILE names {path}, which {found}. Name another file, or unset SSL_CERT_FILE."


def _wrong_proxy() -> str | None:
    """Say what is wrong with a proxy; its address is not repeated, as it may hold a password."""
    # Imported here: labelling without the Hub does not need it.
    from urllib.request import getproxies

    for kind in ("http", "https", "all"):
        if not (address := getproxies().get(kind)):
            continue
        name = _variable(kind) or f"the system's {kind} proxy"
        try:
            parts = urlsplit(address if "://" in address else f"http://{address}")
            valid = parts.scheme in PROXIES and parts.hostname and parts.port != 0
        except ValueError:
            valid = False
        if not valid:
            return (
                f"{name} is no address of a proxy; expected {', '.join(PROXIES)}, then ://HOST:PORT. Or unset {name}."
            )
        if parts.scheme.startswith("socks") and find_spec("socksio") is None:
            remedy = f"Run: {install_command('socksio')}, or unset {name}"
            return f"{name} names a SOCKS proxy, which needs the package socksio. {remedy}."
    return None


def _variable(kind: str) -> str | None:
    """Return the variable that names the proxy of a kind."""
    return next((name for name in (f"{kind}_proxy", f"{kind}_PROXY".upper()) if os.environ.get(name)), None)
