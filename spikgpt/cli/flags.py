"""Make typer commands with flags from functions whose parameters are options objects."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
import typer
from msgspec import Meta
from typer.models import ArgumentInfo

from spikgpt.cli.output import inform, interruptible
from spikgpt.errors import ConfigError, install_command, listed, needs
from spikgpt.options import HubOptions, Options, about, limits, options_of

if TYPE_CHECKING:
    from spikgpt.reference.files import Reference
    from spikgpt.reference.hub import Hub
    from spikgpt.reference.lockfile import VersionPin

MODEL = "Reference: a name that `spikgpt list` shows, a folder, or ORG/REPO[@REVISION] on the Hub."
CHECKPOINT = "scGPT checkpoint: a folder, or ORG/REPO[@REVISION] on the Hub."
SCGPT = "Folder of the scGPT checkpoint, if the reference needs it and does not contain it."


def escaped(text: str) -> str:
    """Return help text with escaped brackets, because rich would read brackets as markup."""
    return text.replace("[", "\\[")


Model = Annotated[str, typer.Argument(help=escaped(MODEL))]
ServedModels = Annotated[
    list[str] | None,
    typer.Option("--model", help=escaped(f"{MODEL} Repeatable; default: the references shipped with this package.")),
]
ScGPT = Annotated[Path | None, typer.Option("--scgpt", help=SCGPT)]


class PinnedOptions(HubOptions, frozen=True, kw_only=True):
    """Download and version of the reference."""

    expect: Annotated[str | None, about("Digest that the reference must have, as `spikgpt pull` prints it.")] = None
    lock: Annotated[
        bool, about("Use the version pinned in spikgpt.lock; if none is pinned, pin the current version.", "--lock")
    ] = False
    lock_file: Annotated[Path | None, about("Lock file to use instead of spikgpt.lock.")] = None

    def pin(self) -> VersionPin:
        """Return the digest and the lock file that the user named, to pin the version of the reference."""
        from spikgpt.reference.lockfile import LOCK, VersionPin

        return VersionPin(self.expect, self.lock_file or (Path(LOCK) if self.lock else None))

    def keep(self, model: str, reference: Reference) -> None:
        """Add a reference to the lock file, if one is used."""
        pin = self.pin()
        if pin.record(model, None, reference.origin, reference.digest):
            inform(f"Pinned {model} in {pin.lock}.")


def hub_of(options: HubOptions) -> Hub:
    """Return a client of the Hub."""
    from spikgpt.reference.hub import Hub

    return Hub.from_options(options)


def check_server(name: str, packages: Mapping[str, str]) -> None:
    """Raise ConfigError if a server cannot run on this machine.

    ``packages`` maps each module that the server needs to the package that contains the module.
    """
    if sys.platform == "win32":
        msg = f"spikgpt {name} needs Linux or macOS; use spikgpt annotate here, or a container."
        raise ConfigError(msg)
    if missing := [package for module, package in packages.items() if find_spec(module) is None]:
        msg = f"spikgpt {name} needs the extra '{name}' (missing: {listed(missing)}). Run: {install_command(*missing)}"
        raise ConfigError(msg)


def command(kept: str = "Nothing was written.") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a typer command of a function: if a parameter is an options object, each of its fields becomes a flag.

    The function is called with checked options objects. ``Annotated[HubOptions, ("endpoint",)]`` limits the flags to
    the named fields. ``kept`` is the message when the user interrupts the command.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        parameters, groups = [], {}
        for name, hint in get_type_hints(function, include_extras=True).items():
            kind, *shown = get_args(hint) if get_origin(hint) is Annotated else (hint,)
            if isinstance(kind, type) and issubclass(kind, Options):
                flags = {field: flag for field, flag in _flags(kind).items() if not shown or field in shown[0]}
                groups[name] = kind, {field: spelling.partition("/")[0] for field, (spelling, _) in flags.items()}
                parameters += [parameter for _, parameter in flags.values()]
            elif name != "return":
                if shown and isinstance(shown[0], ArgumentInfo):
                    shown[0].metavar = name.upper()  # the spelling in the help texts
                parameters.append(_parameter(name, hint, inspect.signature(function).parameters[name].default))

        @functools.wraps(function)
        def _run(**values: Any) -> None:
            for name, (kind, spellings) in groups.items():
                given = {field: value for field in spellings if (value := values.pop(field)) is not None}
                values[name] = options_of(kind, given, spellings)
            with interruptible(lambda: kept), needs():
                function(**values)

        _run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        _run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return _run

    return decorate


def _flags(kind: type[Options]) -> dict[str, tuple[str, inspect.Parameter]]:
    """Return, for each field that has a flag, the spelling of the flag and the parameter of the typer command.

    Required fields come first.
    """
    hints, plain, flags = get_type_hints(kind, include_extras=True), get_type_hints(kind), {}
    for field in sorted(msgspec.structs.fields(kind), key=lambda field: not field.required):
        name = field.name
        meta = next(part for part in get_args(hints[name]) if isinstance(part, Meta) and part.description)
        dashed = name.replace("_", "-")
        default_flag = f"--{dashed}/--no-{dashed}" if plain[name] is bool else f"--{dashed}"
        extra = meta.extra or {}
        flag = extra.get("flag", "")
        if flag is not None:
            allowed = f" ({limits(kind, name)})" if limits(kind, name) else ""
            panel = str(kind.__doc__).partition("\n")[0].rstrip(".")
            option = typer.Option(
                flag or default_flag,
                help=escaped(f"{meta.description}{allowed}"),
                rich_help_panel=panel,
                hidden=extra.get("hidden", False),
            )
            default = inspect.Parameter.empty if field.required else field.default
            flags[name] = flag or default_flag, _parameter(name, Annotated[plain[name], option], default)
    return flags


def _parameter(name: str, hint: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=hint, default=default)
