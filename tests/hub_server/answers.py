"""HTTP answers of the loopback Hub, including invalid and slow answers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO


@dataclass(frozen=True)
class HubAnswer:
    """An HTTP answer of the loopback Hub.

    Parameters
    ----------
    repeat
        Number of times that the body is sent; the stated length is that of one body.
    wait
        Seconds before the answer begins.
    pause
        Seconds after each byte, of the headers too.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    repeat: int = 1
    wait: float = 0.0
    pause: float = 0.0

    def send(self, file: BinaryIO, *, head_only: bool = False) -> None:
        """Write the answer as HTTP."""
        lines = [f"HTTP/1.0 {self.status} Answer", *(f"{name}: {value}" for name, value in self.headers.items())]
        if self.wait:
            time.sleep(self.wait)
        self._write(file, "".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1", "replace"))
        for _ in range(0 if head_only else self.repeat):
            self._write(file, self.body)

    def _write(self, file: BinaryIO, content: bytes) -> None:
        if not self.pause:
            file.write(content)
            return
        for byte in content:
            file.write(bytes([byte]))
            file.flush()
            time.sleep(self.pause)
