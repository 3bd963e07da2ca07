"""Options objects become flags, and come back as objects."""

from __future__ import annotations

from typing import Annotated

import pytest
import typer

from spikgpt.cli.flags import command
from spikgpt.cli.output import Interrupted
from spikgpt.errors import ConfigError
from spikgpt.options import HubOptions, TrainOptions
from tests.cli.conftest import Run


def given(*arguments: str) -> tuple[str, TrainOptions, HubOptions]:
    """Return what a function gets from the command line."""
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
    assert given("x") == ("x", TrainOptions(), HubOptions())
    asked = given("x", "--recipe", "paper", "--seed", "3", "--batch-key", "donor", "--endpoint", "http://here")
    options = TrainOptions(recipe="paper", seed=3, batch_key="donor")
    assert asked == ("x", options, HubOptions(endpoint="http://here"))
    with pytest.raises(ConfigError, match=r"^--seed is -1; expected a whole number of at least 0\.$"):
        given("x", "--seed", "-1")


@pytest.mark.parametrize("hidden", ["--provenance", "--token", "--offline", "--cache-dir"])
def test_what_is_not_shown_cannot_be_given(hidden: str) -> None:
    with pytest.raises(typer.BadParameter.__bases__[0], match="No such option"):
        given("x", hidden)


def test_help_shows_choices_ranges_and_defaults(run: Run) -> None:
    said = " ".join(run("annotate", "--help").out.replace("│", " ").split())
    for shown in (
        "auto|composition|shift|reference|query",
        "--neighbours --alone",
        "--whole-graph --any-part",
        "--same-study",
        "--strict",
        "Exit with 3 if the query is of",
        "(at least 0 and below 1)",
        "[default: auto]",
        "Which reference labels the cells, and what runs its network",
    ):
        assert shown in said
    assert "--progress" not in said


def test_an_interruption_is_an_error_of_its_own() -> None:
    @command("Half of it is kept.")
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=r"^Half of it is kept\.$"):
        stop()


def test_limits_of_their_own_do_not_hide_what_a_flag_means(run: Run) -> None:
    said = run("pretrain", "--help").out
    assert "Passes over the cells. (at least 1)" in " ".join(said.replace("│", " ").split())
    assert "None" not in said
    assert "{CELLS}" in said
