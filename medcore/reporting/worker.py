"""The process that executes one notebook: ``python -m medcore.reporting.worker`` with a job on standard input.

It tells on standard output which cell it has reached, one JSON line each; whatever the kernel prints past Jupyter goes
to ``kernel.log``. It ends when its parent ends: standard input is the lifeline.

On Linux one process imports what the notebooks import, once, and forks a worker for each; the worker forks its kernel
before it has threads. Kernel and worker are processes of their own as ever, with their own memory, status and signals.
"""

from __future__ import annotations

import ast
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import nbformat

from medcore.reporting.results import RUN_NOTEBOOK

LOG = "kernel.log"
GRACE = 30.0  # seconds from an interruption to the end by force
FORKS = sys.platform == "linux"  # elsewhere system libraries do not survive it
COMMAND = [sys.executable, "-m", "medcore.reporting.worker"]
OWN_IMPORTS = ("papermill.execute", "medcore.reporting.engine", "ipykernel.kernelapp", "ipykernel.ipkernel")
INLINE = "module://matplotlib_inline.backend_inline"  # what ipykernel chooses before matplotlib is imported
BEFORE_A_FORK = {"medcore", "torch", "numpy", "pandas", "scipy", "sklearn", "matplotlib", "seaborn"}  # start no thread
LARGEST = 1 << 16  # bytes of a request


class Workers:
    """Starts workers, each with the part of ``Popen`` that a runner uses.

    Args:
        environment: Variables of every worker.
        imports: Import statements of the notebooks, for the process that the workers are forked from.
    """

    def __init__(self, environment: Mapping[str, str], imports: Sequence[str] = ()) -> None:
        self.environment = os.environ | environment
        self.lock = threading.Lock()
        self.nest: subprocess.Popen[str] | None = None
        if FORKS:
            self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            words = [str(theirs.fileno()), "\n".join(imports)]
            self.nest = self._popen(words, {}, pipe=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
            theirs.close()

    def start(self, variables: Mapping[str, str]) -> Any:
        """A new worker with further environment variables."""
        if self.nest is not None:
            with suppress(OSError, ValueError):  # the nest could not import, or was killed: they start anew, slower
                return self._forked(variables)
        return self._popen([], variables)

    def _popen(
        self,
        words: list[str],
        variables: Mapping[str, str],
        *,
        pipe: int = subprocess.PIPE,
        pass_fds: Sequence[int] = (),
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMMAND, *words],
            stdin=pipe,
            stdout=pipe,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env={**self.environment, **variables},
            start_new_session=True,  # Ctrl-C reaches us first; we pass it on
            pass_fds=pass_fds,
        )

    def _forked(self, variables: Mapping[str, str]) -> ForkedWorker:
        (job, ours), (told, theirs) = os.pipe(), os.pipe()
        try:
            with self.lock:
                socket.send_fds(self.channel, [json.dumps(dict(variables)).encode()], [job, theirs])
                pid = int(self.channel.recv(LARGEST))
        except (OSError, ValueError):
            os.close(ours)
            os.close(told)
            raise
        finally:
            os.close(job)
            os.close(theirs)
        return ForkedWorker(
            pid, os.fdopen(ours, "w", encoding="utf-8"), os.fdopen(told, encoding="utf-8"), self.channel
        )

    def close(self) -> None:
        """End the process that the workers are forked from."""
        if self.nest is not None:
            self.channel.close()
            self.nest.kill()
            self.nest.wait()


