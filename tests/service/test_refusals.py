"""Each kind of refusal has an HTTP status; messages of unexpected errors stay on the server."""

from __future__ import annotations

from spikgpt import errors
from spikgpt.errors import DamagedReference, GenesError
from spikgpt.service.refusals import STATUS, Kind, Refusal


def test_each_kind_has_a_status() -> None:
    assert list(STATUS) == list(Kind)
    assert set(STATUS.values()) <= {400, 404, 405, 406, 408, 413, 415, 422, 500, 503, 504}
    library = {kind for kind in Kind if kind.endswith("Error") and kind != Kind.INTERNAL_ERROR}
    assert all(hasattr(errors, kind) for kind in library)


def test_errors_become_refusals() -> None:
    refusal = Refusal.from_error(GenesError("Too few genes."))
    assert (refusal.status, refusal.body()) == (422, {"error": "Too few genes.", "kind": "GenesError"})
    refusal = Refusal.from_error(DamagedReference("secret"))
    assert (refusal.status, refusal.kind) == (500, Kind.INTERNAL_ERROR)
    assert "secret" not in str(refusal)
    assert Refusal.from_error(refusal) is refusal
    assert Refusal(Kind.BUSY, "Busy.", 2).headers == {"Retry-After": "2"}
