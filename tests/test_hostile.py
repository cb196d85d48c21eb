"""What a name from a file can do in a notebook: nothing. Names run, load and steer nothing, wherever they are shown."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from medcore.data.phantoms import make_crc
from medcore.reporting.environment import Anonymiser
from medcore.reporting.run import Run
from medcore.reporting.wording import escape_markdown, without_active_parts

HOSTILE = [
    "<script src=https://example.org/x.js></script>",
    "<img src=x onerror=window.pwned=1>",
    "![x](https://example.org/leak.png)",
    "[x](javascript:window.pwned=1)",
    "[x]: https://example.org",
    "\\[x](https://example.org)",
    "\\![x](https://example.org/leak.png)",
    "`<script>window.pwned=1</script>`",
    "`` ` ![x](https://example.org/leak.png) ` ``",
    "\\` ![x](https://example.org/leak.png) `",
    "a` ![x](https://example.org/leak.png)",
    "```\n<script>window.pwned=1</script>",
    "~~~html\n<b>\n~~~",
    "    <b>indented</b>",
    "$\\href{javascript:window.pwned=1}{x}$",
    "$$\\href{javascript:window.pwned=1}{x}$$",
    "\\(\\href{javascript:window.pwned=1}{x}\\)",
    "\\begin{matrix}\\href{javascript:window.pwned=1}{x}\\end{matrix}",
    "https://example.org/click",
    "www.example.org",
    "<https://example.org>",
    "&lt;script&gt;window.pwned=1&lt;/script&gt;",
    "&#60;script&#62;window.pwned=1",
    "<!-- <script>",
    "<svg onload=window.pwned=1>",
    "<details open ontoggle=window.pwned=1>",
    "<a href=//example.org>x</a>",
    "*_**__a",
    "| a |\n|--|\n| <b>x</b> |",
    "# heading\n- list",
    "\x1b[2J\x1b]0;title\x07",
    "> quote <iframe src=https://example.org>",
]
HARMLESS = {"p", "strong", "em", "code", "pre", "ul", "ol", "li", "h1", "blockquote", "br", "hr", "table", "thead",
            "tbody", "tr", "th", "td", "del", "div", "span"}  # fmt: skip


class Tags(HTMLParser):
    """Names of the elements of a fragment, its attributes that lead somewhere, and its text."""

    def __init__(self, fragment: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.words = ""
        self.feed(fragment)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [f"{name}={value}" for name, value in attrs if name not in ("class", "style", "start")]

    def handle_data(self, data: str) -> None:
        self.words += data


def rendered(markdown: str) -> list[Tags]:
    """By two renderers that let HTML through, as JupyterLab's does for what a kernel shows."""
    from markdown_it import MarkdownIt
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    mistune = MarkdownWithMath(renderer=IPythonRenderer(escape=False, exclude_anchor_links=True))
    gfm = MarkdownIt("gfm-like", {"html": True, "linkify": False})
    return [Tags(mistune.render(markdown)), Tags(gfm.render(markdown))]


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("frame", ["{}", "The set holds **{}** and `{}` more.", "- {}\n- {}", "`{} {}", "\\{}`{}`"])
def test_markdown_of_a_notebook_holds_nothing_active(hostile: str, frame: str) -> None:
    text = without_active_parts(frame.format(*[hostile] * 2))
    for page in rendered(text):
        assert page.tags <= HARMLESS and page.links == []
    assert "$" not in re.sub(r"`[^`]*`", "", text) and "\x1b" not in text


@pytest.mark.parametrize("hostile", HOSTILE)
def test_an_escaped_name_shows_its_very_characters(hostile: str) -> None:
    visible = " ".join(re.sub(r"[\x00-\x1f]", lambda c: " " if c[0] == "\n" else "", hostile).split())
    for page in rendered(f"Most are **{escape_markdown(hostile)}** here."):
        assert page.tags == {"p", "strong"} and page.words.strip() == f"Most are {visible} here."


