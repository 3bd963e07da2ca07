"""HTTP requests to a running service: labels, formats, limits, and hostile uploads."""

from __future__ import annotations

import io
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from prometheus_client.parser import text_string_to_metric_families

from spikgpt import Annotation, SpikGPT
from tests.cli.conftest import Run
from tests.conftest import QUERY_FILE
from tests.service.conftest import CSV, PARQUET, Server, assert_labels, assert_refused, running


def table_of(adata: AnnData) -> pd.DataFrame:
    """Return the counts of cells as a table, with the additional column ``donor``."""
    table = pd.DataFrame(adata.X.toarray(), index=adata.obs_names, columns=adata.var_names)
    return table.assign(donor=adata.obs["donor"].astype(str))


def json_of(adata: AnnData) -> bytes:
    content = {
        "genes": list(adata.var_names),
        "cells": list(adata.obs_names),
        "counts": adata.X.toarray().tolist(),
        "obs": {"donor": adata.obs["donor"].astype(str).tolist()},
    }
    return json.dumps(content).encode()


def test_an_h5ad_file_gets_the_labels_of_annotate(served: Server, h5ad: bytes, expected: Annotation) -> None:
    response = served.annotate(h5ad, model="pancreas")
    assert_labels(response, expected)
    answer = response.json()
    assert answer["reference"] == {
        "name": "pancreas",
        "digest": expected.reference_digest,
        "origin": None,
    }
    assert expected.compatibility is not None
    assert answer["compatibility"] == expected.compatibility.kind
    assert answer["notes"] == expected.notes()
    assert answer["summary"] == expected.sentences()
    assert answer["counts"] == expected.counts()
    assert response.headers["SpikGPT-Digest"] == expected.reference_digest
    assert json.loads(response.headers["SpikGPT-Notes"]) == expected.notes()


def test_form_json_and_parquet_uploads_get_the_same_labels(
    served: Server, few: AnnData, h5ad: bytes, expected: Annotation, shipped: SpikGPT, tmp_path: Path
) -> None:
    form = served.client.post("/v1/annotate", files={"file": ("few.h5ad", h5ad)}, params={"model": "pancreas"})
    assert_labels(form, expected)
    # The tables have the genes of the reference only, to stay small.
    narrow = few[:, few.var_names.isin(shipped.reference.genes.symbols)].copy()
    narrow.write_h5ad(tmp_path / "narrow.h5ad")
    expected = shipped.annotate(tmp_path / "narrow.h5ad", progress=False)
    assert_labels(served.annotate((tmp_path / "narrow.h5ad").read_bytes(), model="pancreas"), expected)
    assert_labels(served.annotate(json_of(narrow), model="pancreas"), expected)
    parquet = io.BytesIO()
    table_of(narrow).to_parquet(parquet)
    assert_labels(served.annotate(parquet.getvalue(), model="pancreas"), expected)


def test_options_are_those_of_annotate(served: Server, few: AnnData, h5ad: bytes, shipped: SpikGPT) -> None:
    keywords = {"unknown_rate": 0.0, "smoothing": False, "scaling": "shift", "batch_key": None}
    expected = shipped.annotate(few.copy(), progress=False, **keywords)  # type: ignore[arg-type]
    parameters = {"unknown_rate": "0", "smoothing": "false", "scaling": "shift", "batch_key": ""}
    response = served.annotate(h5ad, model="pancreas", **parameters)
    assert [cell["label"] for cell in response.json()["cells"]] == expected.labels.tolist()
    assert {cell["ood_score"] for cell in response.json()["cells"]} == {None}


def test_each_request_names_its_reference(served: Server, h5ad: bytes, islets: Path, few: AnnData) -> None:
    expected = SpikGPT.from_pretrained(islets).annotate(few.copy(), progress=False)
    assert_labels(served.annotate(h5ad, model="islets"), expected)
    assert_refused(served.annotate(h5ad), 422, "ConfigError")
    message = assert_refused(served.annotate(h5ad, model="../islets"), 404, "ReferenceNotFound")
    assert "pancreas, islets" in message
    listed = served.client.get("/v1/references").json()["references"]
    assert [reference["name"] for reference in listed] == ["pancreas", "islets"]
    assert listed[1]["digest"] == expected.reference_digest
    assert [label["name"] for label in listed[1]["labels"]] == list(expected.label_names)


