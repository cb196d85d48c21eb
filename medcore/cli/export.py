"""``medcore export``: the network of a model folder as ONNX or as a program of ``torch.export``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("export")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--to", "form", type=click.Choice(["onnx", "torch"]), default="onnx", show_default=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File [default: model.onnx or model.pt2].")
def command(folder: Path, form: str, out: Path | None) -> int:
    """Write the network of a model FOLDER for other programs, checked against PyTorch on random images."""
    from medcore.studies.validation.export import OPSET, export
    from medcore.studies.validation.models import load

    target = out or Path("model.onnx" if form == "onnx" else "model.pt2")
    if target.suffix != (".onnx" if form == "onnx" else ".pt2"):
        raise click.UsageError(f"--out {target}: the name must end in {'.onnx' if form == 'onnx' else '.pt2'}")
    gap = export(load(folder), target)
    what = f"opset {OPSET}, " if form == "onnx" else ""
    click.echo(f"{target}: {what}any batch of uint8 images (B, H, W, C); differs from PyTorch by at most {gap:.1g}")
    click.echo("not inside: reading files, tiles and turns, thresholds, familiarity; see the folder's MODEL_CARD.md")
    return 0
