"""What goes wrong with the Hub: which failures are worth another try, and how each is told to the user.

The client's errors are imported inside functions, as that takes a tenth of a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TypeVar, cast

from spikgpt.errors import HubError, ReferenceNotFound, printable

# How often a read is tried that may succeed the next time.
TRIES = 3
# Answers that stay the same when asked again, and failures that do.
REFUSALS = (400, 401, 403, 404, 409, 412, 413, 416, 422)
HOPELESS = ("NoneType", "ConnectError", "OfflineModeIsEnabled", "UnsupportedProtocol")
LOG_IN = "log in with hf auth login, set HF_TOKEN or give a token"

T = TypeVar("T")


class Unreachable(HubError):
    """The Hub cannot be asked now, so what is cached has to do."""


def named(repo: str, revision: str | None) -> str:
    """Return ``org/name@revision``, or ``org/name`` for the main branch."""
    return f"{repo}@{revision}" if revision else repo


@contextmanager
def explained(repo: str, revision: str | None = None, *, writing: bool = False) -> Iterator[None]:
    """Turn the client's errors into ours, Unreachable among them."""
    from huggingface_hub import errors

    what = named(repo, revision)
    try:
        yield
    except errors.GatedRepoError as error:
        msg = f"{repo} is open to those who accept its terms: do so on its page, then {LOG_IN}."
        raise HubError(msg) from error
    except errors.RepositoryNotFoundError as error:
        if "Invalid credentials" in str(error):
            raise HubError(_refusal(what, error, writing)) from error
        msg = f"There is no repository {repo} on the Hub, or it is private: {LOG_IN}."
        raise ReferenceNotFound(msg) from error
    except errors.RevisionNotFoundError as error:
        msg = f"{repo} has no revision {revision!r}; name a branch, a tag or a commit that its page shows."
        raise ReferenceNotFound(msg) from error
    except errors.HFValidationError as error:
        msg = f"{what} is no name of a repository: {_first_line(error)}"
        raise ReferenceNotFound(msg) from error
    except (network_error(), OSError, RuntimeError, ValueError) as error:
        # Uploads wrap what went wrong.
        cause = error.__cause__ if type(error) is RuntimeError else error
        kind = HubError if status_of(cause) in REFUSALS else Unreachable
        raise kind(_refusal(what, cause, writing)) from error
    except (bad_address(), TypeError, LookupError, AttributeError, AssertionError) as error:
        found = f"{type(error).__name__}: {_first_line(error)}"
        msg = f"The Hub answered something else than expected about {what} ({found}). Check HF_ENDPOINT."
        raise HubError(msg) from error


def retried(call: Callable[[], T]) -> T:
    """Call again when the Hub is busy, fails or breaks off, after the time that it asks for or a second."""
    for left in reversed(range(TRIES)):
        try:
            return call()
        except network_error() as error:
            if not left or type(error).__name__ in HOPELESS or status_of(error) in REFUSALS:
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
    asked = getattr(getattr(error, "response", None), "headers", {}).get("Retry-After", "")
    return min(float(asked), 60.0) if asked.isdecimal() else 1.0


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
        return f"The Hub asks for fewer requests, so {what} was not {done}. Try again in some minutes."
    if type(error).__name__ == "OfflineModeIsEnabled":
        return f"HF_HUB_OFFLINE is set, so {what} was not {done}. Unset it and connect."
    reason = f"it answered {status}" if status else f"{type(error).__name__}: {_first_line(error)}"
    return f"The Hub cannot be reached ({reason}), so {what} was not {done}. Check the connection and HF_ENDPOINT."


def bad_address() -> type[Exception]:
    """Return what the client raises for an address that is none."""
    package = import_module(network_error().__module__.partition(".")[0])
    return cast(type[Exception], package.InvalidURL)


def _first_line(error: BaseException | None) -> str:
    return printable((str(error).splitlines() or [""])[0])[:200]
