"""A small Hugging Face Hub on this machine: ``python -m tests.hub_server`` starts it.

Users can try push and pull without an account. Tests start the Hub as :class:`LoopbackHub` and can add faults.
"""

from tests.hub_server.server import Fault, LoopbackHub

__all__ = ["Fault", "LoopbackHub"]