def test_tables_are_those_of_the_command_line(
    served: Server, h5ad: bytes, run: Run, tmp_path: Path, expected: Annotation
) -> None:
    (tmp_path / "few.h5ad").write_bytes(h5ad)
    for ending, accept in (("csv", CSV), ("parquet", f"{PARQUET};q=0.9, text/html")):
        path = tmp_path / f"labels.{ending}"
        assert run("annotate", tmp_path / "few.h5ad", "--model", "pancreas", "--table", path).code == 0
        response = served.annotate(h5ad, model="pancreas", accept=accept)
        assert response.status_code == 200
        assert response.headers["Content-Type"].startswith(accept.partition(";")[0])
        if ending == "csv":
            assert response.content == path.read_bytes()
        else:
            pd.testing.assert_frame_equal(pd.read_parquet(io.BytesIO(response.content)), pd.read_parquet(path))
        assert response.headers["SpikGPT-Digest"] == expected.reference_digest


def test_invalid_parameters_get_the_message_of_the_library(served: Server, h5ad: bytes) -> None:
    message = assert_refused(served.annotate(h5ad, model="pancreas", unknown_rat=0.1), 422, "ConfigError")
    assert "the options are model, layer, gene_key" in message
    assert "Did you mean 'unknown_rate'?" in message
    assert "progress" not in message
    message = assert_refused(served.annotate(h5ad, model="pancreas", unknown_rate=2), 422, "ConfigError")
    assert message == "unknown_rate is 2.0; expected a number of at least 0 and below 1."
    assert_refused(served.annotate(h5ad, model="pancreas", batch_key="none"), 422, "LabelsError")
    assert_refused(served.annotate(h5ad, model="pancreas", accept="image/png"), 406, "NotAcceptable")
    assert_refused(served.client.get("/v1/annotate"), 405, "MethodNotAllowed")
    assert_refused(served.client.get("/v2"), 404, "NotFound")


