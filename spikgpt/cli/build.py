"""``spikgpt build``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spikgpt.cli.flags import command, hub_of
from spikgpt.cli.output import Bars, annotate_command, goes_on, interruptible, note, say
from spikgpt.cli.share import say_pushed
from spikgpt.errors import ConfigError
from spikgpt.files import check_place
from spikgpt.options import HubOptions, Options, PushOptions, about

if TYPE_CHECKING:
    from spikgpt.building.steps import Done


class BuildOptions(Options, frozen=True):
    """What is built, and from where."""

    mirror: Annotated[str | None, about("Folder or address that has the files as ACCESSION/NAME.")] = None
    cache: Annotated[Path | None, about("Folder for downloads.")] = None
    steps: Annotated[str, about("Which of the steps to do.")] = "download,prepare,train,evaluate,card"
    variant: Annotated[str | None, about("Variant of the recipe, such as shipped of pancreas.")] = None
    only: Annotated[list[str] | None, about("Study or accession to build from; repeatable.")] = None
    synthetic: Annotated[bool, about("The cells are made up; all that is written says so.", "--synthetic")] = False


@command()
def build(
    recipe: Annotated[str, typer.Argument(help="retina, lung, pancreas, or a folder with a recipe.yaml.")],
    options: BuildOptions,
    hub: Annotated[HubOptions, ("endpoint",)],
    out: Annotated[Path | None, typer.Option(help="Folder to write the reference to.")] = None,
    push: Annotated[str | None, typer.Option(help="ORG/NAME on the Hub to push the reference to.")] = None,
    show_card: Annotated[bool, typer.Option("--show-card", help="Show the card of the recipe, and leave.")] = False,
) -> None:
    """Build a reference from the files that studies published. Started again, a build goes on where it stopped."""
    from spikgpt.building.plan import plan_of
    from spikgpt.building.recipe import card_of, find_recipe, read_recipe
    from spikgpt.building.steps import STEPS, Build, provenance_of
    from spikgpt.reference.card import untrained_card
    from spikgpt.reference.hub import check_repository

    folder = find_recipe(recipe)
    plan = plan_of(read_recipe(folder), variant=options.variant, only=options.only or (), synthetic=options.synthetic)
    if show_card:
        told = provenance_of(plan, card_of(folder, plan.card))
        typer.echo(untrained_card({"name": plan.recipe.name, "provenance": told}), nl=False)
        return
    if out is None:
        msg = "Name the folder to write the reference to: --out FOLDER."
        raise ConfigError(msg)
    check_place(out)
    wanted = [step.strip() for step in options.steps.split(",") if step.strip()]
    if push:
        check_repository(push)
        if STEPS[-1] not in wanted:
            msg = f"The step {STEPS[-1]} writes what is pushed; do it too: --steps {','.join([*wanted, STEPS[-1]])}"
            raise ConfigError(msg)
    note(*plan.recipe.unverified, *(text for source in plan.studies for text in source.unverified))

    def on_step(done: Done) -> None:
        took = "unchanged" if done.unchanged else f"{done.seconds:.1f} s"
        say(f"{done.step} ({took}): {done.found}.")

    work = out.with_name(f".{out.name}.build")
    with interruptible(lambda: goes_on("What was done is", work)), Bars() as bars:

        def on_epoch(stage: str, state: Any) -> None:
            bars(f"Training ({stage})", state.epochs, "epochs", done=state.epoch, figures=f"loss {state.loss:.3f}")

        Build(plan, folder, out, options.cache, options.mirror, on_epoch).run(wanted, on_step)
    if STEPS[-1] not in wanted:
        return
    say(f"Wrote {out}; annotate with: {annotate_command(out)}")
    if push:
        from spikgpt import sharing

        say_pushed(sharing.push(out, push, PushOptions(), hub=hub_of(hub)))
