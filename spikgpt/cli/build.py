"""``spikgpt build``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spikgpt.cli.flags import command, hub_of
from spikgpt.cli.output import Bars, annotate_command, inform, interruptible, note, resume_hint
from spikgpt.cli.share import report_push
from spikgpt.errors import ConfigError
from spikgpt.files import check_target
from spikgpt.options import HubOptions, Options, PushOptions, about

if TYPE_CHECKING:
    from spikgpt_recipes.steps import StepReport


class BuildOptions(Options, frozen=True):
    """Input and steps of the build."""

    mirror: Annotated[str | None, about("Folder or web address that has the published files as ACCESSION/NAME.")] = None
    cache: Annotated[Path | None, about("Folder for downloaded files.")] = None
    steps: Annotated[str, about("Steps to run, with commas between them.")] = "download,prepare,train,evaluate,card"
    variant: Annotated[str | None, about("Variant of the recipe, such as shipped for the recipe pancreas.")] = None
    only: Annotated[list[str] | None, about("Study or accession to build from; repeatable. Default: all studies.")] = (
        None
    )
    synthetic: Annotated[
        bool, about("State in the reference and its card that the cells are simulated.", "--synthetic")
    ] = False


@command()
def build(
    recipe: Annotated[str, typer.Argument(help="Recipe, such as pancreas, or a folder with a recipe.yaml.")],
    options: BuildOptions,
    hub: Annotated[HubOptions, ("endpoint",)],
    out: Annotated[Path | None, typer.Option(help="Folder to write the reference to.")] = None,
    push: Annotated[str | None, typer.Option(help="Repository ORG/NAME on the Hub to upload the reference to.")] = None,
    show_card: Annotated[bool, typer.Option("--show-card", help="Show the card of the recipe and exit.")] = False,
) -> None:
    """Build a reference from published files. If the build is interrupted, run the command again to continue."""
    from spikgpt.reference.card import untrained_card
    from spikgpt.reference.hub import check_repository
    from spikgpt_recipes.plan import plan_build
    from spikgpt_recipes.recipe import find_build, read_card, read_recipe
    from spikgpt_recipes.steps import STEPS, Build, provenance_of

    folder, variant = find_build(recipe)
    plan = plan_build(
        read_recipe(folder), variant=options.variant or variant, only=options.only or (), synthetic=options.synthetic
    )
    if show_card:
        provenance = provenance_of(plan, read_card(folder, plan.card))
        typer.echo(untrained_card({"name": plan.name, "provenance": provenance}), nl=False)
        return
    if out is None:
        msg = "Name the folder to write the reference to: --out FOLDER."
        raise ConfigError(msg)
    check_target(out)
    steps = [step.strip() for step in options.steps.split(",") if step.strip()]
    if push:
        check_repository(push)
        if STEPS[-1] not in steps:
            msg = f"--push needs the step {STEPS[-1]}; add it: --steps {','.join([*steps, STEPS[-1]])}"
            raise ConfigError(msg)
    note(*plan.recipe.unverified, *(text for source in plan.studies for text in source.unverified))

    def on_step(report: StepReport) -> None:
        duration = "unchanged" if report.unchanged else f"{report.seconds:.1f} s"
        inform(f"{report.step} ({duration}): {report.summary}.")

    work = out.with_name(f".{out.name}.build")
    with interruptible(lambda: resume_hint("Finished steps are", work)), Bars() as bars:

        def on_epoch(stage: str, state: Any) -> None:
            bars(f"Training ({stage})", state.epochs, "epochs", done=state.epoch, figures=f"loss {state.loss:.3f}")

        Build(plan, folder, out, options.cache, options.mirror, on_epoch).run(steps, on_step)
    if STEPS[-1] not in steps:
        return
    inform(f"Wrote {out}; annotate with: {annotate_command(out)}")
    if push:
        from spikgpt import sharing

        report_push(sharing.push(out, push, PushOptions(), hub=hub_of(hub)))
