"""The leak gate, measured: which planted copies the audit finds, how many false pairs, how fast; beside ImageHash.

Run: ``python benchmarks/audit.py [FOLDER_OR_SET …] [--out benchmarks/AUDIT.md]``. Without sets: phantoms and textures.
Each set is loaded as it is; every kind of copy is planted many times, and the whole set is audited once.
"""

import argparse
import io
import resource
import time
from pathlib import Path

import imagehash
import numpy as np
import pandas as pd
from PIL import Image

from medcore.data.audit.audit import audit
from medcore.data.audit.hashing import apply_symmetry
from medcore.data.audit.links import linked_groups
from medcore.data.card import Card
from medcore.data.load import read_set
from medcore.data.patchset import PatchSet
from medcore.data.phantoms.crc import make_crc
from medcore.data.splits import group_names

RESAMPLING = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS, Image.Resampling.BOX)


def picture(image):
    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)


def flip_or_turn(image, rng):
    return apply_symmetry(image, int(rng.integers(1, 8 if image.shape[0] == image.shape[1] else 4)))


def jpeg(image, rng, low=30, high=96):
    buffer = io.BytesIO()
    picture(image).save(buffer, "JPEG", quality=int(rng.integers(low, high)))
    return np.asarray(Image.open(buffer)).reshape(image.shape)


def resize(image, rng, low=0.5, high=2.0, how=None):
    factor = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    how = RESAMPLING[rng.integers(len(RESAMPLING))] if how is None else how
    height, width = image.shape[:2]
    there = picture(image).resize((max(1, round(width * factor)), max(1, round(height * factor))), how)
    return np.asarray(there.resize((width, height), how)).reshape(image.shape)


def brightness(image, rng):
    shift = int(rng.choice([-5, -4, -3, 3, 4, 5]))
    return np.clip(image.astype(int) + shift, 0, 255).astype(np.uint8)


KINDS = {
    "exact": lambda image, rng: image.copy(),
    "flipped or turned": flip_or_turn,
    "JPEG q30-95": jpeg,
    "JPEG q30": lambda image, rng: jpeg(image, rng, 30, 31),
    "resized 0.5-2x": resize,
    "halved": lambda image, rng: resize(image, rng, 0.5, 0.5),
    "halved, nearest": lambda image, rng: resize(image, rng, 0.5, 0.5, Image.Resampling.NEAREST),
    "brightness ±5": brightness,
    "turned, resized, JPEG": lambda image, rng: jpeg(resize(flip_or_turn(image, rng), rng), rng),
}
GATED = [kind for kind in KINDS if kind != "halved, nearest"]


def textures(count, seed=0, side=64):
    """Unrelated random textures with a natural spectrum, made in blocks by FFT."""
    rng = np.random.default_rng(seed)
    fy, fx = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    radius = np.maximum(np.hypot(fy, fx), 1 / side)
    images = np.empty((count, side, side, 3), np.uint8)
    for start in range(0, count, 2000):
        n = min(2000, count - start)
        slope = rng.uniform(0.8, 1.8, (n, 1, 1)).astype(np.float32)
        field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((n, side, side), np.float32)) * radius**-slope)
        field /= field.std(axis=(1, 2), keepdims=True)
        field = field * rng.uniform(10, 35, (n, 1, 1)) + rng.uniform(100, 200, (n, 1, 1))
        colour = field[..., None] * rng.uniform(0.8, 1.2, (n, 1, 1, 3)) + rng.normal(0, 2, field.shape)[..., None]
        images[start : start + n] = np.clip(colour, 0, 255)
    table = pd.DataFrame({"label": np.zeros(count, int), "patient": [f"P{n}" for n in range(count)]})
    return PatchSet.from_arrays(images, table, Card(name="textures", classes=["texture"]))


def plant(ps, per_kind, seed=0):
    """The set with copies at its end; returns it with the true (original, copy, kind) rows."""
    rng = np.random.default_rng(seed)
    per_kind = min(per_kind, len(ps))
    rows, copies, kinds = [], [], []
    for kind, make in KINDS.items():
        for row in rng.choice(len(ps), per_kind, replace=False):
            rows.append(int(row))
            copies.append(make(ps.take([row])[0], rng))
            kinds.append(kind)
    images = np.concatenate([ps.take(), np.stack(copies)])
    names = [*group_names(ps), *(f"copy {n}" for n in range(len(rows)))]
    table = pd.DataFrame({"label": [0] * len(images), "patient": names})
    table["source"] = [f"{n}.png" for n in range(len(images))]
    planted = PatchSet.from_arrays(images, table, Card(name=ps.card.name, classes=["all"]))
    truth = pd.DataFrame({"original": rows, "copy": np.arange(len(rows)) + len(ps), "kind": kinds})
    return planted, truth


