"""What a latent space knows: codes, neighbours by class and by patient, walks, samples beside their neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from medcore.data.patchset import PatchSet
from medcore.data.sizes import resize_maps
from medcore.errors import MedcoreError
from medcore.evaluation.predict import stream
from medcore.evaluation.scores import refuse_test_data
from medcore.models.autoencoder import ConvAutoencoder, DenseAutoencoder
from medcore.models.vae import VAE, active_units, traverse
from medcore.studies.anomaly.detection import Sides

REACH = 2.5  # ends of a walk, in standard deviations of the codes
SIDE = 32  # pixels; distances between images are measured at this size, where noise is averaged out


@dataclass
class LatentSpace:
    """The codes of a VAE's validation images, and what can be asked of them.

    Attributes:
        model: A trained VAE.
        sides: Who learnt, and who is encoded (``validation``).
        seed: Of arrangements, draws and chance.
    """

    model: VAE
    sides: Sides
    seed: int = 0

    @cached_property
    def codes(self) -> np.ndarray:
        """Posterior means of the validation images. **Shape** ``(N, Z)``."""
        return encode_set(self.model, self.sides.validation)

    def collapse(self, history: pd.DataFrame) -> pd.DataFrame:
        """See ``collapse_table``."""
        return collapse_table(self.codes, history)

    def maps(self) -> tuple[np.ndarray, np.ndarray]:
        """The codes in the plane: principal components, and t-SNE. Each **Shape** ``(N, 2)``."""
        from sklearn.decomposition import PCA

        return PCA(2, random_state=self.seed).fit_transform(self.codes), neighbour_map(self.codes, seed=self.seed)

    def neighbours(self, unit: str = "patient") -> pd.DataFrame:
        """See ``nearest_neighbours``."""
        side = self.sides.validation
        return nearest_neighbours(self.codes, side.labels, side.patients, unit=unit, seed=self.seed)

    def walk(self, dimensions: int = 4, steps: int = 7) -> tuple[list[int], list[float], np.ndarray]:
        """See ``traversal``."""
        return traversal(self.model, self.codes, dimensions=dimensions, steps=steps)

    def draw(self, count: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See ``samples_and_neighbours``."""
        return samples_and_neighbours(self.model, self.sides.train, count=count, seed=self.seed)

    def memories(self, distance: np.ndarray) -> pd.DataFrame:
        """See ``memory_table``."""
        return memory_table(distance, self.sides.train, self.sides.monitor)


def encode_set(model: VAE | ConvAutoencoder | DenseAutoencoder, ps: PatchSet) -> np.ndarray:
    """Codes of a set in its order; of a VAE the posterior means. **Shape** ``(N, Z)`` float32."""

    def codes(images: Tensor) -> Tensor:
        found = model.encode(images)
        return found[0] if isinstance(found, tuple) else found

    return stream(codes, ps, model=model)


def mahalanobis(model: VAE | ConvAutoencoder | DenseAutoencoder, normal: PatchSet, ps: PatchSet) -> np.ndarray:
    """Distance of codes from those of normal images, with a shrunk covariance; higher = stranger.

    Returns:
        Squared distances. **Shape** ``(N,)``.

    **Reference**: Ledoit & Wolf 2004, doi:10.1016/S0047-259X(03)00096-4 (the shrinkage).
    """
    from sklearn.covariance import LedoitWolf

    refuse_test_data(normal, "the covariance of codes")
    fitted = LedoitWolf().fit(encode_set(model, normal))
    return fitted.mahalanobis(encode_set(model, ps))


def collapse_table(codes: np.ndarray, history: pd.DataFrame) -> pd.DataFrame:
    """Whether the posterior has collapsed: active dimensions of a VAE's codes, and how its training ended.

    Args:
        codes: Of validation images. **Shape** ``(N, Z)``.
        history: Of the training, with ``val_kl`` (nats) and ``val_reconstruction``.
    """
    active = int(active_units(torch.from_numpy(codes)).sum())
    rows = {
        "active dimensions": f"{active} of {codes.shape[1]}",
        "posterior": "in use" if active else "COLLAPSED",
        "KL divergence at the end (nats)": f"{history['val_kl'].iloc[-1]:.1f}",
        "reconstruction error at the end": f"{history['val_reconstruction'].iloc[-1]:.1f}",
        "epochs whose KL divergence is not finite": str(int((~np.isfinite(history["val_kl"])).sum())),
    }
    return pd.DataFrame({"value": rows})


