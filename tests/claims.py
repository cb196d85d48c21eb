"""The list of what the notebooks claim: what a run computes, and what the fixed text states of how often or how much.

Run: ``PYTHONPATH=tests python tests/claims.py > tests/CLAIMS.md``. Fixed text is judged by ``test_notebooks.claims``.
"""

import ast
import re
from pathlib import Path

from test_notebooks import GENERAL, NUMBERED, claims, sources

HEAD = """# What the notebooks claim

Made by `PYTHONPATH=tests python tests/claims.py > tests/CLAIMS.md`; in braces what a run computes. Fixed text that says
how often or how much is listed with the reason why it may stay; `test_notebooks.py` refuses any other.

| notebook | computed | fixed | open |
|---|---|---|---|"""


def computed(path: Path) -> list[str]:
    """Sentences with a value of the run in them, the value's code in braces."""
    found = []
    for source in sources(path, "code"):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else f"{{{ast.unparse(part.value)}}}"
                         for part in node.values if isinstance(part, ast.Constant | ast.FormattedValue)]  # fmt: skip
                found += re.split(r"(?<=[.?!])\s+(?=[A-Z*{])|\n\n", " ".join("".join(parts).split()))
    return [one for one in dict.fromkeys(found) if "{" in one and len(re.sub(r"\{.*?\}", "", one).split()) > 2]


def why(claim: str) -> str:
    """Why a fixed sentence may stay."""
    if any(general in claim for general in GENERAL):
        return "true of every set"
    return "cited" if re.search(r"\(.* (?:19|20)\d\d\)", claim) else "OPEN: compute it or remove it"


def main() -> None:
    """Print the list."""
    print(HEAD)
    fixed = {path: [one for text in sources(path, "markdown") for one in claims(text)] for path in NUMBERED}
    for path in NUMBERED:
        still = sum(why(one).startswith("OPEN") for one in fixed[path])
        print(f"| {path.stem} | {len(computed(path))} | {len(fixed[path])} | {still} |")
    for path in NUMBERED:
        print(f"\n## {path.stem}\n\nComputed:\n")
        print("\n".join(f"- {one}" for one in computed(path)) or "- none")
        if fixed[path]:
            print("\nFixed:\n\n" + "\n".join(f"- {one} *({why(one)})*" for one in fixed[path]))


if __name__ == "__main__":
    main()
