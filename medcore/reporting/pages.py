"""Fill the templates of this folder: every value escaped, one style sheet inside the page, nothing from elsewhere."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from medcore import __version__
from medcore.reporting.outputs import CONTROL

TEMPLATES = Path(__file__).parent / "templates"
# End tags that HTML lets a writer leave out before these, and line ends that nobody sees; text is escaped, so no text
# can look like them.
OPTIONAL = re.compile(
    r"</t[dh]>(?=\s*(?:<t[dh][ >]|</tr>))|</tr>(?=\s*(?:<tr[ >]|</t(?:head|body)>))|</li>(?=\s*(?:<li[ >]|</[ou]l>))"
    r"|</tbody>(?=\s*</table>)|</d[td]>(?=\s*(?:<dd>|</div>))|</p>(?=\s*<(?:div|details|figure|h[1-6]|ol|p|pre|ul)[ >])"
)
BLOCKS = "article|div|dl|details|figure|h[1-6]|header|li|main|nav|ol|p|section|table|tbody|thead|tr|ul"
LINE_END = re.compile(rf"(</?(?:{BLOCKS})(?: [^<>]*)?>|</pre>)\n+")
APOSTROPHE = re.compile("&#39;|&#x27;")  # our attributes stand in double quotes


def render(template: str, **values: Any) -> str:
    """Fill a template; the result is one page that needs no other file and can be written as UTF-8."""
    page = str(_environment().get_template(template).render(style=style, version=__version__, **values))
    return lean(CONTROL.sub("", page)).encode("utf-8", "replace").decode("utf-8")


def lean(page: str) -> str:
    """The same page without end tags, escapes and line ends that a browser does not need."""
    return OPTIONAL.sub("", LINE_END.sub(r"\1", APOSTROPHE.sub("'", page)))


@cache
def style(name: str) -> Any:
    """A style sheet of ours, marked as safe to stand in a page."""
    from markupsafe import Markup

    sheet = (TEMPLATES / name).read_text(encoding="utf-8")
    return Markup(re.sub(r"\n+", "", sheet))


@cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