def neighbour_map(codes: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Codes arranged in the plane by t-SNE: neighbours stay neighbours, far distances mean nothing.

    **Shape** ``(N, Z)`` -> ``(N, 2)``; fewer than four codes cannot be arranged and lie at the origin.

    **Reference**: van der Maaten & Hinton 2008, JMLR 9:2579.
    """
    from sklearn.manifold import TSNE

    if len(codes) < 4:
        return np.zeros((len(codes), 2))
    perplexity = min(30.0, (len(codes) - 1) / 3)
    return TSNE(2, perplexity=perplexity, init="pca", random_state=seed, max_iter=500).fit_transform(codes)


def nearest_neighbours(
    codes: np.ndarray,
    labels: np.ndarray,
    patients: np.ndarray,
    *,
    unit: str = "patient",
    draws: int = 20,
    seed: int = 0,
) -> pd.DataFrame:
    """How often the nearest neighbour in latent space has the same class, and the same patient.

    Args:
        codes: **Shape** ``(N, Z)``.
        labels: **Shape** ``(N,)``.
        patients: **Shape** ``(N,)``.
        unit: What the patients of the set are.
        draws: Random neighbours per image for the chance level.

    Returns:
        Rows ``same class`` and ``same patient`` (or the set's unit), columns ``nearest`` and ``by chance``, 0 to 1.
        The class is compared among other patients' images only, so that knowing the patient cannot pass for knowing
        the class; the patient counts only images whose patient has another image, and is NaN where none has.

    Raises:
        MedcoreError: Fewer than two patients.
    """
    from sklearn.neighbors import NearestNeighbors

    patients = np.unique(np.asarray(patients), return_inverse=True)[1]
    if patients.max(initial=0) == 0:
        raise MedcoreError(
            "nearest_neighbours: the images come from one patient; neighbours of other patients are needed"
        )
    order = (
        NearestNeighbors(n_neighbors=len(codes))
        .fit(codes)
        .kneighbors(return_distance=False, n_neighbors=len(codes) - 1)
    )
    several = np.bincount(patients)[patients] > 1
    same_patient = patients[order[:, 0]] == patients
    foreign = patients[order] != patients[:, None]
    nearest_foreign = order[np.arange(len(codes)), foreign.argmax(1)]
    rng = np.random.default_rng(seed)
    random = rng.integers(0, len(codes) - 1, (len(codes), draws))
    random += random >= np.arange(len(codes))[:, None]
    nothing = float("nan")
    rows = {
        "same class": [(labels[nearest_foreign] == labels).mean(), (labels[random] == labels[:, None]).mean()],
        f"same {unit}": [
            same_patient[several].mean() if several.any() else nothing,
            (patients[random] == patients[:, None])[several].mean() if several.any() else nothing,
        ],
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["nearest", "by chance"]).round(3)


@torch.no_grad()
def traversal(
    model: VAE, codes: np.ndarray, *, dimensions: int = 4, steps: int = 7
) -> tuple[list[int], list[float], np.ndarray]:
    """Images along the dimensions whose codes vary most, from the mean code.

    Args:
        codes: Codes of a set. **Shape** ``(N, Z)``.

    Returns:
        The dimensions, the steps in standard deviations, and images ``(D, S, H, W, C)`` float32 in [0, 1].
    """
    spread, centre = codes.std(0), torch.from_numpy(codes.mean(0))
    chosen = np.argsort(-spread, kind="stable")[:dimensions].tolist()
    values = np.linspace(-REACH, REACH, steps).tolist()
    rows = [
        _pictures(
            model, traverse(centre, axis, [float(centre[axis]) + value * float(spread[axis]) for value in values])
        )
        for axis in chosen
    ]
    return chosen, values, np.stack(rows)


def samples_and_neighbours(
    model: VAE, train: PatchSet, *, count: int = 8, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images drawn from the prior, the training image nearest to each, and their distance.

    Returns:
        Samples ``(n, H, W, C)`` float32, neighbours ``(n, H, W, C)`` uint8, root mean squared distance ``(n,)`` of
        intensities 0 to 1 at 32 pixels.
    """
    from sklearn.neighbors import NearestNeighbors

    drawn = model.sample(count, torch.Generator().manual_seed(seed)).permute(0, 2, 3, 1).cpu().numpy()
    small = NearestNeighbors(n_neighbors=1).fit(_small_set(train))
    distance, nearest = small.kneighbors(_small(torch.from_numpy(drawn).permute(0, 3, 1, 2)).flatten(1).numpy())
    scale = np.sqrt(small.n_features_in_)
    return drawn, train.take(nearest[:, 0]), distance[:, 0] / scale


def memory_table(drawn: np.ndarray, train: PatchSet, others: PatchSet) -> pd.DataFrame:
    """Are drawn images memories? Their distances to the nearest training image beside those of real images.

    Args:
        drawn: Of ``samples_and_neighbours``. **Shape** ``(n,)``.
        train: The images that were learnt from.
        others: Real images that were not.

    Returns:
        Rows ``drawn`` and ``real``: ``images``, ``median distance``, and ``nearer than 5 % of the real`` (images closer
        to a training image than the closest twentieth of the real ones).
    """
    from sklearn.neighbors import NearestNeighbors

    found = NearestNeighbors(n_neighbors=1).fit(_small_set(train))
    real = found.kneighbors(_small_set(others))[0][:, 0] / np.sqrt(found.n_features_in_)
    limit = np.quantile(real, 0.05)
    rows = {
        name: [len(distance), float(np.median(distance)), int((distance < limit).sum())]
        for name, distance in (("drawn", drawn), ("real", real))
    }
    columns = ["images", "median distance", "nearer than 5 % of the real"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).round(4)


def _small_set(ps: PatchSet) -> np.ndarray:
    return stream(lambda images: _small(images).flatten(1), ps)


def _small(images: Tensor) -> Tensor:
    side = min(SIDE, *images.shape[2:])
    return resize_maps(images.float(), (side, side), mode="area")


def _pictures(model: VAE, codes: Tensor) -> np.ndarray:
    return model.decode(codes.to(next(model.parameters()))).float().clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
