"""Query parameters and the Accept header of a request."""

from __future__ import annotations

from collections.abc import Iterable
from types import NoneType
from typing import Annotated, Any, Literal, cast, get_args, get_origin, get_type_hints

import msgspec

from spikgpt.errors import ConfigError
from spikgpt.options import AnnotateOptions, Options, about, options_of
from spikgpt.service.refusals import Kind, Refusal

JSON, CSV, PARQUET = MEDIA_TYPES = ("application/json", "text/csv", "application/vnd.apache.parquet")
# Options of annotate that are no query parameters, because the server shows no progress.
LEFT_OUT = ("progress",)
_HINTS = get_type_hints(AnnotateOptions, include_extras=True)
# Query parameters: the name of the reference, and the options of annotate.
Parameters = msgspec.defstruct(
    "Parameters",
    [
        ("model", Annotated[str | None, about("Name of a served reference.")], None),
        *(
            (field.name, _HINTS[field.name], field.default)
            for field in msgspec.structs.fields(AnnotateOptions)
            if field.name not in LEFT_OUT
        ),
    ],
    bases=(Options,),
    frozen=True,
    kw_only=True,
)


def read_parameters(pairs: Iterable[tuple[str, str]]) -> tuple[str | None, dict[str, Any]]:
    """Return the name of the reference and the options of annotate from query parameters.

    An empty value means None. For example, ``batch_key=`` means that all cells are one batch.

    Raises
    ------
    ConfigError
        When a parameter does not exist, occurs twice, or has a value out of range.
    """
    hints = get_type_hints(Parameters)
    values: dict[str, Any] = {}
    for name, text in pairs:
        if name in values:
            msg = f"The parameter {name!r} occurs twice; give it once."
            raise ConfigError(msg)
        values[name] = _typed(text, hints.get(name, str))
    options = msgspec.structs.asdict(options_of(cast(type[Options], Parameters), values))
    model = options.pop("model")
    return model, msgspec.structs.asdict(options_of(AnnotateOptions, options | {"progress": False}))


def media_type(accept: str) -> str:
    """Return the media type that an Accept header prefers; JSON for an empty header.

    Raises
    ------
    Refusal
        When the header accepts none of JSON, CSV and Parquet.
    """
    ranked = []
    for index, part in enumerate(accept.lower().split(",")):
        name, *parameters = (text.strip() for text in part.split(";"))
        quality = next((text[2:] for text in parameters if text.startswith("q=")), "1")
        weight = float(quality) if quality.replace(".", "", 1).isdecimal() else 0.0
        ranked.append((-weight, index, name))
    for weight, _, name in sorted(ranked):
        for media in MEDIA_TYPES:
            if weight and name in (media, f"{media.partition('/')[0]}/*", "*/*"):
                return media
    if not accept.strip():
        return JSON
    msg = f"Accept is {accept[:200]!r}; expected {', '.join(MEDIA_TYPES[:-1])} or {MEDIA_TYPES[-1]}."
    raise Refusal(Kind.NOT_ACCEPTABLE, msg)


def _typed(text: str, kind: Any) -> Any:
    """Convert a text to the type of an option; return the text itself if it cannot be converted."""
    kinds = get_args(kind)
    if not text and NoneType in kinds:
        return None
    if kind is str or str in kinds or get_origin(kind) is Literal:
        return text
    try:
        return msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError:
        return text
