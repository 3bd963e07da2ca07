"""Recipes: the strictly read ``recipe.yaml`` that describes a reference.

A recipe names the files of studies, maps their labels, and states the studies to train on, the studies to evaluate on,
and the figures of the paper. ``docs/guides/build.md`` explains a recipe.
"""

from __future__ import annotations

import hashlib
import os
import re
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml
from msgspec import Meta

from spikgpt.errors import ConfigError, SpikGPTError, listed
from spikgpt.options import Count
from spikgpt.reference.card import WithoutAliases
from spikgpt.reference.schema import Lines, Paper
from spikgpt.scoring.label_map import LabelMap
from spikgpt.scoring.ontology import ontology
from spikgpt_recipes.layouts import CellLayout, FileName, StudyFile, Tar, Zip, compile_pattern
from spikgpt_recipes.paths import check_file_name, path_within, read_regular_file

FILE = "recipe.yaml"
# Columns of obs of prepared cells.
LABEL, DONOR, STUDY, TERM = "cell_type", "donor", "study", "cell_ontology_id"
# Largest size of a recipe or a card in bytes.
LARGEST = 256 * 1024
# Largest length of a number in characters, and YAML types of numbers. "1:1:1:..." is read in quadratic time.
LONGEST_NUMBER, NUMBERS = 40, ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")

Name = Annotated[str, Meta(pattern=r"\A[\w.-]{1,100}\Z")]
Text = Annotated[str, Meta(min_length=1, max_length=2000)]
Term = Annotated[str, Meta(pattern=r"\ACL:\d{7}\Z")]
CardName = Annotated[str, Meta(pattern=r"\A[\w-]+\.md\Z")]
# Allowed values of columns of obs.
ObsFilter = dict[str, tuple[str, ...]]


