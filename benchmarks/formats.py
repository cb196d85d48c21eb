"""Inference in other formats, to judge them: bfloat16, torch.compile and int8 (x86, static) beside fp32, on a CPU.

    python benchmarks/formats.py            # two minutes, most of them compiling
    python benchmarks/formats.py --models small_cnn --images 16 --dry

The trunk alone, batch norms folded, on tensors in memory; int8 by torch's FX quantization, which is deprecated for
torchao. ``medcore predict`` stays at fp32: what a format changes in probabilities is not measured here.
"""

from __future__ import annotations

import argparse
import statistics
import warnings

import paths as ways
import torch
from results import interleaved, machine, record

from medcore.models.backbone import fold_batch_norm


def trunks(name: str, images: torch.Tensor) -> dict[str, ways.Epoch]:
    """The same trunk in each format, as runs over the images."""
    model = ways.make_model(name, images.shape[2])[0].eval().to(memory_format=torch.channels_last)
    fold_batch_norm(model)
    trunk = model.backbone
    compiled = torch.compile(trunk)
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    torch.backends.quantized.engine = "x86"
    watched = prepare_fx(trunk, get_default_qconfig_mapping("x86"), (images,))  # type: ignore[arg-type]
    watched(images)
    small = convert_fx(watched)

    def bf16(_: int) -> object:
        with torch.autocast("cpu", torch.bfloat16):
            return trunk(images)

    return {"fp32": lambda _: trunk(images), "bf16": bf16, "fp32, compiled": lambda _: compiled(images),
            "int8": lambda _: small(images)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["small_cnn", "resnet18"])
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--dry", action="store_true", help="print only, leave RESULTS.md alone")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    start, device, lines = machine(torch.device("cpu")), torch.device("cpu"), []
    for name in options.models:
        images = torch.rand(options.images, 3, 64, 64).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            rates = interleaved(trunks(name, images), options.images, 4, device, cpu_time=True)
        middle = {kind: statistics.median(values) for kind, values in rates.items()}
        lines = lines or ["| model | " + " | ".join(middle) + " |", "|---" * (len(middle) + 1) + "|"]
        cells = [f"{rate:,.0f} ({rate / middle['fp32']:.2f})" for rate in middle.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    if not options.dry:
        note = f"{start}; one thread, images a CPU second (ratio to fp32), median of 4 interleaved rounds;"
        record("Formats of inference, 64 px on cpu", note, lines)


if __name__ == "__main__":
    main()