def measure(name, ps, per_kind):
    """Recall per kind, and pairs that were not planted, between and within patients."""
    before = audit(ps, shortcuts=False)
    own = before.pairs[(before.pairs["kind"] != "named")]
    planted, truth = plant(ps, per_kind)
    result = audit(planted, shortcuts=False)
    # Equal images are linked through the first of them, so a copy of an image that the set holds twice counts as
    # found when it is linked to either.
    exact = result.pairs[result.pairs["kind"] == "exact"]
    first = linked_groups(np.arange(len(planted)).astype(str), exact).astype(int)
    found = {tuple(sorted(pair)) for pair in zip(first[result.pairs["a"]], first[result.pairs["b"]], strict=True)}
    ends = zip(first[truth["original"]], first[truth["copy"]], strict=True)
    truth["hit"] = [one == other or tuple(sorted((one, other))) in found for one, other in ends]
    flat = np.zeros(len(ps), bool)
    for finding in before.findings:
        if finding.kind == "images too flat to compare":
            flat[finding.rows] = True
    truth["flat"] = flat[truth["original"]]
    recall = truth.groupby("kind")["hit"].mean()[list(KINDS)]
    detailed = truth[~truth["flat"]].groupby("kind")["hit"].mean()[list(KINDS)]
    gated = truth[truth["kind"].isin(GATED) & (truth["kind"] != "exact")]
    row = {
        "set": name, "images": len(ps), "side": ps.shape[0], "flat": f"{flat.mean():.1%}",
        **{kind: f"{recall[kind]:.1%}" for kind in KINDS},
        "all but exact": f"{gated['hit'].mean():.2%}",
        "same, without flat": f"{gated[~gated['flat']]['hit'].mean():.2%}",
        "own pairs, other patient": f"{int((~own['same_group']).sum())} ({int((own['kind'] == 'exact').sum())} exact)",
        "own pairs, same patient": int(own["same_group"].sum()),
    }  # fmt: skip
    print(name, {key: value for key, value in row.items() if key != "set"}, flush=True)
    assert detailed["exact"] == 1.0
    return row


def compare_with_imagehash(name, ps, count=1500, per_kind=60):
    """Recall of pHash (64 bits, best of eight positions) at the largest distance without a false pair.

    Pairs of one patient, and pairs with equal pixels, do not count as false.
    """
    ps = ps.select(np.arange(min(count, len(ps))))
    planted, truth = plant(ps, per_kind)
    begun = time.perf_counter()
    turned = [
        [imagehash.phash(picture(apply_symmetry(one, k))).hash.ravel() for k in range(8)] for one in planted.take()
    ]
    bits = np.array(turned, dtype=np.float32) * 2 - 1
    slow = 1e3 * (time.perf_counter() - begun) / len(planted)
    own, groups, pixels = bits[: len(ps)], group_names(ps), ps.take().reshape(len(ps), -1)
    distance = np.min([(64 - own[:, 0] @ own[:, k].T) / 2 for k in range(8)], axis=0)
    distance[groups[:, None] == groups[None]] = 99
    for a, b in np.argwhere(distance == 0):
        distance[a, b] = 99 if np.array_equal(pixels[a], pixels[b]) else 0
    limit = int(distance.min()) - 1
    originals, copies = truth["original"].to_numpy(), truth["copy"].to_numpy()
    apart = np.min([(64 - (bits[originals, 0] * bits[copies, k]).sum(axis=1)) / 2 for k in range(8)], axis=0)
    result = audit(planted, shortcuts=False)
    found = set(zip(result.pairs["a"], result.pairs["b"], strict=True))
    hits = {
        "pHash": apart <= limit,
        "medcore": np.array([pair in found for pair in zip(originals, copies, strict=True)]),
    }
    kinds = {"gated": truth["kind"].isin(GATED), "halved, nearest": truth["kind"] == "halved, nearest"}
    row = {"set": name, "images": len(ps), "pHash limit, bits": limit, "pHash ms": f"{slow:.1f}"}
    row["medcore ms"] = f"{1e3 * result.seconds / len(planted):.1f}"
    for how, hit in hits.items():
        row |= {f"{how}, {kind}": f"{hit[of.to_numpy()].mean():.1%}" for kind, of in kinds.items()}
    print(row, flush=True)
    return row


def speed(count):
    ps = textures(count, seed=1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = audit(ps, shortcuts=True)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6
    print(f"{count:,} images of 64 px: {result.seconds:.1f} s, {len(result.pairs)} pairs, {grown:.1f} GB more memory")
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", help="real sets to measure on, besides phantoms and textures")
    parser.add_argument("--per-kind", type=int, default=500, help="copies planted of each kind")
    parser.add_argument("--patients", type=int, default=125, help="patients of phantom-crc, 80 images each")
    parser.add_argument("--speed", type=int, default=100_000, help="images of the speed run; 0 leaves it out")
    parser.add_argument("--out", type=Path, help="write a Markdown report here")
    args = parser.parse_args()
    phantom = make_crc(patients=args.patients, images_per_patient=80)
    rows = [measure("phantom-crc", phantom, args.per_kind), measure("textures", textures(10_000), args.per_kind)]
    beside = [compare_with_imagehash("phantom-crc", phantom)]
    for source in args.sets:
        rows.append(measure(Path(source).stem, read_set(source), args.per_kind))
        beside.append(compare_with_imagehash(Path(source).stem, read_set(source)))
    timing = speed(args.speed) if args.speed else None
    if args.out:
        args.out.write_text(report(rows, beside, timing, args.speed), encoding="utf-8")


def markdown(frame):
    lines = ["| " + " | ".join(map(str, frame.columns)) + " |", "|" + "---|" * len(frame.columns)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in frame.to_numpy()])


def report(rows, beside, timing, count):
    parts = [
        "# What the leakage audit finds\n",
        "Made by `python benchmarks/audit.py`; see there for how copies are planted. Recall is over all planted",
        "copies, those of images too flat to compare included. 'Own pairs' are pairs the audit reports in the",
        "untouched set: between patients they are false alarms, or real copies where the set has them.\n",
        markdown(pd.DataFrame(rows).set_index("set").T.reset_index(names="")),
        "\n## Beside ImageHash\n\npHash of 64 bits in eight positions, at the largest distance without a false pair",
        "between patients. 'Gated' are all kinds above but nearest-neighbour halving.\n",
        markdown(pd.DataFrame(beside)),
    ]
    if timing is not None:
        facts = f"{count:,} unrelated images of 64 px, everything: {timing.seconds:.0f} s, {len(timing.pairs)} pairs."
        parts.append(f"\n## Speed\n\n{facts}")
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