class RecipeLabel(Lines, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The Cell Ontology term of a label, and a broader term; each with its name."""

    id: Term
    term: Text
    broad: Term
    broad_term: Text


class ExpectedCells(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Expected numbers of cells."""

    reference: Count
    query: Count | None = None


class RecipeStudy(Lines, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A study and its files.

    Parameters
    ----------
    labels
        Label of the reference for each label of the study; null leaves its cells out.
    patterns
        The same for labels that match a regular expression as a whole. A label that is in neither ``labels`` nor
        ``patterns`` is an error.
    label, donor
        Columns of obs, as the readers return them. A study without donors counts as one donor.
    keep
        Allowed values of obs columns; cells with other values are left out.
    round
        True if corrected counts are to be rounded to whole counts.
    """

    study: Name
    accession: FileName
    role: Literal["reference", "query"]
    page: Annotated[str, Meta(pattern=r"\Ahttps?://\S+\Z")]
    citation: Text
    licence: Text
    files: Annotated[tuple[StudyFile, ...], Meta(min_length=1)]
    labels: dict[str, str | None] = {}
    patterns: dict[str, str | None] = {}
    label: Text = LABEL
    donor: Text = DONOR
    keep: ObsFilter = {}
    cells: Count | None = None
    round: bool = False
    unverified: tuple[Text, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_file_name("study", self.study, ascii_only=False)
        check_file_name("accession", self.accession)
        if not self.labels and not self.patterns:
            msg = "labels is empty; expected the label of the reference for each label of the study"
            raise ValueError(msg)
        for pattern in self.patterns:
            compile_pattern(pattern)
        _check_unique("files", [file.name for file in self.files])
        if not any(isinstance(file.reader, CellLayout | Tar | Zip) for file in self.files):
            msg = "files lists no file with expression values; add one"
            raise ValueError(msg)

    def map_label(self, label: str) -> str | None:
        """Return the label of the reference for a label of the study; None leaves its cells out.

        Raises
        ------
        KeyError
            When the recipe has no entry for the label.
        """
        if label in self.labels:
            return self.labels[label]
        for pattern, name in self.patterns.items():
            if compile_pattern(pattern).fullmatch(label):
                return name
        raise KeyError(label)


class RecipeVariant(Lines, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Other cells of the same studies: study names with values of obs columns, such as donors.

    ``name`` is the name of the reference; by default that of the recipe. ``licence`` and ``left_out`` replace those of
    the recipe.
    """

    source: Text
    card: CardName
    licence: Text | None = None
    left_out: tuple[str, ...] | None = None
    reference: Annotated[dict[str, ObsFilter], Meta(min_length=1)]
    query: dict[str, ObsFilter] = {}
    cells: ExpectedCells | None = None
    name: Name | None = None


class CellFilter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Smallest numbers of genes and of counts that a cell needs."""

    minimum_genes: Annotated[int, Meta(ge=0, le=10**9)] = 0
    minimum_counts: Annotated[float, Meta(ge=0, le=1e15)] = 0


class BuildRecipe(Lines, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A recipe. Each label of ``left_out`` is left out of a reference in turn, to test the rejection of its cells."""

    name: Name
    source: Text
    licence: Text
    tissue: Text
    organism: Literal["Homo sapiens"]
    cells: ExpectedCells
    labels: Annotated[dict[str, RecipeLabel], Meta(min_length=2)]
    sources: Annotated[tuple[RecipeStudy, ...], Meta(min_length=1)]
    # Figures of the paper; None for recipes that the paper does not have.
    paper: Paper | None = None
    left_out: tuple[str, ...] = ()
    variants: dict[Name, RecipeVariant] = {}
    preprocessing: CellFilter = CellFilter()
    embedder: Literal["pca"] = "pca"
    training: Literal["default", "paper"] = "default"
    seed: Annotated[int, Meta(ge=0, lt=2**32)] = 0
    card: CardName = "card.md"
    unverified: tuple[Text, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        studies = [study.study for study in self.sources]
        _check_unique("sources", studies)
        if "reference" not in [study.role for study in self.sources]:
            msg = "sources has no study with the role reference"
            raise ValueError(msg)
        _check_files(self)
        _check_labels(self)
        for name, variant in self.variants.items():
            if unknown := sorted({*variant.reference, *variant.query} - set(studies)):
                msg = f"variants: {name} names the study {unknown[0]!r}; the sources are {listed(studies)}"
                raise ValueError(msg)


def recipe_folders() -> dict[str, Path]:
    """Return the folders of the shipped recipes by name."""
    # A wheel holds the recipes in spikgpt; in a clone they lie beside this package.
    installed = Path(str(files("spikgpt"))) / "resources" / "hub_cards"
    root = installed if installed.is_dir() else Path(__file__).parents[1]
    return {path.parent.name: path.parent for path in sorted(root.glob(f"*/{FILE}"))}


def find_recipe(name: str) -> Path:
    """Return the folder of a shipped recipe, or a folder that holds a ``recipe.yaml``.

    Raises
    ------
    ConfigError
        When neither exists.
    """
    shipped = recipe_folders()
    if name in shipped:
        return shipped[name]
    if not os.path.lexists(Path(name, FILE)):
        msg = f"There is no recipe {name!r}; choose {listed(shipped)}, or name a folder that holds a {FILE}."
        raise ConfigError(msg)
    return Path(name)


def find_build(name: str) -> tuple[Path, str | None]:
    """Return the folder of a recipe and the name of its variant, by the name of a recipe or of a variant's reference.

    Raises
    ------
    ConfigError
        When there is no such recipe.
    """
    shipped = recipe_folders()
    if name not in shipped and not os.path.lexists(Path(name, FILE)):
        for folder in shipped.values():
            for key, variant in read_recipe(folder).variants.items():
                if variant.name == name:
                    return folder, key
    return find_recipe(name), None


def read_recipe(folder: Path) -> BuildRecipe:
    """Return the recipe of a folder, and check that its cards and the files without an address exist.

    Raises
    ------
    ConfigError
        When a field is missing, unknown or invalid; the message names the field.
    """
    path, values = folder / FILE, None
    try:
        values = yaml.load(_read_text(folder, FILE), _StrictLoader)  # a subclass of SafeLoader
        recipe = msgspec.convert(values, BuildRecipe)
    except (yaml.YAMLError, RecursionError) as error:
        msg = f"{path} is no plain YAML: {' '.join(str(error).split())}"
        raise ConfigError(msg) from None
    except (ValueError, TypeError, SpikGPTError) as error:  # errors of dates, of keys, and of msgspec
        problem, _, field = str(error).rstrip(".").partition(" - at `$")
        msg = f"{path} is invalid: {problem}{_location(values, field.rstrip('`'))}. Correct that line."
        raise ConfigError(msg) from None
    for name in {recipe.card, *(variant.card for variant in recipe.variants.values())}:
        _read_text(folder, name)
    for file in (file for study in recipe.sources for file in study.files if file.url is None):
        own_file(folder, file)
    return recipe


def read_card(folder: Path, name: str) -> str:
    """Return the text of a card: the intended use and the limits of a reference."""
    return _read_text(folder, name).strip()


def own_file(folder: Path, file: StudyFile) -> Path:
    """Return the path of a file that lies in the folder of the recipe.

    Raises
    ------
    ConfigError
        When the file is missing, is no regular file, or differs from the sha256 in the recipe.
    """
    digest = hashlib.sha256(_read_bytes(folder, file.name)).hexdigest()
    if file.sha256 not in (None, digest):
        msg = f"{folder / file.name} has the sha256 {digest}; expected {file.sha256}. Correct the file or the recipe."
        raise ConfigError(msg)
    return folder / file.name


class _StrictLoader(WithoutAliases):
    """YAML loader that refuses repeated keys and long numbers."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Return a YAML value, and refuse a number of too many digits."""
        if node.tag in NUMBERS and len(node.value) > LONGEST_NUMBER:
            msg = f"a number of {len(node.value)} characters, line {node.start_mark.line + 1}"
            raise yaml.YAMLError(msg)
        return super().construct_object(node, deep)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        """Return a mapping, and refuse repeated keys."""
        seen = set()
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                msg = f"a key that is no text, line {line}"
                raise yaml.YAMLError(msg)
            if key.value in seen:
                msg = f"the repeated key {key.value!r}, line {line}"
                raise yaml.YAMLError(msg)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _check_unique(field: str, names: list[str]) -> None:
    """Refuse repeated names; some file systems ignore the case."""
    if len({name.casefold() for name in names}) < len(names):
        msg = f"{field} repeats a name: {listed(names)}"
        raise ValueError(msg)


def _check_files(recipe: BuildRecipe) -> None:
    """Refuse two files with one name: a mirror names files by accession and name."""
    seen: dict[tuple[str, str], StudyFile] = {}
    for study in recipe.sources:
        for file in study.files:
            first = seen.setdefault((study.accession.casefold(), file.name.casefold()), file)
            if (first.url, first.size, first.sha256) != (file.url, file.size, file.sha256):
                name = f"{study.accession}/{file.name}"
                msg = f"sources: {name} has two addresses, sizes or hashes: {first.url} and {file.url}; state it once"
                raise ValueError(msg)


def _check_labels(recipe: BuildRecipe) -> None:
    """Refuse invalid label names, terms that the Cell Ontology lacks, and labels that the recipe does not define."""
    LabelMap(tuple(recipe.labels), tuple(label.id for label in recipe.labels.values()))
    table = ontology()
    for name, label in recipe.labels.items():
        for key, term, stated in (("id", label.id, label.term), ("broad", label.broad, label.broad_term)):
            if table.names.get(term) != stated:
                actual = f"is {table.names[term]!r}" if term in table.names else "is no term"
                msg = f"labels: {name} has the {key} {term}, which {actual} in the Cell Ontology, not {stated!r}"
                raise ValueError(msg)
        if label.broad not in table.above(label.id):
            msg = f"labels: {name} has the broad {label.broad}, which is not above {label.id} in the Cell Ontology"
            raise ValueError(msg)
    for study in recipe.sources:
        for stated, mapped in (study.labels | study.patterns).items():
            if mapped is not None and mapped not in recipe.labels:
                msg = f"sources: {study.study} maps {stated!r} to {mapped!r}, which is not in labels"
                raise ValueError(msg)
    left_out = [*recipe.left_out, *(name for variant in recipe.variants.values() for name in variant.left_out or ())]
    if unknown := [name for name in left_out if name not in recipe.labels]:
        msg = f"left_out names {unknown[0]!r}, which is not in labels"
        raise ValueError(msg)


def _read_text(folder: Path, name: str) -> str:
    try:
        return _read_bytes(folder, name).decode()
    except UnicodeDecodeError as error:
        msg = f"{folder / name} cannot be read ({error}). Add the file to the recipe."
        raise ConfigError(msg) from None


def _read_bytes(folder: Path, name: str) -> bytes:
    """Return a file of the recipe; a link is refused, as it could publish another file of the user."""
    path = folder / name
    try:
        # Installers may link the shipped recipes.
        links = folder in recipe_folders().values()
        return read_regular_file(path if links else path_within(folder, name), LARGEST, links=links)
    except OSError as error:
        msg = f"{path} cannot be read ({error}). Add the file to the recipe."
        raise ConfigError(msg) from None


def _location(values: object, field: str) -> str:
    """Return the field of an error as text, with the name of the study that has the field."""
    if not field:
        return ""
    match = re.match(r"\.sources\[(\d+)\]", field)
    source = values["sources"][int(match[1])] if match and isinstance(values, dict) else None
    study = source.get("study") if isinstance(source, dict) else None
    return f", in {field.lstrip('.')}" + (f" (study {study})" if study else "")
