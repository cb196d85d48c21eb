"""What the leakage audit finds, kind by kind, and how many false pairs; beside pHash and the features of a CNN.

Run: ``python benchmarks/audit.py [FOLDER_OR_SET …] [--weights mobilenet_v2.pth] [--out benchmarks/AUDIT.md]``. Every
kind of copy of `medcore.data.audit.planted` is planted into each set, and the whole is audited once. The peers get the
threshold that is best for them: the loosest at which no pair of different patients' own images is called a copy.
"""

import argparse
import time
from pathlib import Path

import imagehash
import numpy as np
import pandas as pd
import torch
from PIL import Image
from torchvision.models import mobilenet_v2

from medcore.data.audit.audit import audit
from medcore.data.audit.hashing import apply_symmetry
from medcore.data.audit.planted import KINDS, MONTAGE, SHARES, plant
from medcore.data.card import Card
from medcore.data.load import read_set
from medcore.data.patchset import PatchSet
from medcore.data.phantoms.crc import make_crc
from medcore.data.splits import group_names


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


def with_copies(ps, copied, seed=0):
    """The set with copies of some images at its end, and the true pairs (row, row, kind)."""
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(ps), min(copied, len(ps)), replace=False)
    images, truth = plant(ps.take(rows), rng)
    place = [*rows, *range(len(ps), len(ps) + len(images) - len(rows))]
    everything = np.concatenate([ps.take(), images[len(rows) :]])
    patient = [*group_names(ps), *(f"planted {n}" for n in range(len(images) - len(rows)))]
    table = pd.DataFrame({"label": 0, "patient": patient, "source": [f"{n}.png" for n in range(len(everything))]})
    planted = PatchSet.from_arrays(everything, table, Card(name=ps.card.name, classes=["all"]))
    return planted, [(int(place[a]), int(place[b]), kind) for a, b, kind in truth]


def phash_distances(images):
    """Bits that differ, best of eight positions. **Shape** ``(N, N)``."""

    def bits(image):
        return imagehash.phash(Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)).hash.ravel()

    turned = np.array([[bits(apply_symmetry(image, k)) for k in range(8)] for image in images], np.float32) * 2 - 1
    return np.min([(64 - turned[:, 0] @ turned[:, k].T) / 2 for k in range(8)], axis=0)


def feature_distances(images, weights):
    """1 − cosine of pooled MobileNetV2 features, best of eight positions of one image. **Shape** ``(N, N)``."""
    network = mobilenet_v2()
    network.load_state_dict({k: v.float() for k, v in torch.load(weights, weights_only=True).items()}, strict=False)
    network.eval()

    def features(batch):
        pixels = torch.from_numpy(np.ascontiguousarray(batch)).permute(0, 3, 1, 2).float() / 255
        pixels = (pixels.expand(-1, 3, -1, -1) - 0.45) / 0.225
        pixels = torch.nn.functional.interpolate(pixels, size=(112, 112), mode="bilinear", antialias=True)
        return torch.nn.functional.normalize(network.features(pixels).mean(dim=(2, 3)), dim=1).numpy()

    with torch.inference_mode():
        upright = np.concatenate([features(images[i : i + 64]) for i in range(0, len(images), 64)])
        flips = [np.concatenate([features(images[i : i + 64, :, ::-1]) for i in range(0, len(images), 64)])]
    return 1 - np.max([upright @ other.T for other in (upright, *flips)], axis=0)


def loosest(distance, groups):
    """The largest distance below every pair of different patients. Equal images are no false pair."""
    other = distance[groups[:, None] != groups[None]]
    return float(np.min(other[other > 1e-6], initial=np.inf))


