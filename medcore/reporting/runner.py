"""Turn an execution into a run's folder: true status into ``results.json``, the report, then the final name.

Run notebooks, each in a process of its own, and leave a report for every one, whatever became of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import nbformat

from medcore.data.parallel import thread_share
from medcore.data.source import data_home
from medcore.errors import MedcoreError
from medcore.reporting.body import write_body
from medcore.reporting.environment import Anonymiser, git_commit, gpu_for, kernel_environment
from medcore.reporting.figures import write_thumbnail
from medcore.reporting.folders import SUFFIXES, begin, give_name, refuse_foreign, sole_writer
from medcore.reporting.parameters import PROFILE_VARIABLE, SOURCES
from medcore.reporting.progress import ConsoleProgress
from medcore.reporting.report import body_page
from medcore.reporting.results import (
    REPORT,
    RUN_NOTEBOOK,
    Picture,
    Results,
    checked,
    headline_text,
    json_types,
    read_results,
    write_results,
)
from medcore.reporting.status import KEY, Outcome, Verdict, oom_kills, verdict_of
from medcore.reporting.worker import LOG, Workers, imports_of


def finish(
    notebook: Path, parameters: dict[str, Any], partial: Path, folder: Path, started: float, told: Verdict
) -> Outcome:
    """Write results and report of an execution and give the folder its name.

    What cannot be written (a full disk) keeps its partial name: the earlier run of that name stays as it was.

    Args:
        parameters: What it was started with.
        partial: Folder that the execution wrote to.
        told: What the execution said of its end; counts when its notebook could not be saved.
    """
    seconds = time.monotonic() - started
    verdict = told
    try:
        executed, verdict = _executed(notebook, partial, told)
        results = _results(notebook, parameters, partial, verdict, seconds, executed)
        hidden = Anonymiser(_places(partial, folder, parameters))
        executed, results = hidden(json_types(executed)), checked(hidden(results.as_dict()), str(folder))
        note = _write(partial, executed, results, notebook.stem)
        if verdict.status != "killed":
            (partial / LOG).unlink(missing_ok=True)
        give_name(partial, folder, good=verdict.status == "ok")
    except (OSError, MedcoreError) as error:
        kept = f"; the earlier report in {folder} is as it was" if folder.exists() else ""
        before = f"{verdict.error}; " if verdict.error else ""
        why = f"{before}the report could not be written ({error}); what there is stands in {partial}{kept}"
        status = verdict.status if verdict.status != "ok" else "raised"
        return Outcome(notebook, status, verdict.cell, why, seconds, None)
    return Outcome(notebook, verdict.status, verdict.cell, verdict.error, seconds, folder, headline_text(results), note)


def _write(partial: Path, executed: dict[str, Any], results: Results, name: str) -> str:
    """Write notebook, results, report and thumbnail; returns what must be said about it."""
    (partial / RUN_NOTEBOOK).write_text(nbformat.writes(nbformat.from_dict(executed)), encoding="utf-8")
    try:
        body = write_body(executed, unit=results.data.unit, listed=bool(results.parameters))
        if body.narrative.undescribed:
            results.warnings.append(f"Images without a description: {'; '.join(body.narrative.undescribed)}.")
        page = body_page(body, results, name)
    except OSError:
        raise
    except Exception as error:  # hours of training must not be lost to a page that cannot be drawn
        write_results(partial, results)
        return f"the report could not be drawn ({type(error).__name__}: {error}); notebook and results are there"
    results.picture = Picture(**write_thumbnail(executed, partial))
    write_results(partial, results)
    (partial / REPORT).write_text(page, encoding="utf-8")
    return ""


def _executed(source: Path, partial: Path, told: Verdict) -> tuple[dict[str, Any], Verdict]:
    """The executed notebook and its verdict; when its process died, what it had saved and where it was."""
    saved = partial / RUN_NOTEBOOK
    notebook = nbformat.read(saved if saved.exists() else source, as_version=4)
    if KEY not in notebook.metadata:
        notebook.metadata[KEY] = told.as_dict()
    verdict = verdict_of(notebook)
    if verdict.status == "killed" and (last := _last_line(partial / LOG)):
        verdict = Verdict("killed", verdict.cell, f"{verdict.error}; its last words: {last}")
        notebook.metadata[KEY]["error"] = verdict.error
    return notebook, verdict


def _last_line(log: Path) -> str:
    try:
        lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return ""
    said = [line for line in lines if line and not line.startswith(("[IPKernelApp]", "Traceback", "Input Notebook"))]
    return said[-1][:200] if said else ""


def _results(
    source: Path, parameters: dict[str, Any], partial: Path, verdict: Verdict, seconds: float, executed: dict[str, Any]
) -> Results:
    """The kernel's ``results.json`` with the true status; a small one of our own when the kernel left none."""
    try:
        results = read_results(partial)
    except MedcoreError:
        results = Results(notebook=source.stem, title=source.stem, parameters=parameters, changed=sorted(parameters))
    if verdict.status == "ok" and results.status != "ok":
        results.warnings.append("The notebook ended without run.finish(): its results are incomplete.")
    began = datetime.now(UTC) - timedelta(seconds=seconds)
    peak = executed["metadata"].get(KEY, {}).get("peak_memory_bytes", 0)
    updates = {
        "status": verdict.status,
        "cell": verdict.cell,
        "error": verdict.error,
        "seconds": round(seconds, 2),
        "started": results.started or began.isoformat(timespec="seconds"),
        "peak_memory_bytes": max(results.peak_memory_bytes, peak),
    }
    return results.model_copy(update=updates)


