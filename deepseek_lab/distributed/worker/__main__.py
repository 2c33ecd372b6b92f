"""Start of a rank's process."""

from __future__ import annotations

import sys
from pathlib import Path

from deepseek_lab.distributed.channel import Connection
from deepseek_lab.distributed.worker.worker import Worker

if __name__ == "__main__":
    connection, rank, identity, parent = sys.argv[1:]
    Worker(Connection.read(Path(connection)), int(rank), identity.encode(), int(parent)).serve()
