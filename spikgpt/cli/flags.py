"""From a function with options objects to a command with flags."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
import typer
from msgspec import Meta
from typer.models import ArgumentInfo

from spikgpt.cli.output import interruptible, say
from spikgpt.errors import needs
from spikgpt.options import HubOptions, Options, about, limits, options_of

if TYPE_CHECKING:
    from spikgpt.reference.files import Reference
    from spikgpt.reference.hub import Hub
    from spikgpt.reference.pins import Pin

MODEL = "Reference: a name that `spikgpt list` shows, a folder, or ORG/REPO[@REVISION] on the Hub."
CHECKPOINT = "scGPT checkpoint: a folder, or ORG/REPO[@REVISION] on the Hub."
SCGPT = "Folder of the scGPT checkpoint that the reference needs, if it does not contain it."


def escaped(text: str) -> str:
    """Return help in which rich takes nothing for markup."""
    return text.replace("[", "\\[")


Model = Annotated[str, typer.Argument(help=escaped(MODEL))]
ScGPT = Annotated[Path | None, typer.Option("--scgpt", help=SCGPT)]


class PinnedOptions(HubOptions, frozen=True, kw_only=True):
    """How the reference is reached, and what it has to be."""

    expect: Annotated[str | None, about("Digest that it has to have, as `spikgpt pull` prints it.")] = None
    lock: Annotated[bool, about("Hold it against spikgpt.lock, or write it there if it is not in it.", "--lock")] = (
        False
    )
    lock_file: Annotated[Path | None, about("Lock file to use instead of spikgpt.lock.")] = None

    def pin(self) -> Pin:
        """Return what the reference has to be."""
        from spikgpt.reference.pins import LOCK, Pin

        return Pin(self.expect, self.lock_file or (Path(LOCK) if self.lock else None))

    def keep(self, model: str, reference: Reference) -> None:
        """Take a reference into the lock file, if there is to be one."""
        pin = self.pin()
        if pin.keep(model, None, reference.origin, reference.digest):
            say(f"Wrote {model} to {pin.lock}.")


def hub_of(options: HubOptions) -> Hub:
    """Return a client of the Hub."""
    from spikgpt.reference.hub import Hub

    return Hub.of(options)


def command(kept: str = "Nothing was written.") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function a command for typer: a parameter of an options class becomes a flag for each of its fields.

    The function gets the object, checked. ``Annotated[HubOptions, ("endpoint",)]`` shows some of the fields only.
    ``kept`` is what to say when the user interrupts it.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        parameters, groups = [], {}
        for name, hint in get_type_hints(function, include_extras=True).items():
            kind, *shown = get_args(hint) if get_origin(hint) is Annotated else (hint,)
            if isinstance(kind, type) and issubclass(kind, Options):
                flags = {field: flag for field, flag in _flags(kind).items() if not shown or field in shown[0]}
                groups[name] = kind, {field: spelled.partition("/")[0] for field, (spelled, _) in flags.items()}
                parameters += [parameter for _, parameter in flags.values()]
            elif name != "return":
                if shown and isinstance(shown[0], ArgumentInfo):
                    shown[0].metavar = name.upper()  # as the sentences of the help spell it
                parameters.append(_parameter(name, hint, inspect.signature(function).parameters[name].default))

        @functools.wraps(function)
        def _run(**values: Any) -> None:
            for name, (kind, called) in groups.items():
                stated = {field: value for field in called if (value := values.pop(field)) is not None}
                values[name] = options_of(kind, stated, called)
            with interruptible(lambda: kept), needs():
                function(**values)

        _run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        _run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return _run

    return decorate


def _flags(kind: type[Options]) -> dict[str, tuple[str, inspect.Parameter]]:
    """Return how the flag of each field that has one is spelled, and its parameter, the needed ones first."""
    hints, plain, found = get_type_hints(kind, include_extras=True), get_type_hints(kind), {}
    for field in sorted(msgspec.structs.fields(kind), key=lambda field: not field.required):
        name = field.name
        meta = next(part for part in get_args(hints[name]) if isinstance(part, Meta) and part.description)
        dashed = name.replace("_", "-")
        usual = f"--{dashed}/--no-{dashed}" if plain[name] is bool else f"--{dashed}"
        told = (meta.extra or {}).get("flag", "")
        if told is not None:
            allowed = f" ({limits(kind, name)})" if limits(kind, name) else ""
            panel = str(kind.__doc__).partition("\n")[0].rstrip(".")
            shown = typer.Option(told or usual, help=escaped(f"{meta.description}{allowed}"), rich_help_panel=panel)
            default = inspect.Parameter.empty if field.required else field.default
            found[name] = told or usual, _parameter(name, Annotated[plain[name], shown], default)
    return found


def _parameter(name: str, hint: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=hint, default=default)
