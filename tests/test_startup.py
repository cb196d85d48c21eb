"""What starts quickly: no command and no notebook loads a library before it needs it.

Seconds are measured by ``benchmarks/startup.py``; here a child process lists what it has loaded, which no busy machine
changes.
"""

import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
COMPILER = {"torch._dynamo", "torch._inductor", "sympy"}  # two seconds and more; torch.compile alone needs them
HEAVY = {
    *COMPILER, "torchvision", "timm", "sklearn", "sklearn.ensemble", "scipy.stats", "skimage", "joblib", "seaborn",
    "IPython", "papermill", "torchmetrics",
}  # fmt: skip
DRAWN = {"pandas", "matplotlib", "matplotlib.pyplot"}
TRAINED = """
import sys
sys.path.insert(0, "tests")
from medcore.data.card import Card
from medcore.data.patchset import PatchSet
from medcore.evaluation.predictor import equip
from medcore.models.classifier import build_classifier
from medcore.training.config import TrainConfig
from medcore.training.fit import fit
from medcore.training.objectives import Classification
import numpy as np
rng = np.random.default_rng(0)
pixels = rng.integers(0, 256, (16, 16, 16, 3), dtype=np.uint8)
table = {"label": np.arange(16) % 2, "patient": [f"p{n // 4}" for n in range(16)]}
table["split"] = np.repeat(["train", "val"], 8)
patches = PatchSet.from_arrays(pixels, table, Card("toy", classes=["a", "b"]))
sides = [patches.where(split=side) for side in ("train", "val")]
model = build_classifier("small_cnn", 2, image_size=16)
fit(model, Classification(patches.classes), *sides, TrainConfig(epochs=1, batch_size=4), out=FOLDER, progress=False)
equip(FOLDER, model, *sides)
"""


def loaded(code: str, wanted: set[str]) -> set[str]:
    """Which of ``wanted`` a fresh process has loaded when it has run ``code``."""
    told = f"{code}\nimport sys\nprint('LOADED', *[name for name in {sorted(wanted)!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


def command(*words: str | Path) -> str:
    """Code that runs ``medcore`` with these words."""
    run = f"main({[str(word) for word in words]!r})"
    return (
        f"from medcore.cli import main\ntry:\n    {run}\nexcept SystemExit as end:\n    assert not end.code, end.code"
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """A checkpoint, and what its training had loaded."""
    folder = tmp_path_factory.mktemp("run")
    return folder, loaded(TRAINED.replace("FOLDER", repr(str(folder))), HEAVY | {"matplotlib"})


def test_importing_the_package_loads_nothing() -> None:
    assert loaded("import medcore", {"numpy", "torch", "click", *DRAWN, *HEAVY}) == set()


def test_help_loads_no_library_that_computes() -> None:
    everything = {"torch", *DRAWN, *HEAVY}
    assert loaded(command("--help"), everything | {"numpy"}) == set()
    assert loaded(command("predict", "--help") + "\n" + command("reports", "--help"), everything) == set()


def test_training_loads_neither_the_compiler_nor_what_draws(trained: tuple[Path, set[str]]) -> None:
    assert trained[1] == set()


def test_predicting_an_image_loads_no_table_and_no_other_model(tmp_path: Path, trained: tuple[Path, set[str]]) -> None:
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "new.png")
    seen = loaded(command("predict", trained[0], tmp_path / "new.png"), {"torch", "scipy", *DRAWN, *HEAVY})
    assert seen == {"torch"}


def test_import_cells_of_notebooks_load_what_they_draw_and_tabulate_with() -> None:
    cells = []
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        code = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        cells.append(next(source for source in code if "import" in source and "medcore" in source))
    assert len(cells) >= 8
    assert loaded("\n".join(cells), DRAWN | HEAVY) == DRAWN


def test_the_optimisers_step_is_torchs_own() -> None:
    """``take_step`` leaves out wrappers, and no arithmetic."""
    import torch

    from medcore.training import optim
    from medcore.training.config import TrainConfig

    for name in ("sgd", "adam", "adamw"):
        weights = []
        for ours in (True, False):
            torch.manual_seed(0)
            model, inputs = torch.nn.Linear(5, 3), torch.rand(8, 5)
            optimiser = optim.make_optimiser(model, TrainConfig(optimiser=name))
            for _ in range(4):
                model(inputs).square().sum().backward()
                if ours:
                    optim.take_step(optimiser)
                else:
                    optimiser.step()
                    optimiser.zero_grad()
                assert all(not p.grad.any() if p.grad is not None else True for p in model.parameters())
            weights.append([p.detach().clone() for p in model.parameters()])
        assert all(torch.equal(*pair) for pair in zip(*weights, strict=True))


@pytest.mark.slow
def test_opening_a_set_again_imports_nothing_for_it(tmp_path: Path) -> None:
    path = tmp_path / "toy.npz"
    make = "import numpy as np; from medcore.data.card import Card; from medcore.data.patchset import PatchSet; "
    made = "PatchSet.from_arrays(np.zeros((2, 8, 8, 1), np.uint8), {'label': [0, 1]}, Card('t', classes=['a', 'b']))"
    opened = f"from medcore.data.patchset import PatchSet; PatchSet.open({str(path)!r})"
    subprocess.run([sys.executable, "-c", f"{make}{made}.save({str(path)!r})"], check=True, cwd=ROOT)
    assert loaded(opened, {"numpy.ma", "pandas", "scipy"}) == set()


@pytest.mark.slow
def test_the_benchmark_of_the_first_seconds_runs_in_a_short_form() -> None:
    words = [sys.executable, "benchmarks/startup.py", "--dry"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert "medcore predict" in done.stdout
