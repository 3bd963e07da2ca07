"""Refusals of the service: the kind of each refusal, its HTTP status, and a message."""

from __future__ import annotations

from enum import StrEnum

from spikgpt.errors import SpikGPTError


class Kind(StrEnum):
    """Kind of a refusal; a kind named like an error of the library has the meaning of that error."""

    BAD_REQUEST = "BadRequest"
    NOT_FOUND = "NotFound"
    REFERENCE_NOT_FOUND = "ReferenceNotFound"
    METHOD_NOT_ALLOWED = "MethodNotAllowed"
    NOT_ACCEPTABLE = "NotAcceptable"
    UPLOAD_TIMEOUT = "UploadTimeout"
    TOO_MANY_BYTES = "TooManyBytes"
    TOO_MANY_CELLS = "TooManyCells"
    COMPRESSED = "Compressed"
    CONFIG_ERROR = "ConfigError"
    DATA_ERROR = "DataError"
    GENES_ERROR = "GenesError"
    LABELS_ERROR = "LabelsError"
    INTERNAL_ERROR = "InternalError"
    WORKER_DIED = "WorkerDied"
    BUSY = "Busy"
    STOPPING = "Stopping"
    LABELLING_TIMEOUT = "LabellingTimeout"


STATUS = {
    Kind.BAD_REQUEST: 400,
    Kind.NOT_FOUND: 404,
    Kind.REFERENCE_NOT_FOUND: 404,
    Kind.METHOD_NOT_ALLOWED: 405,
    Kind.NOT_ACCEPTABLE: 406,
    Kind.UPLOAD_TIMEOUT: 408,
    Kind.TOO_MANY_BYTES: 413,
    Kind.TOO_MANY_CELLS: 413,
    Kind.COMPRESSED: 415,
    Kind.CONFIG_ERROR: 422,
    Kind.DATA_ERROR: 422,
    Kind.GENES_ERROR: 422,
    Kind.LABELS_ERROR: 422,
    Kind.INTERNAL_ERROR: 500,
    Kind.WORKER_DIED: 500,
    Kind.BUSY: 503,
    Kind.STOPPING: 503,
    Kind.LABELLING_TIMEOUT: 504,
}
INTERNAL = "The service failed, and not because of this request. The log of the server has the reason."


class Refusal(SpikGPTError):
    """Error that the service answers with an HTTP status other than 200.

    Parameters
    ----------
    retry_after
        Seconds after which the same request may succeed, for the header Retry-After; None for no such header.
    """

    def __init__(self, kind: Kind, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.kind, self.retry_after = kind, retry_after

    @classmethod
    def from_name(cls, name: str, message: str) -> Refusal:
        """Return the refusal for the name of a kind; if no kind has this name, hide the message from the client."""
        if name in list(Kind) and name != Kind.INTERNAL_ERROR:
            return cls(Kind(name), message)
        return cls(Kind.INTERNAL_ERROR, INTERNAL)

    @classmethod
    def from_error(cls, error: SpikGPTError) -> Refusal:
        """Return the refusal for an error of the library."""
        return error if isinstance(error, Refusal) else cls.from_name(type(error).__name__, str(error))

    @property
    def status(self) -> int:
        """HTTP status code of the response."""
        return STATUS[self.kind]

    @property
    def headers(self) -> dict[str, str]:
        """HTTP headers of the response."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}

    def body(self) -> dict[str, str]:
        """Return the JSON values of the answer: the message and the kind."""
        return {"error": str(self), "kind": self.kind}
