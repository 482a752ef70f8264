"""Start references from K-means centroids of training features."""

import random
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import numpy as np
import torch
from mmengine.dist import broadcast, is_main_process
from mmengine.hooks import Hook
from mmengine.model import PretrainedInit, is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from ..models import SeTAttention
from ..models.padding import valid_places
from ..models.token_mixer import tokens_and_valid_shape
from ..utils.checkpoints import read_checkpoint
from ..utils.errors import UserError

# Two centroids count as one direction if their cosine is above 1 - COINCIDENT.
COINCIDENT = 1e-6


@HOOKS.register_module()
class KMeansReferenceInitHook(Hook):
    """Initialise every SeTAttention by K-means before a training.

    Layer after layer, in forward order, the features of a head (what its
    kernel sees, normalised) are clustered twice: the centroids, normalised again,
    become its references for the way in and for the way back. The two runs begin from
    different centroids, so that the sets differ. References are laid on their grid so
    that each sits where the members of its cluster sit in the image on average. A layer
    sees features that were computed with the new parameters of all layers before it.

    The images are a random subset of the training set, passed through the training
    pipeline and the data preprocessor without batch augmentations. Each is processed
    by itself, and no padding enters the clusters, neither for a batch nor for sides of
    a multiple. The images are kept in host memory meanwhile. Where the pipeline makes
    several views of an image, as for SoftTeacher, the first one that it has is taken;
    of a student and its teacher, the student's features are clustered, and the teacher
    gets its anchors and references.

    The hook does nothing when training has begun, or when anchors came with loaded
    weights (``load_from``, resume, or ``init_cfg`` of type "Pretrained"). Weights
    without anchors, as converted from another network, leave them to the hook. Frozen
    stages are initialised like others: without loaded anchors they hold nothing worth
    keeping.
    Random states, gradients, the training mode and the training dataloader are left as
    they were; the result depends on ``seed``, the model, the dataset and how many
    workers load it.

    In distributed training rank 0 computes, and sends each layer as soon as it is done,
    so that the other ranks never wait longer than one layer takes.

    Args:
        num_images (int): Images to collect features from, or the whole training set if
            that is smaller.
        max_samples (int): Most features to cluster in a head, at least ``num_images``.
        seed (int): Seeds the choice of images and tokens, the pipeline and K-means.
        anchors (bool): Whether anchors start from centroids, too, as in the paper. They
            then lie so close together that ``k(z, z)^-1/2`` amplifies values and
            gradients, and learning begins late (docs/method.md).

    Raises:
        ValueError: If an argument is out of its rule.
        UserError: When training starts, if a layer is of sequences.
        ImportError: Likewise, if scikit-learn is not installed.
    """

    def __init__(
        self,
        num_images: int = 256,
        max_samples: int = 20000,
        seed: int = 0,
        anchors: bool = False,
    ) -> None:
        if num_images < 1:
            raise ValueError(f"num_images must be positive, got {num_images}")
        if max_samples < num_images:
            raise ValueError(
                "max_samples must be at least num_images, "
                f"got {max_samples} and {num_images}"
            )
        self.num_images = num_images
        self.max_samples = max_samples
        self.seed = seed
        self.anchors = anchors
        self._anchors_were_loaded = False

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note whether a checkpoint (``load_from`` or resume) brings anchors."""
        self._anchors_were_loaded |= _has_anchors(checkpoint)

    def before_train(self, runner: Runner) -> None:
        """Initialise all layers, or log why not."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        # mmdetection's semi-supervised detectors hold one network twice.
        network = getattr(model, "student", model)
        layers, twins = _layers_of(network), _layers_of(getattr(model, "teacher", None))
        if reason := self._reason_to_skip(runner, model, layers):
            runner.logger.info(f"K-means initialisation is off: {reason}.")
            return
        for name, layer in layers.items():
            if not layer.is_two_dimensional:
                raise UserError(
                    f"KMeansReferenceInitHook is for pictures, and {name} has "
                    f"reference_shape={layer.reference_shape}, which is for sequences; "
                    "remove the hook"
                )
        batches = []
        if is_main_process():
            runner.logger.info(
                "K-means initialisation of references: loading "
                f"up to {self.num_images} images for {len(layers)} layers"
            )
            batches = self._load_batches(runner.train_dataloader, model)
        start = time.monotonic()
        total = sum(layer.num_heads for layer in layers.values())
        done = 0
        for i, (name, layer) in enumerate(layers.items(), 1):
            if is_main_process():
                self._initialise(layer, self._collect(layer, network, batches))
            for parameter in layer.folding_parameters():
                if parameter is not None:  # one set of references both ways
                    broadcast(parameter.detach())
            if name in twins:
                _copy_learned_points(layer, twins[name])
            done += layer.num_heads
            elapsed = time.monotonic() - start
            left = timedelta(seconds=round(elapsed * (total - done) / done))
            runner.logger.info(
                f"K-means initialisation: layer {i}/{len(layers)} ({name}), eta: {left}"
            )

    def _reason_to_skip(
        self, runner: Runner, model: nn.Module, layers: dict[str, SeTAttention]
    ) -> str | None:
        if not layers:
            return "the model has no SeTAttention layer"
        if self._anchors_were_loaded:
            return "the anchors come from a checkpoint"
        if runner.iter > 0:
            return "training has already begun"
        for name, module in model.named_modules():
            has_layers = any(isinstance(m, SeTAttention) for m in module.modules())
            if has_layers and any(map(_has_anchors, _pretrained_weights(module))):
                return f"init_cfg of {name or 'the model'} loads pretrained anchors"
        return None

    def _load_batches(self, dataloader: DataLoader, model: nn.Module) -> list[Tensor]:
        """Load preprocessed images, batched by shape.

        The loader is our own: reading from the training loader would advance its
        sampler, if that is an infinite one, and with it the run that follows.

        Returns:
            list[Tensor]: Of shape ``(B, C, H, W)``, on the CPU.
        """
        order = np.random.default_rng(self.seed).permutation(len(dataloader.dataset))
        loader = DataLoader(
            Subset(dataloader.dataset, order[: self.num_images].tolist()),
            batch_size=1,
            num_workers=dataloader.num_workers,
            collate_fn=dataloader.collate_fn,
            worker_init_fn=dataloader.worker_init_fn,
        )
        by_shape = defaultdict(list)
        with _private_random_state(self.seed), torch.no_grad():
            for data in loader:
                data, preprocess = _first_view(data, model.data_preprocessor)
                image = preprocess(data, False)["inputs"].cpu()
                by_shape[image.shape].append(image)
        batch_size = dataloader.batch_sampler.batch_size
        return [
            batch
            for images in by_shape.values()
            for batch in torch.cat(images).split(batch_size)
        ]

    @torch.no_grad()
    def _collect(
        self, layer: SeTAttention, model: nn.Module, batches: list[Tensor]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Run the batches up to a layer and sample its features.

        Returns:
            tuple[np.ndarray, np.ndarray]: Features of shape ``(n, heads, D)`` and their
            positions (row, column) in [0, 1], of shape ``(n, 2)``.
        """
        per_image = self.max_samples // sum(len(batch) for batch in batches)
        generator = torch.Generator().manual_seed(self.seed)
        features, positions = [], []

        def capture(_, args: tuple, kwargs: dict) -> None:
            x, valid_shape = tokens_and_valid_shape(args, kwargs)
            num, height, width, _ = x.shape
            sides = torch.tensor([[height, width]]).expand(num, 2)
            if valid_shape is not None:
                sides = valid_shape.cpu()
            is_valid = valid_places(sides, (height, width)).flatten(1)
            # A random subset of the tokens of each image, another one in each image.
            keys = torch.rand(num, height * width, generator=generator)
            order = keys.where(is_valid, 2).argsort(1)[:, :per_image]
            image, place = is_valid.gather(1, order).nonzero(as_tuple=True)
            token = order[image, place]
            row, column = token // width, token % width
            sample = layer.in_proj(layer.centre(x, valid_shape)[image, row, column])
            features.append(
                sample.reshape(-1, layer.num_heads, layer.head_dim).float().cpu()
            )
            position = torch.stack([row, column], dim=-1) + 0.5
            positions.append(position / sides[image])
            raise _LayerReached

        device = layer.anchors.device
        was_training = model.training
        model.eval()
        handle = layer.register_forward_pre_hook(capture, with_kwargs=True)
        try:
            for batch in batches:
                try:
                    _extract_features(model, batch.to(device))
                except _LayerReached:
                    pass
        finally:
            handle.remove()
            model.train(was_training)
        if not features:
            raise RuntimeError(
                "every SeTAttention must be run by extract_feat for K-means "
                f"initialisation, got one that is not: {layer}"
            )
        return torch.cat(features).numpy(), torch.cat(positions).numpy()

    @torch.no_grad()
    def _initialise(
        self, layer: SeTAttention, samples: tuple[np.ndarray, np.ndarray]
    ) -> None:
        """Write the centroids of all heads into a layer."""
        features, positions = samples
        anchors, *sets = layer.folding_parameters()
        for head in range(layer.num_heads):
            # Features without a direction would make every centroid NaN.
            norms = np.linalg.norm(features[:, head], axis=-1)
            valid = np.isfinite(norms) & (norms > 0)
            units = features[valid, head] / norms[valid, None]
            if self.anchors:
                centroids, _ = cluster_directions(units, anchors.shape[1], self.seed)
                anchors[head].copy_(torch.from_numpy(centroids))
            for way, references in enumerate(sets):
                if references is None:  # the same set both ways
                    continue
                centroids, labels = cluster_directions(
                    units, references.shape[1], self.seed + way
                )
                cells = assign_to_grid(positions[valid], labels, layer.reference_shape)
                on_grid = np.empty_like(centroids)
                on_grid[cells] = centroids
                references[head].copy_(torch.from_numpy(on_grid))


def cluster_directions(
    units: np.ndarray, num_clusters: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cluster unit vectors into directions by K-means.

    Where there are fewer distinct vectors than clusters, or a centroid is zero, the
    missing directions are random.

    Args:
        units (np.ndarray): Unit vectors of shape ``(n, D)``, ``n`` may be 0.
        num_clusters (int): Number of clusters ``k``.
        seed (int): Seed of K-means and of the random directions.

    Returns:
        tuple[np.ndarray, np.ndarray]: Unit centroids of shape ``(k, D)``, and the
        cluster of each vector, of shape ``(n,)``.
    """
    # Imported where it is used: scikit-learn is optional.
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    num_samples, dim = units.shape
    filler = np.random.default_rng(seed).standard_normal((num_clusters, dim))
    centroids = filler / np.linalg.norm(filler, axis=1, keepdims=True)
    num_found = min(num_clusters, num_samples)
    if num_found == 0:
        return centroids, np.empty(0, dtype=int)
    # One thread: the order in which several add up a centroid differs between runs.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        kmeans = KMeans(num_found, n_init=1, random_state=seed).fit(units)
    means = kmeans.cluster_centers_.astype(np.float64)
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    found = means / np.maximum(norms, np.finfo(np.float64).tiny)
    cosines = np.tril(found @ found.T, -1)
    usable = (norms[:, 0] > COINCIDENT) & (cosines.max(1) < 1 - COINCIDENT)
    centroids[:num_found][usable] = found[usable]
    return centroids, kmeans.labels_


def assign_to_grid(
    positions: np.ndarray, labels: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """Assign clusters to the cells of a grid, one each, nearest to their members.

    Minimises the sum of squared distances between the mean position of a cluster's
    members and the centre of its cell. Clusters without members take what is left.

    Args:
        positions (np.ndarray): Rows and columns in [0, 1], of shape ``(n, 2)``.
        labels (np.ndarray): Cluster of each position, of shape ``(n,)``.
        shape (tuple[int, int]): The grid ``(r_h, r_w)`` of ``r_h * r_w`` clusters.

    Returns:
        np.ndarray: The cell of each cluster, row-major, of shape ``(r_h * r_w,)``.
    """
    num_clusters = shape[0] * shape[1]
    centres = (np.indices(shape).reshape(2, -1).T + 0.5) / shape
    counts = np.bincount(labels, minlength=num_clusters)
    sums = np.zeros((num_clusters, 2))
    np.add.at(sums, labels, positions)
    means = sums / np.maximum(counts, 1)[:, None]
    cost = ((means[:, None] - centres) ** 2).sum(-1)
    cost[counts == 0] = 0
    from scipy.optimize import linear_sum_assignment  # half a second that few need

    return linear_sum_assignment(cost)[1]


def _layers_of(network: nn.Module | None) -> dict[str, SeTAttention]:
    return {
        name: module
        for name, module in (network.named_modules() if network else ())
        if isinstance(module, SeTAttention)
    }


@torch.no_grad()
def _copy_learned_points(source: SeTAttention, target: SeTAttention) -> None:
    pairs = zip(source.folding_parameters(), target.folding_parameters())
    for parameter, copy in pairs:
        if parameter is not None:
            copy.copy_(parameter)


def _first_view(data: dict, preprocessor: nn.Module) -> tuple[dict, nn.Module]:
    """Data of one sample and what preprocesses them; of several views, the first.

    Views have keys of their own below those of the data, and a sample has None for
    those that it lacks.
    """
    if not isinstance(data["inputs"], dict):
        return data, preprocessor
    view = next(name for name, x in data["inputs"].items() if x[0] is not None)
    data = {key: views[view] for key, views in data.items()}
    return data, getattr(preprocessor, "data_preprocessor", preprocessor)


class _LayerReached(Exception):
    """Ends a forward pass at the layer whose features are wanted."""


def _extract_features(model: nn.Module, inputs: Tensor) -> None:
    """Call what runs the backbone in any of the host libraries."""
    if hasattr(model, "extract_feat"):
        model.extract_feat(inputs)
    elif hasattr(model, "backbone"):
        model.backbone(inputs)
    else:
        model(inputs)


def _has_anchors(checkpoint: dict) -> bool:
    names = checkpoint.get("state_dict", checkpoint)
    return any(name.endswith(".anchors") for name in names)


def _pretrained_weights(module: nn.Module) -> Iterator[dict]:
    """Load the checkpoints that ``init_cfg`` has loaded."""
    init_cfg = getattr(module, "init_cfg", None) or []
    for cfg in [init_cfg] if isinstance(init_cfg, dict) else init_cfg:
        if cfg["type"] in ("Pretrained", PretrainedInit):
            yield read_checkpoint(cfg["checkpoint"])


@contextmanager
def _private_random_state(seed: int) -> Iterator[None]:
    """Seed Python, NumPy and torch (CPU), and put their states back afterwards."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed)
        # Not torch.manual_seed, which reseeds the accelerators, too.
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
