"""Several processes of one run, as torchrun starts them."""

import os
import resource
import socket
import subprocess

from tiny_models import BINARY


def start_ranks(count, *arguments, limit=None, own=None):
    """The verb and arguments of all, and those of single ranks in `own`; no file may grow beyond `limit` bytes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1"}
    return [subprocess.Popen([BINARY, *map(str, [*arguments, "--threads", 1, *(own or {}).get(rank, [])])], env={**environment, "RANK": str(rank)},
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, restore_signals=limit is None,
                             preexec_fn=limit and (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))) for rank in range(count)]


def finish(ranks):
    """What each printed."""
    said = [rank.communicate(timeout=120) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * len(ranks), [errors for _, errors in said]
    return [text for text, _ in said]
