"""``jupyter nbconvert --to medcore out.ipynb``: an executed notebook as one offline HTML report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nbconvert.exporters.exporter import Exporter
from traitlets import Bool

from medcore.reporting.report import find_results, report_page


class ReportExporter(Exporter):
    """One HTML file without scripts, requests or fonts from elsewhere."""

    export_from_notebook = "medcore report"
    output_mimetype = "text/html"
    strict = Bool(False, help="Refuse to export a notebook that has images without a description.").tag(config=True)

    def _file_extension_default(self) -> str:
        return ".html"

    def from_notebook_node(self, nb: Any, resources: Any = None, **kw: Any) -> tuple[str, Any]:  # type: ignore[override]
        """Convert a notebook.

        Raises:
            MedcoreError: ``strict`` is set and an image has no description.
        """
        if kernel := nb.metadata.get("kernelspec"):  # ours carry no display name; nbconvert refuses that
            kernel.setdefault("display_name", kernel.get("name", "python3"))
        nb, resources = super().from_notebook_node(nb, resources, **kw)
        place = resources.get("metadata", {})
        results = find_results(nb, Path(place.get("path") or "."), str(place.get("name") or ""))
        return report_page(nb, results, name=str(place.get("name") or ""), strict=self.strict), resources
