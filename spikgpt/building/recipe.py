"""What a reference is made of: ``recipe.yaml``, read strictly.

A recipe says which files of which studies are read, what their labels are called here, what is trained on and what is
asked, and what the paper reports. ``docs/guides/build.md`` goes through one.
"""

from __future__ import annotations

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
from spikgpt.sources.paths import check_file_name, path_within, read_regular_file
from spikgpt.sources.spec import Annotation, FileName, Part, SeriesMatrix, SourceFile, compiled

FILE = "recipe.yaml"
# Bytes of a recipe or a card at most.
LARGEST = 256 * 1024
# Characters of a number: to read "1:1:1:..." to base 60 takes the square of them.
LONGEST_NUMBER, NUMBERS = 40, ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")

Name = Annotated[str, Meta(pattern=r"\A[\w.-]{1,100}\Z")]
Text = Annotated[str, Meta(min_length=1, max_length=2000)]
Term = Annotated[str, Meta(pattern=r"\ACL:\d{7}\Z")]
# Values of columns of obs that a cell may have.
Where = dict[str, tuple[str, ...]]


class Label(Lines, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A label of the reference: its term of the Cell Ontology, and the broader one that it belongs to, with names."""

    id: Term
    term: Text
    broad: Term
    broad_term: Text


class Expected(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Cells that there should be."""

    reference: Count
    query: Count | None = None


class Source(Lines, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A study, and what its files say.

    ``label``, ``donor`` and the columns of ``keep`` are columns of obs as the readers make them. A study without
    donors counts as one. ``labels`` gives the study's labels the names that they have here, exactly, and ``patterns``
    by regular expressions for the whole label; null leaves cells out. A label that neither names is an error. ``round``
    makes whole counts of counts that were corrected.
    """

    study: Name
    accession: FileName
    role: Literal["reference", "query"]
    page: Annotated[str, Meta(pattern=r"\Ahttps?://\S+\Z")]
    citation: Text
    licence: Text
    files: Annotated[tuple[SourceFile, ...], Meta(min_length=1)]
    labels: dict[str, str | None] = {}
    patterns: dict[str, str | None] = {}
    label: Text = "cell_type"
    donor: Text = "donor"
    keep: Where = {}
    cells: Count | None = None
    round: bool = False
    unverified: tuple[Text, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_file_name("study", self.study, ascii_only=False)
        check_file_name("accession", self.accession)
        if not self.labels and not self.patterns:
            msg = "labels is empty; say what the labels of the study are called here"
            raise ValueError(msg)
        for pattern in self.patterns:
            compiled(pattern)
        names = [file.name for file in self.files]
        # Some file systems do not tell capitals from small letters.
        if len({name.casefold() for name in names}) < len(names):
            msg = f"files names one twice, of {listed(names)}"
            raise ValueError(msg)
        if all(isinstance(file.reader, Annotation | SeriesMatrix | Part) for file in self.files):
            msg = "files has none with expression values; at least one needs a reader of them"
            raise ValueError(msg)

    def named(self, label: str) -> str | None:
        """Return what a label of the study is called here, None for one that is left out.

        Raises
        ------
        KeyError
            When the recipe does not say.
        """
        if label in self.labels:
            return self.labels[label]
        for pattern, name in self.patterns.items():
            if compiled(pattern).fullmatch(label):
                return name
        raise KeyError(label)


class Variant(Lines, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Other cells of the same studies: which studies, and of each which values of columns such as donor."""

    source: Text
    card: Annotated[str, Meta(pattern=r"\A[\w-]+\.md\Z")]
    reference: Annotated[dict[str, Where], Meta(min_length=1)]
    query: dict[str, Where] = {}
    cells: Expected | None = None


class Preprocessing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which cells are good enough: those with so many genes, of so many counts."""

    minimum_genes: Annotated[int, Meta(ge=0, le=10**9)] = 0
    minimum_counts: Annotated[float, Meta(ge=0, le=1e15)] = 0


class Recipe(Lines, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A recipe. ``left_out`` are labels to leave out of a reference in turn, to see what becomes of their cells."""

    name: Name
    source: Text
    licence: Text
    tissue: Text
    organism: Literal["Homo sapiens"]
    paper: Paper
    cells: Expected
    labels: Annotated[dict[str, Label], Meta(min_length=2)]
    sources: Annotated[tuple[Source, ...], Meta(min_length=1)]
    left_out: tuple[str, ...] = ()
    variants: dict[Name, Variant] = {}
    preprocessing: Preprocessing = Preprocessing()
    embedder: Literal["pca"] = "pca"
    training: Literal["default", "paper"] = "default"
    seed: Annotated[int, Meta(ge=0, lt=2**32)] = 0
    card: Annotated[str, Meta(pattern=r"\A[\w-]+\.md\Z")] = "card.md"
    unverified: tuple[Text, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        studies = [source.study for source in self.sources]
        if len({study.casefold() for study in studies}) < len(studies):
            msg = f"sources names a study twice, of {listed(studies)}"
            raise ValueError(msg)
        if "reference" not in [source.role for source in self.sources]:
            msg = "sources has no study with the role reference"
            raise ValueError(msg)
        _check_files(self)
        _check_labels(self)
        for name, variant in self.variants.items():
            if strange := sorted({*variant.reference, *variant.query} - set(studies)):
                msg = f"variants: {name} names the study {strange[0]!r}; the sources are {listed(studies)}"
                raise ValueError(msg)

    def label_map(self) -> LabelMap:
        """Return the labels with their terms."""
        return LabelMap(tuple(self.labels), tuple(label.id for label in self.labels.values()))


def recipe_folders() -> dict[str, Path]:
    """Return the folders of the recipes that come with this library, by name."""
    inside = Path(str(files("spikgpt")))
    # In a clone they are beside the package.
    found = (root for root in (inside / "resources" / "hub_cards", inside.parent / "hub_cards") if root.is_dir())
    root = next(found, None)
    return {} if root is None else {path.parent.name: path.parent for path in sorted(root.glob(f"*/{FILE}"))}


def find_recipe(name: str) -> Path:
    """Return the folder of a recipe: one that comes with this library, else a folder with a ``recipe.yaml``.

    Raises
    ------
    ConfigError
        When there is none.
    """
    known = recipe_folders()
    if name in known:
        return known[name]
    if not os.path.lexists(Path(name, FILE)):
        msg = f"There is no recipe {name!r}; choose {listed(known)}, or name a folder that holds a {FILE}."
        raise ConfigError(msg)
    return Path(name)


def read_recipe(folder: Path) -> Recipe:
    """Read the recipe of a folder, and see that the cards that it names are there.

    Raises
    ------
    ConfigError
        When a field is missing, unknown, or not what it should be; the message names it.
    """
    path, values = folder / FILE, None
    try:
        values = yaml.load(_text(folder, FILE), _Once)  # a SafeLoader
        recipe = msgspec.convert(values, Recipe)
    except (yaml.YAMLError, RecursionError) as error:
        msg = f"{path} is no plain YAML: {' '.join(str(error).split())}"
        raise ConfigError(msg) from None
    except (ValueError, TypeError, SpikGPTError) as error:  # of dates, keys, and what msgspec refuses
        what, _, place = str(error).rstrip(".").partition(" - at `$")
        msg = f"{path} is not what it should be: {what}{_place(values, place.rstrip('`'))}. Mend that line."
        raise ConfigError(msg) from None
    for name in {recipe.card, *(variant.card for variant in recipe.variants.values())}:
        _text(folder, name)
    return recipe


def card_of(folder: Path, name: str) -> str:
    """Return the text of a card, what a reference is meant for and where its limits are."""
    return _text(folder, name).strip()


class _Once(WithoutAliases):
    """Reads YAML in which no key stands twice, and numbers have the size of numbers."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Construct a YAML value, and refuse a number of too many digits."""
        if node.tag in NUMBERS and len(node.value) > LONGEST_NUMBER:
            msg = f"a number of {len(node.value)} characters, line {node.start_mark.line + 1}"
            raise yaml.YAMLError(msg)
        return super().construct_object(node, deep)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        """Construct a mapping of which every key is another."""
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                msg = f"a key that is no text, line {key.start_mark.line + 1}"
                raise yaml.YAMLError(msg)
            if key.value in seen:
                msg = f"the key {key.value!r} stands there twice, line {key.start_mark.line + 1}"
                raise yaml.YAMLError(msg)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _check_files(recipe: Recipe) -> None:
    """Refuse two files by one name: a mirror has files by accession and name."""
    seen: dict[tuple[str, str], SourceFile] = {}
    for source in recipe.sources:
        for file in source.files:
            first = seen.setdefault((source.accession.casefold(), file.name.casefold()), file)
            if (first.url, first.size, first.sha256) != (file.url, file.size, file.sha256):
                name = f"{source.accession}/{file.name}"
                msg = f"sources: {name} has two addresses, sizes or hashes: {first.url} and {file.url}; state it once"
                raise ValueError(msg)


def _check_labels(recipe: Recipe) -> None:
    """Refuse labels that no reference can have, terms that are not in the Cell Ontology, and names of no label."""
    recipe.label_map()
    table = ontology()
    for name, label in recipe.labels.items():
        for key, wanted, stated in (("id", label.id, label.term), ("broad", label.broad, label.broad_term)):
            if table.names.get(wanted) != stated:
                found = f"is {table.names[wanted]!r}" if wanted in table.names else "is no term"
                msg = f"labels: {name} has the {key} {wanted}, which {found} in the Cell Ontology, not {stated!r}"
                raise ValueError(msg)
        if label.broad not in table.above(label.id):
            msg = f"labels: {name} has the broad {label.broad}, which is not above {label.id} in the Cell Ontology"
            raise ValueError(msg)
    for source in recipe.sources:
        for theirs, ours in (source.labels | source.patterns).items():
            if ours is not None and ours not in recipe.labels:
                msg = f"sources: {source.study} calls {theirs!r} {ours!r}, which is none of the labels"
                raise ValueError(msg)
    if strange := [name for name in recipe.left_out if name not in recipe.labels]:
        msg = f"left_out names {strange[0]!r}, which is none of the labels"
        raise ValueError(msg)


def _text(folder: Path, name: str) -> str:
    """Return the text of a file of a recipe; a stranger's link could lead to a file that must not be published."""
    path = folder / name
    try:
        # Installers may link the recipes that come with this library.
        links = folder in recipe_folders().values()
        return read_regular_file(path if links else path_within(folder, name), LARGEST, links=links).decode()
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path} cannot be read ({error}); a recipe needs it."
        raise ConfigError(msg) from None


def _place(values: object, place: str) -> str:
    """Say where in a recipe something stands, with the study that it is of."""
    if not place:
        return ""
    found = re.match(r"\.sources\[(\d+)\]", place)
    source = values["sources"][int(found[1])] if found and isinstance(values, dict) else None
    study = source.get("study") if isinstance(source, dict) else None
    return f", in {place.lstrip('.')}" + (f" (study {study})" if study else "")
