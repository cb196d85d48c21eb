"""medcore: rigorous medical-imaging studies as notebooks, on your images or on built-in phantoms.

Data flows down one way through the rooms of the package:
``data`` -> ``models`` -> ``training`` -> ``evaluation`` -> ``plots`` -> ``reporting`` -> ``cli``.

For research and teaching; **not for clinical use**.
"""

__version__ = "0.1.0"


def load(checkpoint, which="best", *, device=None):  # type: ignore[no-untyped-def]
    """A trained classifier ready to predict: ``medcore.load("runs/a").predict("new_images/")``.

    Args:
        checkpoint: A run's folder, its ``checkpoints`` folder, or one checkpoint.
        which: ``best``, ``last`` or an epoch.
        device: ``cpu``, ``cuda`` or ``mps``; None stays on the CPU.

    Returns:
        A ``medcore.evaluation.predictor.Predictor``.
    """
    import importlib  # torch is imported only when it is needed

    return importlib.import_module("medcore.evaluation.predictor").load(checkpoint, which, device=device)
