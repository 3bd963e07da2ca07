"""A small Hugging Face Hub on this machine: ``python -m tests.hub_server`` starts it.

It lets users try push and pull without an account. Tests start it as :class:`LoopbackHub` and can make it fail.
"""

from tests.hub_server.server import Fault, LoopbackHub

__all__ = ["Fault", "LoopbackHub"]