def _places(partial: Path, folder: Path, parameters: dict[str, Any]) -> dict[str, str]:
    """What stands in a report for the places that its run knows: its own folders, and where the data lie."""
    places = {str(partial): folder.name, str(folder): folder.name, str(folder.parent): ".", str(data_home()): "data"}
    given = [str(parameters[name]) for name in SOURCES if parameters.get(name)]
    return places | {path: Path(path).name for path in given if Path(path).is_absolute()}


RUN_FOLDER_VARIABLE = "MEDCORE_RUN_DIR"
# nothing telephones home; whoever sets one of these decides
OFFLINE = {"DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
QUIET = {"JUPYTER_PLATFORM_DIRS": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
OVERTIME = 120.0  # seconds after a notebook's own limit until its process is ended from outside


def run_notebooks(
    planned: Mapping[Path, dict[str, Any]],
    *,
    out: Path,
    jobs: int = 1,
    engine: str = "loky",
    timeout: float | None = None,
    pdf: bool = False,
    progress: bool = True,
) -> list[Outcome]:
    """Execute notebooks through papermill and write ``out/<stem>/report.html`` for each, then study and index.

    Args:
        planned: Notebook to its validated parameters.
        out: Folder that receives one folder per notebook.
        engine: As in ``run_jobs``; ``dask`` and ``ray`` work on a cluster that sees the same folders.
        timeout: Seconds that one notebook may take.
        pdf: Print every report to PDF too.
        progress: Show progress and one line per finished notebook.

    Raises:
        MedcoreError: The folder has another writer or cannot be written to; two notebooks have the same name; a folder
            that is no run of medcore stands where a report would.
    """
    _refuse(planned)
    out = out.resolve()
    with sole_writer(out):
        for path in planned:
            refuse_foreign(out / path.stem)
        jobs = max(1, min(jobs, len(planned)))
        shown = ConsoleProgress(jobs, progress)
        if engine == "loky":
            outcomes = _run_here(planned, out, jobs, thread_share(jobs), timeout, shown)
        else:
            outcomes = _run_elsewhere(planned, out, jobs, engine, timeout, shown)
        shown.ended.set()
        _write_overviews(out, pdf, outcomes, shown)
    return outcomes


def _run_here(
    planned: Mapping[Path, dict[str, Any]], out: Path, jobs: int, threads: int, timeout: float | None,
    progress: ConsoleProgress,
) -> list[Outcome]:  # fmt: skip
    quiet = {name: os.environ.get(name, value) for name, value in OFFLINE.items()} | QUIET
    with closing(Workers(kernel_environment(threads) | quiet, imports_of(planned))) as workers:
        return _Crew(out, jobs, timeout, workers, progress).run(planned)


def _run_elsewhere(
    planned: Mapping[Path, dict[str, Any]], out: Path, jobs: int, engine: str, timeout: float | None,
    progress: ConsoleProgress,
) -> list[Outcome]:  # fmt: skip
    """Each notebook as a job of its own; a worker runs it as it would run here."""
    from medcore.training.distributed import run_jobs

    calls = [(path.resolve(), values, out, thread_share(jobs), timeout) for path, values in planned.items()]
    outcomes: dict[int, Outcome] = {}
    for number, outcome in run_jobs(_run_alone, calls, jobs=jobs, engine=engine):
        outcomes[number] = outcome
        progress.done(0, outcome)
    return [outcomes[number] for number in range(len(calls))]


def _run_alone(call: tuple[Path, dict[str, Any], Path, int, float | None]) -> Outcome:
    path, values, out, threads, timeout = call
    return _run_here({path: values}, out, 1, threads, timeout, ConsoleProgress(1, False))[0]


def _refuse(planned: Mapping[Path, dict[str, Any]]) -> None:
    """Refuse what cannot have a folder of its own, and names that papermill would inject as code."""
    stems: dict[str, Path] = {}
    for path, parameters in planned.items():
        if path.stem in stems:
            raise MedcoreError(f"{stems[path.stem]} and {path} would both write to {path.stem!r}; rename one")
        if path.stem.endswith(SUFFIXES):
            raise MedcoreError(f"{path}: a notebook's name must not end in {', '.join(SUFFIXES)}; rename it")
        if not path.is_file():
            raise MedcoreError(f"notebook {path} does not exist")
        stems[path.stem] = path
        for name in parameters:
            if not str(name).isidentifier():
                raise MedcoreError(f"{path}: {name!r} is not a name for a parameter")


class _Crew:
    """The processes at work: what they share, and how all of them are told to stop."""

    def __init__(
        self, out: Path, jobs: int, timeout: float | None, workers: Workers, progress: ConsoleProgress
    ) -> None:
        self.out, self.jobs, self.timeout, self.progress = out, jobs, timeout, progress
        self.workers = workers
        self.stopping = threading.Event()
        self.processes: set[Any] = set()
        self.slots: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(jobs):
            self.slots.put(slot)

    def run(self, planned: Mapping[Path, dict[str, Any]]) -> list[Outcome]:
        """Run everything; an interruption ends the crew, not this function."""
        with _interruptions_to(self._stop), ThreadPoolExecutor(self.jobs) as pool:
            futures = [pool.submit(self._one, path, values) for path, values in planned.items()]
            return [future.result() for future in futures]

    def _stop(self) -> None:
        """First time: ask everybody to end and to save. Second time: end them."""
        again = self.stopping.is_set()
        self.stopping.set()
        self.progress.say("stopping now" if again else "interrupted: saving what there is (again to stop at once)")
        for process in list(self.processes):
            process.kill() if again else process.send_signal(signal.SIGINT)

    def _one(self, notebook: Path, parameters: dict[str, Any]) -> Outcome:
        slot = self.slots.get()
        started = time.monotonic()
        folder = self.out / notebook.stem
        try:
            if self.stopping.is_set():
                outcome = Outcome(notebook, "interrupted", None, "not started", 0.0, None)
            else:
                partial = begin(folder, _job(notebook, parameters), str(parameters.get("data") or ""))
                told = self._execute(notebook, parameters, partial, slot)
                outcome = finish(notebook, parameters, partial, folder, started, told)
        except (OSError, MedcoreError) as error:
            outcome = Outcome(notebook, "raised", None, f"{folder}: {error}", time.monotonic() - started, None)
        finally:
            self.slots.put(slot)
        self.progress.done(slot, outcome)
        return outcome

    def _execute(self, notebook: Path, parameters: dict[str, Any], partial: Path, slot: int) -> Verdict:
        """Run one worker to its end, telling the progress display where it is; returns what it said last."""
        kills = oom_kills()
        told = None
        cell = None
        job = {"notebook": str(notebook.resolve()), "parameters": parameters, "folder": str(partial)}
        process = self.workers.start(gpu_for(slot, self.jobs) | {RUN_FOLDER_VARIABLE: str(partial)})
        self.processes.add(process)
        limit = threading.Timer((self.timeout or 0) + OVERTIME, process.kill)
        if self.timeout:
            limit.start()
        try:
            with suppress(BrokenPipeError):
                process.stdin.write(json.dumps(job | {"timeout": self.timeout}) + "\n")
                process.stdin.flush()
            if self.stopping.is_set():
                process.send_signal(signal.SIGINT)
            for line in process.stdout:
                event = json.loads(line)
                if "verdict" in event:
                    told = Verdict(**event["verdict"])
                elif "text" in event:
                    self.progress.hear(slot, event["text"])
                else:
                    cell = event["cell"]
                    self.progress.step(slot, notebook.stem, event)
            process.wait()
        finally:
            limit.cancel()
            self.processes.discard(process)
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):
                    pipe.close()
        if self.stopping.is_set() and (told is None or told.status == "killed"):
            return Verdict("interrupted", cell, "interrupted from outside")
        memory = oom_kills() > kills
        why = "the system killed it for lack of memory" if memory else "the process that ran it was killed"
        return told or Verdict("out of memory" if memory else "killed", cell, why)


def _job(notebook: Path, parameters: dict[str, Any]) -> str:
    """What identifies a run: the same notebook, parameters and code go on from the same checkpoints."""
    facts = [parameters, os.environ.get(PROFILE_VARIABLE, ""), git_commit()]
    return hashlib.sha256(notebook.read_bytes() + json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


@contextmanager
def _interruptions_to(stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C, a scheduler's SIGTERM and a lost connection call ``stop``; only the main thread can receive signals."""
    named = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    here = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in named if here}
    caught = [number for number in before if before[number] is not signal.SIG_IGN]  # nohup, a shell's background
    for number in caught:
        signal.signal(number, lambda *_: stop())
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, before[number] or signal.SIG_DFL)


def _write_overviews(out: Path, pdf: bool, outcomes: list[Outcome], progress: ConsoleProgress) -> None:
    """Study, index and PDFs; what fails here is said, and costs no report."""
    from medcore.reporting.index import index_root, write_index, write_study

    with progress.complaining("the study report"):
        write_study(out)
    with progress.complaining("the index"):
        if index_root(out) != out:
            write_index(out)
        progress.say(f"index: {write_index(index_root(out))}")
    if pdf:
        from medcore.reporting.report import print_pdf
        from medcore.reporting.results import REPORT

        pages = [outcome.folder / REPORT for outcome in outcomes if outcome.folder]
        for page in [*pages, out / "study.html"]:
            if page.exists():
                with progress.complaining(f"the PDF of {page}"):
                    progress.say(f"PDF: {print_pdf(page, page.with_suffix('.pdf'))}")
