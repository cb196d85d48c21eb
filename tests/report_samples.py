"""A realistic executed notebook and its results.json, for the tests of everything that shows a run."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ALT = "ROC curve of the small CNN on test patients; it rises steeply and encloses 0.94 of the area."
TEXT = """## Why the patient is the unit

Patches of one patient resemble each other more than patches of two patients. Let $x_i$ be a patch and $p(i)$ its patient;
a random split puts $p(i)$ on both sides, so that the test measures *memory*. See [Failures](#Failures-and-limits), the
[next notebook](02_autoencoder.ipynb) or [Varoquaux and Cheplygina](https://doi.org/10.1038/s41746-022-00592-y).

$$\\mathcal{L}(\\theta,\\phi;x) = \\mathbb{E}_{q_\\phi(z\\mid x)}\\left[\\log p_\\theta(x\\mid z)\\right]
- \\beta\\, D_{\\mathrm{KL}}\\left(q_\\phi(z\\mid x)\\,\\|\\,p(z)\\right), \\qquad \\bar{s} = \\frac{1}{n}\\sum_{i=1}^{n} s_i$$

| choice | taken on | rule |
|:--|:--|:--|
| threshold | validation patients | Youden's J |
| temperature | validation patients | log likelihood |

```python
def sensitivity(tp: int, fn: int) -> float:
    return tp / (tp + fn)  # of the diseased, how many were found
```

1. First, look at the data.
2. Then at the split, `audit(patches)`.

> A number without its interval is a rumour.
"""
EXERCISE = """### Exercise 1
What happens with a random split?

<details><summary>Solution</summary>

The balanced accuracy rises, although **nothing** was learned:

```python
random = assign_splits(patches, group="image")
```

</details>
"""


def png(width: int = 900, height: int = 420, seed: int = 0) -> str:
    """A picture with some structure, base64."""
    from PIL import Image

    grid = np.random.default_rng(seed).integers(60, 255, (height // 60, width // 60, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def curve() -> str:
    """A small vector figure as matplotlib writes it."""
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(4.2, 3.4), layout="constrained")
    rate = np.linspace(0, 1, 40)
    ax.plot(rate, rate**0.15, label="small CNN")
    ax.plot([0, 1], [0, 1], ls=":", color="0.5")
    ax.set(xlabel="false positive rate", ylabel="sensitivity")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    return buffer.getvalue().decode()


def display(data: dict[str, Any], metadata: dict[str, Any] | None = None) -> Any:
    """A displayed output."""
    return new_output("display_data", data=data, metadata=metadata or {})


def stream(name: str, text: str) -> Any:
    """A printed output."""
    return new_output("stream", name=name, text=text)


def code(source: str, *outputs: Any, count: int | None = 1, tags: tuple[str, ...] = ()) -> Any:
    """An executed code cell."""
    cell = new_code_cell(source, execution_count=count, outputs=list(outputs))
    cell.metadata["tags"] = list(tags)
    return cell


def frame_html() -> str:
    """A table as pandas writes it."""
    import pandas as pd

    names = ["tumour", "stroma", "lymphocytes", "mucus", "normal mucosa"]
    values = np.random.default_rng(1).uniform(0.5, 1, (5, 7)).round(3)
    columns = ["precision", "recall", "F1", "AUROC", "low", "high", "test patches"]
    return str(pd.DataFrame(values, index=names, columns=columns).to_html())


def sample_notebook(failing: bool = False) -> Any:
    """An executed notebook with everything a report has to show; ``failing`` ends it with an exception."""
    bars = "".join(f"\repoch 3: {p:3d}%|{'█' * (p // 10):10s}| {p}/100 [00:01<00:00]" for p in range(0, 101, 5))
    image = {"image/png": png(), "text/plain": "<Figure>"}
    described = {"image/png": {"alt": "Nine tissue classes, one example patch each, in two rows.", "width": 450}}
    cells = [
        new_markdown_cell(
            "# 06 · Patch classification\n\n**Question.** Which tissue does a patch show, in a patient nobody has seen?\n\n"
            "*Data* `phantom-crc` · *time* 2 min on two cores · not for clinical use"
        ),
        code("from medcore.reporting.run import Run\nfrom medcore import plots", count=1),
        code('data = "phantom-crc"  # a set\'s name or a path\nepochs = 10  # passes', count=2, tags=("parameters",)),
        code('# Parameters\ndata = "phantom-crc"\nepochs = 12', count=3, tags=("injected-parameters",)),
        code(
            'run = Run.start("06_patch_classification", globals())', stream("stdout", "device cpu, seed 0\n"), count=4
        ),
        new_markdown_cell(TEXT),
        code("plots.show(plots.examples(patches), alt=…)", display(image, described), count=5),
        new_markdown_cell("The classes differ in **texture** more than in colour, so a colour baseline should fail."),
        code("history = fit(model, objective, train, validation, config)", stream("stderr", bars + "\n"), count=6),
    ]
    if failing:
        trace = [
            "\x1b[0;31mRuntimeError\x1b[0m Traceback (most recent call last)",
            "Cell In[7], line 1",
            "RuntimeError: boom",
        ]
        failure = new_output("error", ename="RuntimeError", evalue="loss is not finite at epoch 3", traceback=trace)
        cells += [
            new_markdown_cell("## Test patients"),
            code("scores = predict(model, test)", failure, count=7),
            new_markdown_cell("Never reached."),
            code("plots.roc(scores)", count=None),
        ]
        return new_notebook(cells=cells)
    cells += [
        new_markdown_cell("## Test patients\n\n### Discrimination"),
        code(
            "plots.show(plots.roc(scores), alt=…)",
            display({"image/svg+xml": curve()}, {"image/svg+xml": {"alt": ALT, "caption": "ROC on test patients."}}),
            count=7,
        ),
        new_markdown_cell("The curve leaves the diagonal at once: few false alarms for most of the sensitivity."),
        code(
            "table", new_output("execute_result", data={"text/html": frame_html(), "text/plain": ""}, execution_count=8)
        ),
        new_markdown_cell("## Failures and limits\n\nMucus and adipose tissue are confused most often."),
        code("print(report)", stream("stdout", "\n".join(f"case {i}: {i * 7 % 13}" for i in range(70))), count=9),
        new_markdown_cell(EXERCISE),
        new_markdown_cell(
            "## References\n\n- Kather et al. 2019, [10.1371/journal.pmed.1002730](https://doi.org/10.1371/journal.pmed.1002730)"
        ),
    ]
    return new_notebook(cells=cells)


def estimate(name: str, value: float | None, low: float | None, high: float | None, **more: Any) -> dict[str, Any]:
    """One metric row of results.json."""
    row = {"name": name, "value": value, "low": low, "high": high, "n": 24, "unit": "patient", "split": "test"}
    return {**row, "level": 0.95, "method": "cluster bootstrap, 2000 resamples", "note": "", **more}


def sample_results(**changes: Any) -> Any:
    """Complete results of the sample notebook."""
    from medcore.reporting.results import checked

    splits = [
        {"split": name, "images": images, "patients": patients, "tumour": images // 9, "stroma": images // 7}
        for name, images, patients in (("train", 1620, 30), ("val", 540, 10), ("test", 540, 24))
    ]
    values: dict[str, Any] = {
        "title": "06 · Patch classification",
        "status": "ok",
        "summary": "On 24 test patients the small CNN names the tissue with a balanced accuracy of 0.83 (0.79–0.87), "
        "the colour histogram with 0.47 (0.43–0.52).",
        "parameters": {"data": "phantom-crc", "profile": "quick", "seed": 0, "epochs": 12, "lr": 2e-3, "weights": None},
        "changed": ["epochs"],
        "data": {
            "name": "phantom-crc", "title": "Colorectal tissue phantoms, nine classes", "classes": ["tumour", "stroma"],
            "abnormal": ["tumour"], "licence": "MIT", "citation": "medcore phantoms", "homepage": "https://example.org/crc",
            "pixel_size_um": 0.5, "group": "patient", "patients_known": True, "synthetic": True, "patients": 64,
            "conversions": {"EXIF rotation applied": 3}, "fingerprint": "9f2c41d07a6be0f3a1", "images": 2700,
            "excluded": [{"file": "a/b.png", "row": 17, "reason": "broken image"}], "shape": [64, 64, 3],
            "source": "phantom-crc", "splits": splits, "warnings": [],
        },
        "model": {"spec": {"family": "small_cnn", "args": {"classes": 9}}, "weights": 94217, "trained": "now, 12 epochs"},
        "metrics": [
            estimate("balanced_accuracy", 0.8312, 0.791, 0.8704),
            estimate("auroc", 0.9431, 0.921, 0.9612),
            estimate("ece", 0.041, 0.02, 0.062, unit="patch", n=540),
            estimate("sensitivity", None, None, None, note="no positive patient in this split"),
        ],
        "baselines": [
            estimate("balanced_accuracy", 0.1111, 0.1111, 0.1111, baseline="majority"),
            estimate("balanced_accuracy", 0.314, 0.27, 0.361, baseline="mean colour"),
            estimate("balanced_accuracy", 0.4712, 0.4301, 0.5214, baseline="colour histogram"),
            estimate("auroc", 0.77, 0.73, 0.81, baseline="colour histogram"),
        ],
        "audit": {
            "verdict": "passed", "passed": True,
            "findings": [{"finding": "near copies", "count": 2, "severity": "note", "message": "2 pairs on one side"}],
        },
        "differences": [estimate("balanced_accuracy_difference", 0.36, 0.31, 0.41, baseline="colour histogram")],
        "checklist": [
            {"question": "Data source?", "guidelines": ["CLAIM 2024"], "answered": True, "answer": "phantom-crc"},
            {"question": "Disjoint at patient level?", "guidelines": ["CLAIM 2024", "STARD-AI"], "answered": True, "answer": "yes, audited"},
            {"question": "Missing data?", "guidelines": ["TRIPOD+AI"], "answered": False, "answer": ""},
        ],
        "environment": {"medcore": "0.1.0", "commit": "de8fdd84ee", "python": "3.11.7", "device": "cpu", "packages": {"torch": "2.15.0"}},
        "command": "medcore reports 06 -p epochs=12",
        "warnings": ["Only 24 patients were tested."],
        "started": "2026-11-20T11:42:00+00:00",
        "seconds": 131.4,
        "peak_memory_bytes": 1_830_000_000,
    }  # fmt: skip
    return checked({"schema": "medcore.results/2", "notebook": "06_patch_classification"} | values | changes, "sample")
