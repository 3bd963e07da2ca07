"""References by name: shipped, in a folder, or on the Hub."""

from __future__ import annotations

import re
import shutil
import warnings
import zlib
from pathlib import Path

import pytest

from spikgpt.errors import DamagedReference, SpikGPTWarning
from spikgpt.reference import registry
from spikgpt.reference.card import Card
from spikgpt.reference.files import read_reference
from spikgpt.reference.format import FILES, LAYOUT, MANIFEST, read_file
from spikgpt.reference.hub import Hub
from spikgpt.reference.hub_metadata import hub_licence
from spikgpt.reference.registry import namespace, resolve, shipped_references
from spikgpt.scoring.ontology import ontology
from spikgpt.sharing import verify
from tests.hub_server import LoopbackHub

MEGABYTE = 1_000_000
FORMAT_1 = Path(__file__).parents[1] / "data" / "format_1" / "counts"


def test_shipped_references_are_named_by_their_folders() -> None:
    assert "pancreas" in shipped_references()
    assert all((folder / "manifest.json").is_file() for folder in shipped_references().values())


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped_references())
def test_a_shipped_reference_is_verified(name: str) -> None:
    checks = verify(shipped_references()[name]).checks
    assert any("onnx/model.onnx equals the graph of the weights, byte for byte" in check for check in checks)


@pytest.mark.parametrize("name", shipped_references())
def test_the_card_of_a_shipped_reference_states_origin_licence_use_and_limits(name: str) -> None:
    reference = read_reference(shipped_references()[name])
    provenance, card = reference.provenance, Card.from_files(reference.files)
    assert reference.name == name
    assert hub_licence(provenance["licence"]) == (card.metadata["license"], card.metadata.get("license_name"))
    assert card.metadata["license"] not in ("other", "unknown")
    for field in ("source", "tissue", "organism"):
        assert provenance[field]
    assert f"Origin of the cells: {provenance['source']}\n" in card
    sections = dict(re.findall(r"(?m)^## (.+)\n+((?:(?!## ).*\n?)+)", card.body))
    assert all(len(sections[title].split()) > 8 for title in ("Intended use", "Limits"))
    for study in provenance["studies"]:
        assert all(study[field] for field in ("accession", "citation", "licence"))
        assert study["citation"] in sections["Studies"]


@pytest.mark.parametrize("name", shipped_references())
def test_the_labels_of_a_shipped_reference_are_terms_of_the_cell_ontology(name: str) -> None:
    labels = read_reference(shipped_references()[name]).labels
    # The ontology table has no obsolete terms, so no label may have one.
    unknown_terms = {
        label: term
        for label, term in zip(labels.names, labels.cell_ontology_ids, strict=True)
        if term not in ontology().names
    }
    assert unknown_terms == {}


def test_the_shipped_references_are_small() -> None:
    sizes = {
        # Sizes are those of compressed files, because a wheel is compressed.
        path.relative_to(folder.parent).as_posix(): len(zlib.compress(path.read_bytes()))
        for folder in shipped_references().values()
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert {name: size for name, size in sizes.items() if size >= 8 * MEGABYTE} == {}
    assert sum(sizes.values()) <= 20 * MEGABYTE


def test_the_namespace_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPIKGPT_NAMESPACE", raising=False)
    assert namespace() == "spikgpt"
    monkeypatch.setenv("SPIKGPT_NAMESPACE", "my-lab")
    assert namespace() == "my-lab"


def test_only_references_are_listed_from_the_cache(hub: LoopbackHub, client: Hub) -> None:
    files = {path.name: path.read_bytes() for path in FORMAT_1.iterdir()}
    commit = hub.put("islets/small", files)
    hub.put("cats/large", {"config.json": b"{}", "pytorch_model.bin": b"0"})
    wanted = (*FILES, MANIFEST)
    assert client.cached(wanted) == []
    for name in ("islets/small", "cats/large"):
        client.snapshot(name, None, LAYOUT, required=())
    assert [(entry.repository, entry.commit, entry.refs) for entry in client.cached(wanted)] == [
        ("islets/small", commit, ("main",))
    ]


def test_the_checked_files_are_read(hub: LoopbackHub, client: Hub) -> None:
    files = {path.name: path.read_bytes() for path in FORMAT_1.iterdir()}
    hub.put("islets/small", files)
    resolved = resolve("islets/small", hub=client)
    assert resolved.source == resolved.files == files
    # Damage the cached files, as another process may do between the check and the reading.
    for path in resolved.folder.iterdir():
        path.resolve().write_bytes(b"spoilt")
    assert read_reference(resolved.source, resolved.origin).name == "islets"


def test_a_cache_that_stays_damaged_is_named(hub: LoopbackHub, client: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {path.name: path.read_bytes() for path in FORMAT_1.iterdir()}
    hub.put("islets/small", files)

    def read_damaged(folder: Path, name: str) -> bytes:
        (folder / "labels.json").resolve().write_bytes(b"spoilt")
        return read_file(folder, name)

    monkeypatch.setattr(registry, "read_file", read_damaged)
    with pytest.raises(DamagedReference, match="islets/small is damaged in .* after each download"):
        resolve("islets/small", hub=client)


def test_a_warning_names_the_reference_that_an_ambiguous_name_means(
    hub: LoopbackHub, client: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("pancreas", "lab/islets"):
        shutil.copytree(FORMAT_1, folder)
    with pytest.warns(SpikGPTWarning, match="'pancreas' is the shipped reference; .* write ./pancreas for the folder"):
        assert resolve("pancreas").folder == shipped_references()["pancreas"]
    hub.put("lab/islets", {path.name: path.read_bytes() for path in FORMAT_1.iterdir()})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("./pancreas", "pancreas/", Path("pancreas"), "lab/islets"):
            assert resolve(name, hub=client).folder == Path(name)
        pulled = resolve("lab/islets@main", hub=client)
    assert pulled.origin
    with pytest.warns(SpikGPTWarning, match="'lab/islets' is the folder .* write lab/islets@main for the repository"):
        assert resolve("lab/islets", hub=client).folder == Path("lab/islets")


def test_a_folder_without_a_reference_does_not_hide_a_shipped_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pancreas").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve("pancreas").folder == shipped_references()["pancreas"]
