"""Fields of options objects become flags, and flags become options objects."""

from __future__ import annotations

from typing import Annotated

import pytest
import typer

from spikgpt.cli.flags import command
from spikgpt.cli.output import CommandInterrupted
from spikgpt.errors import ConfigError
from spikgpt.options import HubOptions, TrainOptions
from tests.cli.conftest import Run


def parse_flags(*arguments: str) -> tuple[str, TrainOptions, HubOptions]:
    """Return the arguments that a command function receives for the given flags."""
    got: list[tuple[str, TrainOptions, HubOptions]] = []

    @command()
    def go(
        name: Annotated[str, typer.Argument()], options: TrainOptions, hub: Annotated[HubOptions, ("endpoint",)]
    ) -> None:
        got.append((name, options, hub))

    app = typer.Typer()
    app.command()(go)
    app([*arguments], standalone_mode=False)
    return got[0]


def test_a_function_gets_the_checked_objects() -> None:
    assert parse_flags("x") == ("x", TrainOptions(), HubOptions())
    parsed = parse_flags("x", "--recipe", "paper", "--seed", "3", "--batch-key", "donor", "--endpoint", "http://here")
    options = TrainOptions(recipe="paper", seed=3, batch_key="donor")
    assert parsed == ("x", options, HubOptions(endpoint="http://here"))
    with pytest.raises(ConfigError, match=r"^--seed is -1; expected a whole number of at least 0\.$"):
        parse_flags("x", "--seed", "-1")


@pytest.mark.parametrize("hidden", ["--provenance", "--token", "--offline", "--cache-dir"])
def test_fields_without_a_flag_cannot_be_given(hidden: str) -> None:
    with pytest.raises(typer.BadParameter.__bases__[0], match="No such option"):
        parse_flags("x", hidden)


def test_help_shows_choices_ranges_and_defaults(run: Run) -> None:
    text = " ".join(run("annotate", "--help").out.replace("│", " ").split())
    for shown in (
        "auto|composition|shift|reference|query",
        "--smoothing --no-smoothing",
        "--whole-graph --any-part",
        "--reference-cutoff",
        "--strict",
        "Exit with code 3 if the query is of",
        "(at least 0 and below 1)",
        "[default: auto]",
        "Reference, and program that runs its network",
    ):
        assert shown in text
    for hidden in ("--progress", "--alone", "--same-study"):
        assert hidden not in text


def test_an_interruption_is_an_error_of_its_own() -> None:
    @command("Half of it is kept.")
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(CommandInterrupted, match=r"^Half of it is kept\.$"):
        stop()


def test_limits_do_not_hide_the_description_of_a_flag(run: Run) -> None:
    text = run("pretrain", "--help").out
    assert "Number of passes over the cells. (at least 1)" in " ".join(text.replace("│", " ").split())
    assert "None" not in text
    assert "{CELLS}" in text