def measure(name, ps, copied, weights, most):
    """One row per kind: found by medcore, pHash and the features; false pairs and seconds."""
    ps = ps.select(np.sort(np.random.default_rng(1).choice(len(ps), min(most, len(ps)), replace=False)))
    planted, truth = with_copies(ps, copied)
    result = audit(planted, shortcuts=False)
    own = result.pairs[(result.pairs["b"] < len(ps)) & ~result.pairs["same_group"] & (result.pairs["kind"] != "named")]
    hit = set(zip(result.pairs["a"], result.pairs["b"], strict=True))
    images, groups = planted.take(), group_names(ps)
    found = {"medcore": np.array([(min(a, b), max(a, b)) in hit for a, b, _ in truth])}
    seconds = {"medcore": result.seconds}
    peers = {"pHash": phash_distances} | ({"CNN": lambda x: feature_distances(x, weights)} if weights else {})
    for peer, distances in peers.items():
        begun = time.perf_counter()
        distance = distances(images)
        limit = loosest(distance[: len(ps), : len(ps)], groups)
        found[peer] = np.array([distance[a, b] < limit for a, b, _ in truth])
        seconds[peer] = time.perf_counter() - begun
    table = pd.DataFrame({"kind": [kind for *_, kind in truth], **found}).groupby("kind").mean()
    head = {"set": name, "images": len(planted), "pairs of own images, other patient": len(own)}
    head |= {f"{method}, s": round(value, 1) for method, value in seconds.items()}
    print(head, flush=True)
    print(table.reindex([*KINDS, MONTAGE, *SHARES]).round(2).to_string(), flush=True)
    return head, table


def speed(counts):
    """Seconds for unrelated textures of 64 px, and the exponent between the first and the last count."""
    seconds = []
    for count in counts:
        begun, cpu = time.perf_counter(), time.process_time()
        result = audit(textures(count, seed=1))
        seconds.append((count, time.perf_counter() - begun, time.process_time() - cpu, len(result.pairs)))
        print(seconds[-1], flush=True)
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", help="real sets to measure on, besides the phantom and textures")
    parser.add_argument("--copied", type=int, default=24, help="images of each set that are copied in every way")
    parser.add_argument("--most", type=int, default=1000, help="images of each set")
    parser.add_argument("--weights", help="ImageNet weights of MobileNetV2 for the feature-based peer")
    parser.add_argument("--speed", type=int, nargs="*", default=[2000, 10_000], help="set sizes of the speed run")
    parser.add_argument("--out", type=Path, help="write a Markdown report here")
    args = parser.parse_args()
    sources = {"textures": lambda: textures(1000), "phantom-crc": lambda: make_crc(patients=25, images_per_patient=40)}
    sources |= {Path(source).stem: lambda source=source: read_set(source) for source in args.sets}
    parts = [measure(name, make(), args.copied, args.weights, args.most) for name, make in sources.items()]
    timing = speed(args.speed)
    if args.out:
        args.out.write_text(report(parts, timing), encoding="utf-8")


def markdown(frame):
    lines = ["| " + " | ".join(map(str, frame.columns)) + " |", "|" + "---|" * len(frame.columns)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in frame.to_numpy()])


def report(parts, timing):
    rows = []
    for kind in [*KINDS, MONTAGE, *SHARES]:
        row = {"kind": kind}
        for head, table in parts:
            if kind in table.index:
                row[head["set"]] = " / ".join(f"{100 * value:.0f}" for value in table.loc[kind])
            else:
                row[head["set"]] = "–"
        rows.append(row)
    methods = " / ".join(parts[0][1].columns)
    exponent = ""
    if len(timing) > 1:
        (n, _, first, _), (m, _, last, _) = timing[0], timing[-1]
        power = np.log(last / first) / np.log(m / n)
        exponent = f" Processor time grows with the {power:.2f}th power of the number of images: "
        exponent += f"{last * (1e5 / m) ** power:.0f} s for 100,000."
    lines = [
        f"{n:,} images: {wall:.0f} s, {cpu:.0f} s of them computing, {pairs} pairs." for n, wall, cpu, pairs in timing
    ]
    return "\n".join([
        "# What the leakage audit finds\n",
        "Made by `python benchmarks/audit.py`. Copies of every kind are planted into each set, which is then audited",
        "once. The peers (pHash of 64 bits, best of eight positions; cosine of MobileNetV2's features, upright or",
        "mirrored) get the loosest threshold at which no two images of different patients of the set match.\n",
        f"## Found, % ({methods})\n", markdown(pd.DataFrame(rows)),
        "\n## False pairs and time\n\nPairs among the set's own images of different patients: real copies, or false.\n",
        markdown(pd.DataFrame([head for head, _ in parts])),
        "\n## Speed\n\nUnrelated textures of 64 px, everything, one thread. " + " ".join(lines) + exponent,
    ]) + "\n"  # fmt: skip


if __name__ == "__main__":
    main()
