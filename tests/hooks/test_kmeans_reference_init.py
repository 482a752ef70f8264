import logging
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from mmengine.dataset import DefaultSampler, InfiniteSampler, pseudo_collate
from mmengine.model import BaseModel, ImgDataPreprocessor
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from setformer_mm import KMeansReferenceInitHook, SeTAttention
from setformer_mm.hooks import kmeans_reference_init
from setformer_mm.hooks.kmeans_reference_init import assign_to_grid, cluster_directions
from setformer_mm.utils.errors import UserError

DIM = 32


class Images(Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        # Draw from every generator, as a random pipeline does.
        random.random(), np.random.random(), torch.rand(1)
        sample = DataSample().set_gt_label(index % 2)
        return dict(inputs=self.images[index], data_samples=sample)


class Toy(BaseModel):
    """Attention layers of one head in a row, on images of 32 channels."""

    def __init__(
        self,
        num_layers=1,
        reference_shape=(2, 2),
        return_references=True,
        centred=False,
    ):
        super().__init__(ImgDataPreprocessor())
        self.layers = nn.ModuleList(
            SeTAttention(DIM, 1, reference_shape, return_references, centred=centred)
            for _ in range(num_layers)
        )
        for layer in self.layers:
            nn.init.eye_(layer.in_proj.weight)
            nn.init.zeros_(layer.in_proj.bias)

    def extract_feat(self, inputs):
        x = inputs.permute(0, 2, 3, 1)
        for layer in self.layers:
            x = layer(x)
        return x

    def forward(self, inputs, data_samples=None, mode="tensor"):
        return self.extract_feat(inputs)


def make_runner(model, images, sampler=DefaultSampler):
    dataset = Images(images)
    loader = DataLoader(
        dataset,
        batch_size=2,
        sampler=sampler(dataset, seed=0),
        collate_fn=pseudo_collate,
    )
    logger = logging.getLogger("kmeans")
    logger.setLevel(logging.INFO)
    return SimpleNamespace(model=model, train_dataloader=loader, logger=logger, iter=0)


def random_images(num=6, side=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(DIM, side, side, generator=generator) for _ in range(num)]


def parameters_of(model):
    return [p.detach().clone() for p in model.parameters()]


def assert_unit_and_finite(model):
    for layer in model.layers:
        for parameter in learned_points(layer):
            torch.testing.assert_close(
                parameter.norm(dim=-1), torch.ones(parameter.shape[:-1])
            )


def learned_points(layer):
    return [p for p in layer.folding_parameters() if p is not None]


def random_units(rng, *shape):
    vectors = rng.standard_normal(shape)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


# Clustering


def test_known_directions_are_recovered():
    rng = np.random.default_rng(0)
    directions = np.eye(DIM)[:10]
    units = directions[rng.integers(10, size=2000)]
    units = units + 0.01 * rng.standard_normal(units.shape)
    units /= np.linalg.norm(units, axis=1, keepdims=True)

    centroids, labels = cluster_directions(units, 10, seed=0)

    cosines = centroids @ directions.T
    assert sorted(cosines.argmax(1)) == list(range(10))
    assert cosines.max(1).min() > 0.999
    assert ((centroids[labels] * units).sum(1) > 0.99).all()


@pytest.mark.parametrize(
    "units",
    [
        np.empty((0, DIM)),
        np.eye(DIM)[:5],
        np.repeat(np.eye(DIM)[:1], 100, axis=0),
        np.repeat(np.eye(DIM)[:3], 100, axis=0),
        np.eye(DIM)[0] + 1e-8 * np.random.default_rng(0).standard_normal((100, DIM)),
    ],
    ids=["none", "few", "one distinct", "three distinct", "almost one"],
)
def test_missing_directions_are_random_unit_vectors(units):
    centroids, labels = cluster_directions(units, 8, seed=0)

    assert centroids.shape == (8, DIM) and labels.shape == (len(units),)
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1)
    cosines = centroids @ centroids.T - 2 * np.eye(8)
    assert cosines.max() < 0.99, "two centroids coincide"


def test_a_zero_centroid_becomes_a_unit_vector():
    opposite = np.stack([np.eye(DIM)[0], -np.eye(DIM)[0]])
    centroids, _ = cluster_directions(opposite, 1, seed=0)
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1)


# Grid