class ForkedWorker:
    """A worker that is a child of the nest, which keeps its number from being given to another process."""

    def __init__(self, pid: int, stdin: IO[str], stdout: IO[str], channel: socket.socket) -> None:
        self.pid, self.stdin, self.stdout, self.channel = pid, stdin, stdout, channel

    def send_signal(self, number: int) -> None:
        """As ``Popen.send_signal``."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        """As ``Popen.kill``."""
        self.send_signal(signal.SIGKILL)

    def wait(self) -> None:
        """Its standard output has ended, and so has the worker; the nest may forget it."""
        with suppress(OSError):
            self.channel.send(str(self.pid).encode())


def imports_of(notebooks: Iterable[Path]) -> list[str]:
    """Import statements of notebooks, one a line, of libraries that may be imported before a fork."""
    found: dict[str, None] = {}
    for path in notebooks:
        for cell in nbformat.read(path, as_version=4).cells:
            with suppress(SyntaxError, ValueError):
                nodes = ast.parse(cell.source).body if cell.cell_type == "code" else []
                for node in nodes:
                    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                    names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                    if names and all(name.split(".")[0] in BEFORE_A_FORK for name in names):
                        found[ast.unparse(node)] = None
    return list(found)


def fork_workers(channel: socket.socket, imports: Sequence[str]) -> bool:
    """Import once, then fork a worker for each request; returns True in a worker, False when nobody asks any more."""
    os.environ.setdefault("MPLBACKEND", INLINE)
    for module in OWN_IMPORTS:
        importlib.import_module(module)
    for line in imports:
        with suppress(Exception):  # the notebook will say it
            exec(line, {})
    gc.freeze()  # memory that is never looked through stays shared
    ended: set[int] = set()
    while True:
        message, files, _, _ = socket.recv_fds(channel, LARGEST, 2)
        if not message:
            return False
        ended -= {pid for pid in ended if os.waitpid(pid, os.WNOHANG)[0]}
        if not files:
            ended.add(int(message))
            continue
        pid = os.fork()
        if not pid:
            channel.close()
            os.setsid()
            os.environ.update(json.loads(message))
        for number, file in enumerate(files):
            if not pid:
                os.dup2(file, number)
            os.close(file)
        if not pid:
            return True
        channel.send(str(pid).encode())


class SpareKernel:
    """A forked process that becomes the kernel when Jupyter starts one; the part of ``Popen`` that Jupyter uses.

    Args:
        channel: What this process must not keep open in the kernel.
    """

    stdin = stdout = stderr = None

    def __init__(self, channel: IO[str]) -> None:
        self.returncode: int | None = None
        job, self.told = os.pipe()
        self.pid = os.fork()
        with suppress(OSError):
            os.setpgid(self.pid, self.pid)  # on both sides: whoever comes first
        if not self.pid:
            os.close(self.told)
            channel.close()
            _become_kernel(job)
        os.close(job)

    def launch(self, command: list[str], **options: Any) -> Any:
        """In place of Jupyter's ``launch_kernel``: this process where the notebook's kernel is ours, and only once."""
        ours = command[:3] == [sys.executable, "-m", "ipykernel_launcher"]
        from jupyter_client.launcher import launch_kernel

        told, self.told = self.told, -1
        if told < 0 or not ours or self.poll() is not None:
            return launch_kernel(command, **options)
        with os.fdopen(told, "w", encoding="utf-8") as file:
            variables = {**options["env"], "JPY_PARENT_PID": str(os.getpid())}
            folder = str(options.get("cwd") or Path.cwd())
            file.write(json.dumps({"arguments": command[3:], "environment": variables, "folder": folder}))
        return self

    def poll(self) -> int | None:
        """As ``Popen.poll``."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self) -> int | None:
        """As ``Popen.wait``."""
        while self.poll() is None:
            time.sleep(0.02)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """As ``Popen.send_signal``."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """As ``Popen.kill``."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """As ``Popen.terminate``."""
        self.send_signal(signal.SIGTERM)


def _become_kernel(job: int) -> None:
    """Wait for the kernel's arguments, then be what ``python -m ipykernel_launcher`` is; never returns."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    with os.fdopen(job, encoding="utf-8") as file:
        told = file.read()
    if not told:
        os._exit(0)
    given = json.loads(told)
    os.environ.clear()
    os.environ.update(given["environment"])
    os.chdir(given["folder"])
    sys.modules.pop("rfc3987_syntax")
    if sys.path[0] in ("", str(Path.cwd())):
        del sys.path[0]
    sys.argv = ["ipykernel_launcher", *given["arguments"]]
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # no two kernels draw the same unless they say so
    from ipykernel.kernelapp import IPKernelApp

    IPKernelApp.launch_instance(parent_handle=os.getppid())  # read from the environment while importing
    sys.exit()


def serve(*, forked: bool = False) -> None:
    """Read the job, run it, leave ``notebook.ipynb`` with a verdict in its folder."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits it as ignored
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # jsonschema imports this for a format of web addresses that no notebook has, and it spends a second on a grammar
    sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]
    job = json.loads(sys.stdin.readline())
    channel = _take_standard_output(Path(job["folder"]) / LOG)
    if forked:
        from jupyter_client.provisioning import local_provisioner

        local_provisioner.launch_kernel = SpareKernel(channel).launch  # type: ignore[assignment]
    threading.Thread(target=_follow_parent, daemon=True).start()
    execute(job, channel)


def execute(job: dict[str, Any], channel: IO[str]) -> None:
    """Run one notebook through papermill with our engine.

    Args:
        job: ``notebook`` (path), ``parameters`` (validated), ``folder``, ``timeout`` (seconds or None).
        channel: Where to say which cell is reached.
    """
    from papermill import execute_notebook
    from papermill.exceptions import PapermillExecutionError

    from medcore.reporting import engine

    def tell(event: dict[str, Any]) -> None:
        with suppress(OSError, ValueError):  # nobody listens any more; the lifeline ends this process
            channel.write(json.dumps(event) + "\n")

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


def _take_standard_output(log: Path) -> IO[str]:
    """Keep standard output for ourselves and give the kernel, which inherits it, a file instead."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    return channel


def _follow_parent() -> None:
    """End with the parent: interrupt when it closes the lifeline, then leave by force."""
    while sys.stdin.readline():
        pass
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(GRACE)
    os._exit(1)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        serve()
    elif fork_workers(socket.socket(fileno=int(sys.argv[1])), sys.argv[2].splitlines()):
        sys.stdin = open(0, encoding="utf-8", closefd=False)
        serve(forked=True)