def test_what_the_house_writes_keeps_its_meaning() -> None:
    text = "**AUROC 0.83** (95 % CI 0.79–0.87), *paired* `P < .001`; a < b & c.\n\n- one\n- two"
    for page in rendered(without_active_parts(text)):
        assert page.tags == {"p", "strong", "em", "code", "ul", "li"}
        assert "P < .001" in page.words and "a < b & c" in page.words


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_name_given_to_say_and_a_table_of_names_run_nothing(
    hostile: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MEDCORE_RUN_DIR", str(tmp_path))
    sent: list[dict] = []
    monkeypatch.setattr("medcore.reporting.run._display", lambda bundle, text: sent.append(bundle))
    run = Run.start("06_patch_classification", {})
    run.say("Named **{name}**, pasted " + hostile.replace("{", "(").replace("}", ")"), name=hostile)
    for page in rendered(sent[0]["text/markdown"]):
        assert page.tags <= HARMLESS and page.links == []
    frame = pd.DataFrame({hostile: [hostile]}, index=[hostile])
    table = Tags(frame._repr_html_())
    assert table.tags <= HARMLESS | {"div", "style"} and "tex2jax_ignore" in frame._repr_html_()


def test_nothing_tells_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLUSTER_TOKEN", "s3cr3t-of-mine")
    data = tmp_path / "DOE_JANE" / "images"
    data.mkdir(parents=True)
    hidden = Anonymiser({str(data): "images"})
    texts = {
        f"read {data}/a.png": "read images/a.png",
        f"{Path.home()}/x/y.py:3: UserWarning": "~/x/y.py:3: UserWarning",
        f"File {sys.prefix}/lib/torch/x.py": "File env/lib/torch/x.py",
        "see https://user:pw@host.org/a/b.git?token=abc&x=1": "see https://host.org/a/b.git?token=…&x=1",
        "said s3cr3t-of-mine.": "said ….",
        "opened /etc/passwd": "opened …/passwd",
        "a/b/c and 1/2 and </td></tr> or and/or": "a/b/c and 1/2 and </td></tr> or and/or",
        "https://doi.org/10.1000/xyz": "https://doi.org/10.1000/xyz",
    }
    assert {text: hidden.text(text) for text in texts} == texts
    nested = {"source": f"data = '{data}'", "data": {"image/png": "+/etc/passwd", str(data): [str(data), 3, None]}}
    assert hidden(nested) == {
        "source": "data = 'images'", "data": {"image/png": "+/etc/passwd", "images": ["images", 3, None]},
    }  # fmt: skip
    assert not re.search(re.escape(str(tmp_path)), json.dumps(hidden(nested)))


WITHOUT_NETWORK = """
import socket, sys
def refuse(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.gethostbyname"):
        address = args[-1] if event == "socket.connect" else args[0]
        if not (isinstance(address, (str, bytes)) and event == "socket.connect"):
            print("NETWORK", event, args, file=sys.stderr)
            raise OSError("no network in this test")
sys.addaudithook(refuse)
"""


def test_a_report_is_made_by_processes_that_may_open_no_socket(tmp_path: Path) -> None:
    """Runner, worker and kernel, all with an audit hook that refuses every address but files of this machine."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WITHOUT_NETWORK)
    places = {"MEDCORE_DATA": str(tmp_path / "data"), "MEDCORE_REPORTS": str(tmp_path / "reports")}
    path = os.pathsep.join([str(tmp_path / "site"), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    make_crc(patients=12, images_per_patient=12, size=32).save(tmp_path / "tiles.npz")
    command = [sys.executable, "-m", "medcore", "reports", "template.ipynb", "--data", str(tmp_path / "tiles.npz")]
    notebooks = Path(__file__).parents[1] / "notebooks"
    done = subprocess.run(
        command, cwd=notebooks, env=os.environ | places | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0 and "NETWORK" not in done.stdout + done.stderr, done.stdout + done.stderr
    (folder,) = (tmp_path / "reports").glob("*/template")
    for name in ("report.html", "notebook.ipynb", "results.json"):
        text = re.sub(r"data:image/[^\"]*", "", (folder / name).read_text(encoding="utf-8"))
        assert str(tmp_path) not in text and str(Path.home()) not in text and str(notebooks.parent) not in text


ENCODED = """
import numpy as np
from medcore.data.card import Card
from medcore.data.patchset import PatchSet
from medcore.evaluation.features import features
from medcore.models.classifier import build_classifier
encoder = build_classifier("timm:tf_efficientnet_lite0", 2, weights="imagenet")
images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
features(PatchSet.from_arrays(images, {"label": [0, 1, 0, 1]}, Card("t", classes=["a", "b"])), encoder)
import huggingface_hub
assert huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY
print("DONE")
"""


def test_a_pretrained_encoder_asks_nobody_and_tells_nobody(tmp_path: Path) -> None:
    """timm brings the client of a model hub: unless asked for weights, it opens no socket, and it never reports."""
    environment = os.environ | {"MEDCORE_DATA": str(tmp_path / "data"), "OMP_NUM_THREADS": "1"}
    environment = {name: value for name, value in environment.items() if not name.startswith("HF_")}
    command = [sys.executable, "-c", WITHOUT_NETWORK + ENCODED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.stdout.strip().endswith("DONE") and "NETWORK" not in done.stderr, done.stderr[-2000:]
