"""The process that executes one notebook: ``python -m medcore.reporting.worker`` with a job on standard input.

It tells on standard output which cell it has reached, one JSON line each; whatever the kernel prints past Jupyter goes
to ``kernel.log``. It ends when its parent ends: standard input is the lifeline.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from medcore.reporting.results import RUN_NOTEBOOK

LOG = "kernel.log"
GRACE = 30.0  # seconds from an interruption to the end by force


def serve() -> None:
    """Read the job, run it, leave ``notebook.ipynb`` with a verdict in its folder."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits it as ignored
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # jsonschema imports this for a format of web addresses that no notebook has, and it spends a second on a grammar
    sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]
    job = json.loads(sys.stdin.readline())
    tell = _take_standard_output(Path(job["folder"]) / LOG)
    threading.Thread(target=_follow_parent, daemon=True).start()
    execute(job, tell)


def execute(job: dict[str, Any], tell: Any) -> None:
    """Run one notebook through papermill with our engine.

    Args:
        job: ``notebook`` (path), ``parameters`` (validated), ``folder``, ``timeout`` (seconds or None).
    """
    from papermill import execute_notebook
    from papermill.exceptions import PapermillExecutionError

    from medcore.reporting import engine

    engine.register()
    try:
        execute_notebook(
            job["notebook"].replace("{", "{{").replace("}", "}}"),  # papermill formats paths
            None,
            parameters=job["parameters"],
            engine_name=engine.NAME,
            progress_bar=False,
            save_to=str(Path(job["folder"]) / RUN_NOTEBOOK),
            listen=tell,
            time_limit=job["timeout"],
        )
    except PapermillExecutionError:
        pass  # the engine has written it down


def _take_standard_output(log: Path) -> Any:
    """Keep standard output for ourselves and give the kernel, which inherits it, a file instead."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)

    def tell(event: dict[str, Any]) -> None:
        try:
            channel.write(json.dumps(event) + "\n")
        except (OSError, ValueError):
            return  # nobody listens any more; the lifeline ends this process

    return tell


def _follow_parent() -> None:
    """End with the parent: interrupt when it closes the lifeline, then leave by force."""
    while sys.stdin.readline():
        pass
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(GRACE)
    os._exit(1)


if __name__ == "__main__":
    serve()
