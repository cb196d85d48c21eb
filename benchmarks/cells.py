"""Run the code cells of a notebook in plain Python: a machine with a GPU often has no Jupyter.

    MEDCORE_PROFILE=full python benchmarks/cells.py notebooks/06_patch_classification.ipynb

Jupyter's packages are hidden, also where they are installed, so that a run here tells what a bare machine would do.
Figures are drawn and closed, tables and sentences are printed; ``results.json`` is where the notebook leaves it.
"""

import html
import json
import os
import sys
import time
from pathlib import Path

HIDDEN = {"IPython", "ipykernel", "ipywidgets", "jupyter_client", "jupyter_core", "jupyterlab", "nbclient", "nbconvert",
          "nbformat", "papermill", "traitlets"}  # fmt: skip


def main(path: Path) -> None:
    """Run its cells in order, in one namespace, as a kernel in the notebook's folder would."""
    sys.modules |= dict.fromkeys(HIDDEN)  # for Python they are then not there
    os.environ["MPLBACKEND"] = "Agg"
    from medcore.reporting.cards import model_card

    model_card.card_page = lambda text: f"<pre>{html.escape(text)}</pre>"  # the real page is made by nbconvert
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    os.chdir(path.parent)
    namespace = {"__name__": "__main__"}
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            start, source = time.perf_counter(), "".join(cell["source"])
            exec(compile(source, f"{path.name}, cell {number}", "exec"), namespace)
            print(f"[{path.stem}, cell {number}: {time.perf_counter() - start:.1f} s]", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
