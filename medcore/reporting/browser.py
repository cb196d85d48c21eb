"""Find a headless Chromium and print pages with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from medcore.errors import MedcoreError

VARIABLE = "MEDCORE_BROWSER"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge", "microsoft-edge")
MAC = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
)
QUIET = (
    "--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--no-default-browser-check",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--metrics-recording-only", "--mute-audio",
)  # fmt: skip
SECONDS = 120.0


def find_browser() -> str | None:
    """Path of a Chromium-like browser: ``MEDCORE_BROWSER``, else the usual names; None when there is none."""
    named = os.environ.get(VARIABLE)
    if named:
        return shutil.which(named)
    found = next((path for path in map(shutil.which, NAMES) if path), None)
    return found or next((path for path in MAC if sys.platform == "darwin" and Path(path).exists()), None)


def flags(profile: Path) -> list[str]:
    """Options for a browser that shows nothing, keeps nothing and talks to nobody."""
    as_root = hasattr(os, "geteuid") and os.geteuid() == 0  # Chromium refuses its sandbox for root, as in containers
    return [*QUIET, f"--user-data-dir={profile}", *(["--no-sandbox"] if as_root else [])]


def print_pdf(page: Path, target: Path) -> Path:
    """Print an HTML file to PDF, atomically.

    Raises:
        MedcoreError: There is no browser, or it failed.
    """
    browser = find_browser()
    if browser is None:
        raise MedcoreError(f"no Chromium or Chrome found for the PDF: install one, or name it in {VARIABLE}")
    partial = target.with_name(f".{target.name}.partial")
    with tempfile.TemporaryDirectory(prefix="medcore-browser-", ignore_cleanup_errors=True) as profile:
        command = [browser, *flags(Path(profile)), "--no-pdf-header-footer", f"--print-to-pdf={partial.resolve()}"]
        try:
            done = subprocess.run(
                [*command, page.resolve().as_uri()], capture_output=True, text=True, timeout=SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise MedcoreError(f"{browser} did not print {page} within {SECONDS:.0f} s") from None
    if done.returncode or not partial.exists():
        raise MedcoreError(f"{browser} could not print {page}: {done.stderr.strip()[-300:]}")
    partial.replace(target)
    return target