def test_hostile_uploads_are_refused_and_other_requests_succeed(
    served: Server, h5ad: bytes, expected: Annotation, foreign: AnnData, tmp_path: Path
) -> None:
    foreign_names = foreign.copy()
    foreign_names.var_names = [f"nothing{row}" for row in range(foreign.n_vars)]
    foreign_names.write_h5ad(tmp_path / "foreign.h5ad")
    random = np.random.default_rng(0)
    damaged = bytearray(h5ad)
    for index in random.integers(len(h5ad), size=2000):
        damaged[index] = random.integers(256)
    refused = {
        "no cells": (b"no cells at all", "DataError"),
        "empty": (b"", "BadRequest"),
        "cut short": (h5ad[: len(h5ad) // 2], "DataError"),
        "damaged": (bytes(damaged), "DataError"),
        "other genes": ((tmp_path / "foreign.h5ad").read_bytes(), "GenesError"),
        "JSON cut short": (b'{"genes": ["INS"], "counts": [[1', "DataError"),
        "nested": (b"[" * 100_000, "DataError"),
        "no table": (b'{"genes": ["INS"], "counts": [["x"]]}', "DataError"),
        "ragged": (b'{"genes": ["INS", "GCG"], "counts": [[1, 2], [1]]}', "DataError"),
        "few genes": (b'{"genes": ["INS", "GCG"], "counts": [[1, 2], [1, 3]]}', "GenesError"),
        "Parquet cut short": (b"PAR1" + b"\0" * 1000, "DataError"),
        "gzip": (b"\x1f\x8b" + b"\0" * 100, "Compressed"),
        "pickle": (b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x94\x85\x94R\x94.", "DataError"),
    }
    before = served.workers()
    for name, (content, kind) in refused.items():
        status = {"BadRequest": 400, "Compressed": 415}.get(kind, 422)
        message = assert_refused(served.annotate(content, model="pancreas"), status, kind)
        assert message, name
        if len(content) % 2:
            assert_labels(served.annotate(h5ad, model="pancreas"), expected)
    assert served.workers() == before
    assert served.metric("spikgpt_errors_total", kind="GenesError") >= 2


def test_uploads_beyond_the_limits_are_refused(
    served: Server, h5ad: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = assert_refused(served.annotate(QUERY_FILE.read_bytes(), model="pancreas"), 413, "TooManyCells")
    assert "756 cells; expected at most 500" in message
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with running("--max-bytes", len(h5ad), "--concurrent", 1) as server:
        assert server.annotate(h5ad).status_code == 200
        assert_refused(server.annotate(h5ad + b"1"), 413, "TooManyBytes")
        # An iterator is sent without the header Content-Length.
        assert_refused(server.client.post("/v1/annotate", content=iter([h5ad, b"1"])), 413, "TooManyBytes")
        assert_refused(server.client.post("/v1/annotate", files={"file": h5ad + b"1"}), 413, "TooManyBytes")
        assert_refused(server.client.post("/v1/annotate", files={"file": h5ad * 2}), 413, "TooManyBytes")
        assert_refused(server.client.post("/v1/annotate", files={"a": h5ad, "b": h5ad}), 413, "TooManyBytes")
        assert_refused(server.client.post("/v1/annotate", files={"a": b"1", "b": b"2"}), 400, "BadRequest")
        assert_refused(server.client.post("/v1/annotate", files={}, data={"a": "1"}), 422, "DataError")
        assert server.annotate(h5ad).status_code == 200
        (folder,) = tmp_path.glob("spikgpt-serve-*")
        server.wait_until(lambda: not list(folder.iterdir()))
    assert not folder.exists()


def test_eight_clients_at_once_get_their_labels(served: Server, h5ad: bytes, expected: Annotation) -> None:
    def post(_: int) -> httpx.Response:
        return httpx.post(f"{served.address}/v1/annotate?model=pancreas", content=h5ad, timeout=180)

    with ThreadPoolExecutor(8) as clients:
        for response in clients.map(post, range(8)):
            assert_labels(response, expected)
    assert served.metric("spikgpt_in_flight") == 0


def test_the_request_of_a_disconnected_client_is_dropped(served: Server, h5ad: bytes) -> None:
    host, port = served.address.removeprefix("http://").split(":")
    for part in (h5ad[:1000], h5ad):
        with socket.create_connection((host, int(port))) as connection:
            head = f"POST /v1/annotate?model=pancreas HTTP/1.1\r\nHost: here\r\nContent-Length: {len(h5ad)}\r\n\r\n"
            connection.sendall(head.encode() + part)
    served.wait_until(lambda: served.metric("spikgpt_in_flight") == 0)
    assert served.annotate(h5ad, model="pancreas").status_code == 200


def test_metrics_and_the_start_page_are_served(served: Server, h5ad: bytes) -> None:
    cells = served.metric("spikgpt_cells_total", reference="pancreas")
    answers = served.metric("spikgpt_requests_total", path="/v1/annotate", status="200")
    assert served.annotate(h5ad, model="pancreas").status_code == 200
    assert served.metric("spikgpt_cells_total", reference="pancreas") >= cells + 120
    assert served.metric("spikgpt_requests_total", path="/v1/annotate", status="200") >= answers + 1
    response = served.client.get("/metrics")
    families = {family.name: family.type for family in text_string_to_metric_families(response.text)}
    assert families["spikgpt_annotate_seconds"] == "histogram"
    assert families["spikgpt_in_flight"] == "gauge"
    assert served.metric("spikgpt_memory_bytes", process="workers") > served.metric(
        "spikgpt_memory_bytes", process="server"
    )
    page = served.client.get("/")
    assert page.headers["Content-Type"].startswith("text/plain")
    assert "pancreas, islets" in page.text
    assert served.client.get("/health").json() == {"status": "ready"}


@pytest.mark.slow
def test_memory_does_not_grow_with_requests(few: AnnData, tmp_path: Path) -> None:
    few[:5].copy().write_h5ad(tmp_path / "few.h5ad")
    upload = (tmp_path / "few.h5ad").read_bytes()
    with running("--concurrent", 1) as server:
        for number in range(120):
            assert server.annotate(upload).status_code == 200
            if number == 30:
                before = {name: server.metric("spikgpt_memory_bytes", process=name) for name in ("server", "workers")}
        for name, size in before.items():
            assert server.metric("spikgpt_memory_bytes", process=name) < size + 12e6, name
        assert server.metric("spikgpt_workers_replaced") == 0
