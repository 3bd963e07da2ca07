"""The old name of the Hub server still works in a clone, with a warning."""

from __future__ import annotations

import pytest

from spikgpt.testing import hub
from tests.hub_server import LoopbackHub


def test_the_old_name_of_the_hub_server_warns() -> None:
    with pytest.warns(DeprecationWarning, match="tests.hub_server"):
        assert hub.LoopbackHub is LoopbackHub
