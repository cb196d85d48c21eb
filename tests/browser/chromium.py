"""Drive headless Chromium by its DevTools protocol: enough to load a page, look at it, and ask axe about it.

No driver program is needed, only the browser; the network counts every address a page asks for.
"""

from __future__ import annotations

import base64
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import websocket

from medcore.reporting.report import find_browser, flags

AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"


class Tab:
    """One page of a running browser."""

    def __init__(self, address: str) -> None:
        self.socket = websocket.create_connection(address, timeout=60, suppress_origin=True)
        self.number = 0
        self.events: list[dict[str, Any]] = []
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command and wait for its answer; what happens meanwhile is kept in ``events``."""
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == self.number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return dict(message["result"])
            self.events.append(message)

    def wait_for(self, event: str) -> None:
        """Read until an event has happened."""
        while not any(message.get("method") == event for message in self.events):
            self.events.append(json.loads(self.socket.recv()))

    def open(
        self, page: Path, *, dark: bool = False, width: int = 1280, height: int = 900, phone: bool = False
    ) -> None:
        """Load a file in a given theme and window."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.events.clear()
        self.call("Page.navigate", url=page.resolve().as_uri())
        self.wait_for("Page.loadEventFired")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; promises are awaited."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"])[:800])
        return answer["result"].get("value")

    def requests(self) -> list[str]:
        """Every address asked for since the page was opened, the page and its embedded images left out."""
        sent = [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [url for url in sent[1:] if not url.startswith("data:")]

    def complaints(self) -> list[str]:
        """Console errors and warnings, uncaught exceptions, refused content."""
        texts = []
        for event in self.events:
            params = event.get("params", {})
            if event.get("method") == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                texts.append(params["entry"]["text"])
            if event.get("method") in (
                "Runtime.exceptionThrown",
                "Runtime.consoleAPICalled",
                "Page.javascriptDialogOpening",
            ):
                texts.append(json.dumps(params)[:300])
        return texts

    def axe(self) -> list[str]:
        """Violations that axe-core finds, one line each, with every fold of the page open."""
        self.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        self.evaluate(AXE.read_text(encoding="utf-8") + "; true")
        result = json.loads(self.evaluate("axe.run().then(r => JSON.stringify(r.violations))"))
        return [
            f"{v['id']}: {v['help']} at {[n['target'] for n in v['nodes'][:3]]} {v['nodes'][0]['failureSummary'][:200]}"
            for v in result
        ]

    def screenshot(self, target: Path, *, full: bool = False) -> Path:
        """A PNG of the window or of the whole page."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=full)["data"]
        target.write_bytes(base64.b64decode(data))
        return target


@contextmanager
def browser() -> Iterator[Tab]:
    """A headless browser with one empty page, closed and forgotten afterwards."""
    program = find_browser()
    assert program is not None
    with tempfile.TemporaryDirectory(prefix="medcore-chromium-", ignore_cleanup_errors=True) as profile:
        command = [program, *flags(Path(profile)), "--remote-debugging-port=0", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            tab = Tab(_page_address(process))
            yield tab
            tab.socket.close()
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _page_address(process: subprocess.Popen[str]) -> str:
    """Address of the first page's protocol socket, read from what the browser says at its start."""
    import urllib.request

    assert process.stderr is not None
    deadline = time.monotonic() + 60
    for line in process.stderr:
        if "DevTools listening on ws://" in line:
            host = line.split("ws://")[1].split("/")[0]
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                f"http://{host}/json/list"
            ) as answer:
                pages = [page for page in json.load(answer) if page["type"] == "page"]
            return str(pages[0]["webSocketDebuggerUrl"])
        if time.monotonic() > deadline:
            break
    raise RuntimeError("the browser did not start")
