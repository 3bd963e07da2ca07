"""From a function with options objects to a command with flags."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
import typer
from msgspec import Meta
from typer.models import ArgumentInfo

from spikgpt.cli.output import interruptible
from spikgpt.extras import needs
from spikgpt.options import HubOptions, Options, limits, options_of

if TYPE_CHECKING:
    from spikgpt.reference.hub import Hub

MODEL = "Reference: a name that `spikgpt list` shows, a folder, or ORG/REPO[@REVISION] on the Hub."
CHECKPOINT = "scGPT checkpoint: a folder, or ORG/REPO[@REVISION] on the Hub."
SCGPT = "Folder of the scGPT checkpoint that the reference needs, if it does not contain it."


def escaped(text: str) -> str:
    """Return help in which rich takes nothing for markup."""
    return text.replace("[", "\\[")


Model = Annotated[str, typer.Argument(help=escaped(MODEL))]
ScGPT = Annotated[Path | None, typer.Option("--scgpt", help=SCGPT)]


def hub_of(options: HubOptions) -> Hub:
    """Return a client of the Hub."""
    from spikgpt.reference.hub import Hub

    return Hub(**msgspec.structs.asdict(options))


def command(kept: str = "Nothing was written.") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function a command for typer: a parameter of an options class becomes a flag for each of its fields.

    The function gets the object, checked. ``Annotated[HubOptions, ("endpoint",)]`` shows some of the fields only.
    ``kept`` is what to say when the user interrupts it.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        parameters, kinds = [], {}
        for name, hint in get_type_hints(function, include_extras=True).items():
            kind, *shown = get_args(hint) if get_origin(hint) is Annotated else (hint,)
            if isinstance(kind, type) and issubclass(kind, Options):
                flags = [flag for flag in _flags(kind) if not shown or flag.name in shown[0]]
                kinds[name] = kind, [flag.name for flag in flags]
                parameters += flags
            elif name != "return":
                if shown and isinstance(shown[0], ArgumentInfo):
                    shown[0].metavar = name.upper()  # as the sentences of the help spell it
                default = inspect.signature(function).parameters[name].default
                parameters.append(_parameter(name, hint, default))

        @functools.wraps(function)
        def run(**given: Any) -> None:
            for name, (kind, fields) in kinds.items():
                stated = {field: value for field in fields if (value := given.pop(field)) is not None}
                given[name] = options_of(kind, stated, functools.partial(_called, kind))
            with interruptible(lambda: kept), needs():
                function(**given)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def _flags(kind: type[Options]) -> Iterator[inspect.Parameter]:
    """Give the parameter of each field that the command line shows."""
    plain = get_type_hints(kind)
    for field in sorted(msgspec.structs.fields(kind), key=lambda field: not field.required):
        meta, flag = _described(kind, field.name)
        if flag is not None:
            allowed = limits(kind, field.name)
            shown = typer.Option(
                flag,
                help=escaped(f"{meta.description} ({allowed})" if allowed else str(meta.description)),
                rich_help_panel=str(kind.__doc__).partition("\n")[0].rstrip("."),
            )
            default = inspect.Parameter.empty if field.required else field.default
            yield _parameter(field.name, Annotated[plain[field.name], shown], default)


def _described(kind: type[Options], name: str) -> tuple[Meta, str | None]:
    """Return the description of a field, and how its flag is spelled, None for one that has none."""
    hint = get_type_hints(kind, include_extras=True)[name]
    meta = next(meta for meta in get_args(hint) if isinstance(meta, Meta) and meta.description)
    dashed = name.replace("_", "-")
    usual = f"--{dashed}/--no-{dashed}" if get_args(hint)[0] is bool else f"--{dashed}"
    return meta, (meta.extra or {}).get("flag", usual)


def _called(kind: type[Options], name: str) -> str:
    """Return what the user types for a field."""
    return str(_described(kind, name)[1]).partition("/")[0]


def _parameter(name: str, hint: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=hint, default=default)