def test_clusters_go_to_the_cells_they_live_in():
    rng = np.random.default_rng(0)
    shape = (3, 4)
    cells = rng.permutation(12)
    centres = (np.stack([cells // 4, cells % 4], axis=1) + 0.5) / shape
    labels = np.repeat(np.arange(12), 50)
    positions = centres[labels] + rng.uniform(-0.1, 0.1, (600, 2))
    np.testing.assert_array_equal(assign_to_grid(positions, labels, shape), cells)


def test_clusters_without_members_take_the_cells_that_are_left():
    positions = np.array([[0.9, 0.1], [0.1, 0.9]])
    cells = assign_to_grid(positions, np.array([3, 0]), (2, 2))
    assert cells[3] == 2 and cells[0] == 1
    assert sorted(cells) == [0, 1, 2, 3]


# The hook


def test_references_of_a_quadrant_sit_in_its_cell():
    rng = np.random.default_rng(0)
    directions = torch.eye(DIM)[:4]
    quadrants = directions.T.reshape(DIM, 2, 2)
    quadrants = quadrants.repeat_interleave(8, 1).repeat_interleave(8, 2)
    images = [
        3.0 * quadrants + 0.02 * torch.from_numpy(rng.standard_normal((DIM, 16, 16)))
        for _ in range(4)
    ]
    model = Toy(reference_shape=(2, 2))

    KMeansReferenceInitHook(num_images=4).before_train(make_runner(model, images))

    for references in learned_points(model.layers[0])[1:]:
        assert ((references[0] * directions).sum(-1) > 0.99).all()
    assert_unit_and_finite(model)


def test_both_sets_of_references_are_centroids_and_differ(monkeypatch):
    torch.manual_seed(0)
    started = []

    def record(units, num_clusters, seed):
        centroids, labels = cluster_directions(units, num_clusters, seed)
        started.append((num_clusters, seed, torch.from_numpy(centroids).float()))
        return centroids, labels

    monkeypatch.setattr(kmeans_reference_init, "cluster_directions", record)
    model = Toy()
    hook = KMeansReferenceInitHook(num_images=6, seed=5, anchors=True)
    hook.before_train(make_runner(model, random_images()))

    assert [start[:2] for start in started] == [(DIM, 5), (4, 5), (4, 6)]
    for parameter, (*_, centroids) in zip(learned_points(model.layers[0]), started):
        # On the grid they stand in another order.
        assert torch.equal(sorted_rows(parameter[0]), sorted_rows(centroids))
    _, way_in, way_back = (sorted_rows(p[0]) for p in learned_points(model.layers[0]))
    assert (way_in - way_back).abs().max() > 0.01


def test_anchors_stay_as_they_are_unless_asked_for():
    model = Toy()
    before = [p.clone() for p in learned_points(model.layers[0])]
    hook = KMeansReferenceInitHook(num_images=6)
    hook.before_train(make_runner(model, random_images()))
    anchors, *sets = (
        torch.equal(*p) for p in zip(before, learned_points(model.layers[0]))
    )
    assert anchors and not any(sets)


def sorted_rows(matrix):
    return matrix.detach()[matrix[:, 0].argsort()]


def test_a_layer_with_one_set_of_references():
    images = random_images()
    models = [Toy(return_references=both) for both in (True, False)]
    models[1].load_state_dict(models[0].state_dict(), strict=False)
    for model in models:
        KMeansReferenceInitHook().before_train(make_runner(model, images))
    two, one = (learned_points(model.layers[0]) for model in models)
    assert len(two) == 3 and len(one) == 2
    assert torch.equal(two[0], one[0]) and torch.equal(two[1], one[1])


def test_a_layer_sees_features_of_initialised_layers_before_it(monkeypatch):
    torch.manual_seed(0)
    images = random_images(num=3, side=4)
    model = Toy(num_layers=2)

    def second_features():
        model.eval()
        with torch.no_grad():
            x = model.layers[0](torch.stack(images).permute(0, 2, 3, 1))
        return F.normalize(x.flatten(0, 2), dim=-1)

    clustered = []

    def record(units, num_clusters, seed):
        clustered.append(units)
        return cluster_directions(units, num_clusters, seed)

    monkeypatch.setattr(kmeans_reference_init, "cluster_directions", record)
    before = second_features()
    KMeansReferenceInitHook(num_images=3).before_train(make_runner(model, images))
    after = second_features()

    def worst_match(features):
        differences = torch.from_numpy(clustered[-1]).unsqueeze(1) - features
        return differences.norm(dim=-1).min(dim=1).values.max()

    assert worst_match(after) < 1e-5
    assert worst_match(before) > 1e-2


def test_samples_are_limited_and_spread_over_the_images(monkeypatch):
    clustered = []

    def record(units, num_clusters, seed):
        clustered.append(units)
        return cluster_directions(units, num_clusters, seed)

    monkeypatch.setattr(kmeans_reference_init, "cluster_directions", record)
    images = [torch.eye(DIM)[i].view(DIM, 1, 1).expand(-1, 6, 6) for i in range(5)]
    hook = KMeansReferenceInitHook(num_images=5, max_samples=23)
    hook.before_train(make_runner(Toy(), images))
    np.testing.assert_array_equal(clustered[0].sum(0)[:6], [4, 4, 4, 4, 4, 0])


def test_padding_is_neither_clustered_nor_counted_in_positions(monkeypatch):
    """What is above and left of it keeps the positions that attention gives it."""
    collected = []

    class Padded(Toy):
        def extract_feat(self, inputs):
            valid_shape = torch.tensor([[4, 2]]).expand(len(inputs), 2)
            return self.layers[0](inputs.permute(0, 2, 3, 1), valid_shape=valid_shape)

    def record(hook, layer, samples):
        collected.extend(samples)

    monkeypatch.setattr(KMeansReferenceInitHook, "_initialise", record)
    content, padding = torch.eye(DIM)[:2].view(2, DIM, 1, 1)
    image = padding.expand(-1, 8, 8).clone()
    image[:, :4, :2] = content
    KMeansReferenceInitHook(num_images=3).before_train(
        make_runner(Padded(), [image] * 3)
    )
    features, positions = collected
    assert features.shape == (3 * 4 * 2, 1, DIM) and positions.shape == (24, 2)
    np.testing.assert_array_equal(features[:, 0], np.eye(DIM)[[0] * 24])
    assert {tuple(position) for position in positions.tolist()} == {
        (row, column) for row in (0.125, 0.375, 0.625, 0.875) for column in (0.25, 0.75)
    }


def test_layers_of_sequences_are_refused():
    model = Toy(reference_shape=(4,))
    with pytest.raises(UserError, match="layers.0 has reference_shape=\\(4,\\)"):
        KMeansReferenceInitHook().before_train(make_runner(model, random_images()))


def test_features_are_what_the_kernel_sees():
    """Centred ones, to which a constant that all tokens have adds nothing."""
    images = random_images()
    shifted = [image + 5 for image in images]
    learned = {}
    for centred in (True, False):
        for name, data in dict(plain=images, shifted=shifted).items():
            torch.manual_seed(0)
            model = Toy(centred=centred)
            KMeansReferenceInitHook().before_train(make_runner(model, data))
            learned[centred, name] = model.layers[0].references.detach()
    torch.testing.assert_close(learned[True, "plain"], learned[True, "shifted"])
    assert not torch.allclose(learned[False, "plain"], learned[False, "shifted"])


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("images", ["constant", "zero features"])
def test_constant_features_give_finite_unit_vectors(images, centred):
    model = Toy(num_layers=2, centred=centred)
    if images == "zero features":
        nn.init.zeros_(model.layers[0].in_proj.weight)
    runner = make_runner(model, [torch.ones(DIM, 4, 4)] * 3)
    KMeansReferenceInitHook(num_images=3).before_train(runner)
    assert_unit_and_finite(model)


def test_images_of_different_shapes():
    images = [torch.rand(DIM, 4, 4 + i % 3) for i in range(6)]
    model = Toy()
    KMeansReferenceInitHook(num_images=6).before_train(make_runner(model, images))
    assert_unit_and_finite(model)


def test_result_depends_on_the_seed_alone():
    images = random_images()
    results = []
    for global_seed, seed in ((1, 0), (2, 0), (3, 7)):
        torch.manual_seed(0)
        model = Toy(num_layers=2)
        torch.manual_seed(global_seed)
        hook = KMeansReferenceInitHook(num_images=3, seed=seed)
        hook.before_train(make_runner(model, images))
        results.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("mode", [True, False])
def test_random_states_mode_gradients_and_dataloader_stay_as_they_were(mode):
    model = Toy().train(mode)
    runner = make_runner(model, random_images(), InfiniteSampler)
    untouched = make_runner(model, random_images(), InfiniteSampler)
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()

    KMeansReferenceInitHook(num_images=3).before_train(runner)

    assert random.getstate() == states[0]
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(torch.get_rng_state(), states[2])
    assert model.training is mode and model.layers[0].training is mode
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    batches = [next(iter(r.train_dataloader))["inputs"] for r in (runner, untouched)]
    assert all(torch.equal(a, b) for a, b in zip(*batches))


def load_weights(weights, why, hook, runner, folder):
    """Tell model and hook that these weights were loaded in one of two ways."""
    checkpoint = dict(state_dict=weights)
    if why == "checkpoint":
        hook.after_load_checkpoint(runner, checkpoint)
    else:
        torch.save(checkpoint, folder / "weights.pth")
        path = str(folder / "weights.pth")
        runner.model.init_cfg = [dict(type="Pretrained", checkpoint=path)]


@pytest.mark.parametrize("why", ["checkpoint", "init_cfg", "begun"])
def test_off_when_there_are_anchors_to_keep(why, caplog, tmp_path):
    hook, model = KMeansReferenceInitHook(num_images=3), Toy()
    runner = make_runner(model, random_images())
    if why != "begun":
        load_weights(model.state_dict(), why, hook, runner, tmp_path)
    else:
        runner.iter = 1
    before = parameters_of(model)
    with caplog.at_level(logging.INFO, "kmeans"):
        hook.before_train(runner)
    assert all(map(torch.equal, before, model.parameters()))
    assert "K-means initialisation is off: " in caplog.text and why in caplog.text


@pytest.mark.parametrize("why", ["checkpoint", "init_cfg"])
def test_weights_without_anchors_leave_references_to_k_means(why, tmp_path):
    hook, model = KMeansReferenceInitHook(num_images=3), Toy()
    runner = make_runner(model, random_images())
    weights = {
        name: value
        for name, value in model.state_dict().items()
        if not name.endswith(("anchors", "references"))
    }
    load_weights(weights, why, hook, runner, tmp_path)
    before = model.layers[0].references.clone()
    hook.before_train(runner)
    assert not torch.equal(before, model.layers[0].references)
    assert_unit_and_finite(model)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="num_images must be positive, got 0"):
        KMeansReferenceInitHook(num_images=0)
    with pytest.raises(ValueError, match="at least num_images, got 10 and 20"):
        KMeansReferenceInitHook(num_images=20, max_samples=10)


def test_a_layer_that_is_never_run_is_an_error():
    model = Toy()
    model.extra = SeTAttention(DIM, 1)
    with pytest.raises(RuntimeError, match="must be run by extract_feat"):
        KMeansReferenceInitHook(num_images=2).before_train(
            make_runner(model, random_images(2))
        )


def _initialise_on_rank(rank, path):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{path}/store", rank=rank, world_size=2
    )
    torch.manual_seed(rank)
    model = Toy(num_layers=2)
    # Only rank 0 has data, so that a rank which reads them itself would fail.
    runner = make_runner(model, random_images() if rank == 0 else [])
    KMeansReferenceInitHook(num_images=3).before_train(runner)
    torch.save([learned_points(layer) for layer in model.layers], f"{path}/{rank}.pth")
    # Beside torch 2.4 a process waited for ever for one that had gone.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_all_ranks_get_what_rank_0_computed(tmp_path):
    mp.spawn(_initialise_on_rank, args=(str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pth") for rank in (0, 1)]
    for left, right in zip(*ranks):
        assert len(left) == 3 and all(map(torch.equal, left, right))


def test_in_a_training_run_and_off_when_it_is_resumed(tmp_path):
    def train(max_epochs, resume):
        dataset = Images([torch.randint(0, 256, (3, 32, 32)) for _ in range(4)])
        runner = Runner(
            model=dict(
                type="mmpretrain.ImageClassifier",
                data_preprocessor=dict(
                    type="mmpretrain.ClsDataPreprocessor", num_classes=2
                ),
                backbone=dict(
                    type="SeTformer",
                    arch=dict(
                        embed_dims=32,
                        depths=(1, 1, 1, 1),
                        num_heads=(1, 2, 4, 8),
                        mlp_ratio=1,
                    ),
                    attention=dict(reference_shape=(2, 2)),
                    out_indices=(3,),
                    gap_before_final_norm=True,
                ),
                head=dict(
                    type="mmpretrain.LinearClsHead", num_classes=2, in_channels=256
                ),
            ),
            work_dir=str(tmp_path),
            train_dataloader=DataLoader(
                dataset,
                batch_size=2,
                sampler=DefaultSampler(dataset),
                collate_fn=pseudo_collate,
            ),
            train_cfg=dict(by_epoch=True, max_epochs=max_epochs),
            optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.0)),
            custom_hooks=[dict(type="KMeansReferenceInitHook", num_images=4)],
            resume=resume,
            default_scope="mmpretrain",
            experiment_name=f"kmeans_{max_epochs}",
        )
        initial = [p.clone() for p in runner.model.parameters()]
        trained = runner.train()
        changed = [
            name
            for (name, p), old in zip(trained.named_parameters(), initial)
            if not torch.equal(p, old)
        ]
        log = (tmp_path / runner.timestamp / f"{runner.timestamp}.log").read_text()
        return trained, changed, log

    first, _, log = train(max_epochs=1, resume=False)
    assert log.count("K-means initialisation: layer") == 4
    for stage in first.backbone.stages:
        for parameter in learned_points(stage.blocks[0].attn):
            norms = parameter.norm(dim=-1)
            torch.testing.assert_close(norms, torch.ones_like(norms))

    second, _, log = train(max_epochs=2, resume=True)
    assert "K-means initialisation is off: the anchors come from a checkpoint" in log
    # The learning rate is 0: what the first run left must still be there.
    for old, new in zip(first.parameters(), second.parameters()):
        assert torch.equal(old, new)


def test_soft_teacher():
    """Several views a sample; the teacher has the student's references."""
    pytest.importorskip("mmdet")
    from mmdet.structures import DetDataSample
    from mmengine.hub import get_config
    from mmengine.registry import MODELS, DefaultScope

    detector = get_config("mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py").model
    detector.backbone = dict(
        type="SeTformer",
        arch=dict(
            embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), mlp_ratio=1
        ),
        attention=dict(reference_shape=(2, 2)),
    )
    detector.neck.update(in_channels=[8, 16, 32, 64], out_channels=8)
    detector.rpn_head.update(in_channels=8, feat_channels=8)
    detector.roi_head.bbox_roi_extractor.out_channels = 8
    detector.roi_head.bbox_head.update(in_channels=8, fc_out_channels=8)
    preprocessor = dict(
        type="MultiBranchDataPreprocessor", data_preprocessor=detector.data_preprocessor
    )
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(
            dict(
                type="SoftTeacher",
                semi_train_cfg=dict(),
                detector=detector,
                data_preprocessor=preprocessor,
            )
        )
    views = ("sup", "unsup_teacher", "unsup_student")

    class Views(Images):
        """A labelled image has the first view, one without labels the others."""

        def __getitem__(self, index):
            own = views[:1] if index % 2 == 0 else views[1:]
            image, sample = self.images[index], DetDataSample()
            return dict(
                inputs={view: image if view in own else None for view in views},
                data_samples={view: sample if view in own else None for view in views},
            )

    images = Views([torch.rand(3, 64, 64) * 255 for _ in range(4)])
    loader = DataLoader(images, batch_size=2, collate_fn=pseudo_collate)
    logger = logging.getLogger("kmeans")
    runner = SimpleNamespace(
        model=model, train_dataloader=loader, logger=logger, iter=0
    )
    before = {name: p.clone() for name, p in model.named_parameters()}
    KMeansReferenceInitHook(num_images=4, max_samples=400).before_train(runner)
    changed = {
        name for name, p in model.named_parameters() if not torch.equal(p, before[name])
    }
    learned = {n for n in before if n.endswith(("references", "anchors"))}
    fresh = {n for n in learned if n.startswith("student.") and n.endswith("anchors")}
    assert changed == learned - fresh
    for name in learned:
        twin = name.replace("student.", "teacher.", 1)
        torch.testing.assert_close(
            model.get_parameter(name), model.get_parameter(twin), rtol=0, atol=0
        )
    assert not any(p.requires_grad for p in model.teacher.parameters())
