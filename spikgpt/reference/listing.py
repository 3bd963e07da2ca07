"""A list of all references: shipped with this package, in the cache, and on the Hub."""

from __future__ import annotations

from pathlib import Path

import msgspec

from spikgpt.errors import HubError, SpikGPTError, warn
from spikgpt.options import HubOptions, arguments_as, checked_keywords
from spikgpt.reference.format import FILES, MANIFEST, stored_files
from spikgpt.reference.hub import CachedCommit, Hub
from spikgpt.reference.registry import namespace, shipped_references
from spikgpt.reference.summary import CACHED, SHIPPED, ReferenceList, ReferenceSummary

MAIN = "main"


@checked_keywords
def list_references(
    *,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    endpoint: str | None = None,
    local_files_only: bool = False,
) -> ReferenceList:
    """List the references in this package, in the cache and on the Hub.

    Parameters
    ----------
    token
        Access token for the Hub; True for the token of ``hf auth login``, False for none.
    cache_dir
        Folder for downloads; None for the cache of huggingface_hub.
    endpoint
        Address of the Hub; None for ``HF_ENDPOINT``, or huggingface.co.
    local_files_only
        Leave out references on the Hub, and do not contact the Hub.

    Returns
    -------
    ReferenceList
        A tuple of summaries, which prints as a table. On the Hub, the references of the namespace in the environment
        variable ``SPIKGPT_NAMESPACE`` are listed.

    Warns
    -----
    SpikGPTWarning
        For each damaged reference, and if the Hub gives no list.
    """
    return reference_list(Hub.from_options(arguments_as(HubOptions, locals())))


def reference_list(hub: Hub) -> ReferenceList:
    """List references, as :func:`list_references` does, with the given client of the Hub."""
    summaries = [(folder, ReferenceSummary(name=name, source=SHIPPED)) for name, folder in shipped_references().items()]
    summaries += [
        (cached.folder, ReferenceSummary(name=_name_of(cached), source=CACHED, commit=cached.commit, refs=cached.refs))
        for cached in hub.cached((*FILES, MANIFEST))
    ]
    listed = []
    for folder, summary in summaries:
        try:
            listed.append(summary.with_files(stored_files(folder)))
        except SpikGPTError as error:
            listed.append(msgspec.structs.replace(summary, verified=False))
            warn(f"{summary.name} is damaged. {error}")
    try:
        listed += [
            ReferenceSummary.from_tags(repository.id, repository.tags) for repository in hub.references(namespace())
        ]
    except HubError as error:
        warn(f"References on the Hub are not listed. {error}")
    return ReferenceList(listed)


def _name_of(cached: CachedCommit) -> str:
    """Return the shortest name of a cached commit; a commit of the main branch needs no revision."""
    if MAIN in cached.refs:
        return cached.repository
    return f"{cached.repository}@{cached.refs[0] if cached.refs else cached.commit}"
