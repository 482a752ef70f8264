"""The face for Hugging Face: loading, padding, losses, and a training by Trainer."""

import pytest
import torch

transformers = pytest.importorskip("transformers", "5")

from setformer_mm.models import TOKEN_MIXERS  # noqa: E402
from setformer_mm.transformers import (  # noqa: E402
    SeTformerConfig,
    SeTformerForMaskedLM,
    SeTformerForSequenceClassification,
    SeTformerModel,
)

SMALL = dict(
    vocab_size=40,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=24,
    hidden_dropout_prob=0.0,
)
MODELS = (SeTformerModel, SeTformerForSequenceClassification, SeTformerForMaskedLM)
MIXERS = ("SeTAttention", "SoftmaxAttention", "NystromAttention", "PivotAttention")


def build(model_class, **fields):
    return model_class(SeTformerConfig(**(SMALL | fields))).eval()


def tokens(*shape):
    return torch.randint(1, SMALL["vocab_size"], shape)


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("model_class", MODELS)
def test_saved_and_loaded_to_the_bit(model_class, mixer, tmp_path):
    model = build(model_class, attention=dict(type=mixer), num_labels=3)
    input_ids = tokens(2, 11)
    expected = model(input_ids)[0]
    model.save_pretrained(tmp_path)
    loaded, said = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(said.values()), said
    assert loaded.config.to_diff_dict() == model.config.to_diff_dict()
    state = model.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert torch.equal(loaded(input_ids)[0], expected)


def test_weights_without_a_head_get_one(tmp_path):
    """What is missing is drawn anew, what was loaded stays."""
    encoder = build(SeTformerModel)
    encoder.save_pretrained(tmp_path)
    model = SeTformerForSequenceClassification.from_pretrained(tmp_path, num_labels=5)
    for name, value in model.setformer.state_dict().items():
        assert torch.equal(value, encoder.state_dict()[name]), name
    assert model.classifier.weight.shape == (5, 16) and model.classifier.weight.any()


def test_missing_directions_are_unit_vectors(tmp_path):
    """Built without memory, as from_pretrained does, they would be anything."""
    model = build(SeTformerModel, attention=dict(return_references=False))
    model.save_pretrained(tmp_path)
    loaded = SeTformerModel.from_pretrained(tmp_path, attention={})
    for block, before in zip(loaded.encoder.stage.blocks, model.encoder.stage.blocks):
        assert torch.equal(block.attn.references, before.attn.references)
        norms = block.attn.return_references.norm(dim=-1)
        torch.testing.assert_close(norms, torch.ones_like(norms))


def test_missing_pivots_are_drawn(tmp_path):
    """Each by itself: what is there is loaded."""
    torch.manual_seed(0)
    build(SeTformerModel).save_pretrained(tmp_path)
    loaded = SeTformerModel.from_pretrained(
        tmp_path, attention=dict(type="PivotAttention")
    )
    for block in loaded.encoder.stage.blocks:
        assert not block.attn.mass_logits.any()
        torch.testing.assert_close(
            block.attn.pivots.std(), torch.tensor(8**-0.5), rtol=0.2, atol=0
        )


def test_the_mlp_has_the_channels_of_the_config():
    """488 / 56 * 56 is 487.99... in floating point."""
    model = build(SeTformerModel, hidden_size=56, intermediate_size=488)
    assert model.encoder.stage.blocks[0].mlp[0].out_features == 488


@pytest.mark.parametrize("model_class", MODELS)
def test_tuples_instead_of_outputs(model_class, tmp_path):
    """By the config, which is saved, and in a single call."""
    model = build(model_class, return_dict=False)
    input_ids = tokens(2, 5)
    model.save_pretrained(tmp_path)
    loaded = model_class.from_pretrained(tmp_path)
    assert type(loaded(input_ids)) is tuple
    expected = model(input_ids, return_dict=True)
    assert torch.equal(loaded(input_ids)[0], expected[0])


INVALID = {
    "no size": (dict(hidden_size=0), "hidden_size must be a positive integer, got 0"),
    "a string": (dict(vocab_size="40"), "vocab_size must be a positive integer, got '"),
    "no part": (dict(type_vocab_size=0), "type_vocab_size must be a positive integer"),
    "no heads": (dict(num_attention_heads=0), "num_attention_heads must be a positive"),
    "padding": (dict(pad_token_id=40), "pad_token_id must be below vocab_size = 40"),
    "pooling": (dict(pooling="max"), "pooling must be one of .* got 'max'"),
    "a class": (dict(attention=dict(type=dict)), "must be a name, which can be saved"),
    "a name": (dict(attention="NoMixing"), "attention must be dict.* got 'NoMixing'"),
}


@pytest.mark.parametrize("fields, message", INVALID.values(), ids=INVALID)
def test_invalid_configs(fields, message):
    with pytest.raises(ValueError, match=message):
        build(SeTformerModel, **fields)


@pytest.mark.parametrize("shape", [(2, 5), (2, 15), (1, 12), (12,), (2, 1, 1, 12)])
def test_masks_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"attention_mask must be \(B, N\) = \(2, 12"):
        build(SeTformerModel)(tokens(2, 12), torch.ones(shape))


def test_inputs_of_another_shape_are_refused():
    model = build(SeTformerModel)
    with pytest.raises(ValueError, match=r"\(B, N, 16\), got \(12, 16\)"):
        model(tokens(12))
    with pytest.raises(ValueError, match=r"\(B, N, 16\), got \(2, 12, 8\)"):
        model(inputs_embeds=torch.zeros(2, 12, 8))


def test_auto_classes(tmp_path):
    build(SeTformerForMaskedLM).save_pretrained(tmp_path)
    assert type(transformers.AutoConfig.from_pretrained(tmp_path)) is SeTformerConfig
    for auto_class, model_class in zip(
        (
            transformers.AutoModel,
            transformers.AutoModelForSequenceClassification,
            transformers.AutoModelForMaskedLM,
        ),
        MODELS,
    ):
        assert type(auto_class.from_pretrained(tmp_path)) is model_class


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_padding_changes_nothing(pooling):
    model = build(SeTformerForSequenceClassification, pooling=pooling, num_labels=3)
    input_ids, mask = tokens(3, 12), torch.ones(3, 12, dtype=torch.int64)
    mask[1, 7:] = mask[2, 1:] = 0
    together = model(input_ids, mask).logits
    for i, n in enumerate((12, 7, 1)):
        alone = model(input_ids[i : i + 1, :n]).logits
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-5, atol=1e-5)


def test_a_mixer_without_lengths_takes_full_batches():
    model = build(SeTformerModel, attention=dict(type="PivotAttention"))
    mask = torch.ones(2, 12)
    assert model(tokens(2, 12), mask)[0].shape == (2, 12, 16)
    mask[0, 11] = 0
    with pytest.raises(ValueError, match="PivotAttention mixes in padding"):
        model(tokens(2, 12), mask)


def test_padding_on_the_left_is_refused():
    mask = torch.tensor([[0, 1, 1]])
    with pytest.raises(ValueError, match="padding_side to 'right'"):
        build(SeTformerModel)(tokens(1, 3), mask)


def test_sequences_beyond_the_positions_are_refused():
    with pytest.raises(ValueError, match="max_position_embeddings = 24 .* got 25"):
        build(SeTformerModel)(tokens(1, 25))


def test_parts_of_a_pair_count():
    model = build(SeTformerModel)
    input_ids, types = tokens(1, 6), torch.tensor([[0, 0, 0, 1, 1, 1]])
    first = model(input_ids)[0]
    of_one_part = model(input_ids, None, torch.zeros_like(types))[0]
    torch.testing.assert_close(of_one_part, first)
    assert not torch.allclose(model(input_ids, token_type_ids=types)[0], first)


def test_losses():
    input_ids = tokens(4, 9)
    classifier = build(SeTformerForSequenceClassification, num_labels=3)
    labels = torch.tensor([0, 2, 1, 1])
    out = classifier(input_ids, labels=labels)
    expected = torch.nn.functional.cross_entropy(out.logits, labels)
    torch.testing.assert_close(out.loss, expected)
    regression = build(SeTformerForSequenceClassification, num_labels=1)
    out = regression(input_ids, labels=labels.float())
    expected = (out.logits[:, 0] - labels).square().mean()
    torch.testing.assert_close(out.loss, expected)
    language = build(SeTformerForMaskedLM)
    asked = torch.where(torch.rand(4, 9) < 0.3, input_ids, -100)
    asked[0, 0] = input_ids[0, 0]
    out = language(input_ids, labels=asked)
    logits = out.logits[asked >= 0]
    expected = torch.nn.functional.cross_entropy(logits, asked[asked >= 0])
    torch.testing.assert_close(out.loss, expected)
    assert language.decoder.weight is language.setformer.embeddings.words.weight


def test_recomputation_gives_the_same_gradients():
    model = build(SeTformerForMaskedLM).train()
    input_ids = tokens(2, 9)
    gradients = []
    for _ in range(2):
        model.zero_grad()
        model(input_ids, labels=input_ids).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
        model.gradient_checkpointing_enable()
    assert model.setformer.encoder.stage.with_cp and model.is_activation_checkpointing
    for one, other in zip(*gradients):
        torch.testing.assert_close(one, other)
    model.gradient_checkpointing_disable()
    assert not model.setformer.encoder.stage.with_cp


class Parity(torch.utils.data.Dataset):
    """Whether a sequence of changing length holds more 2s than 1s."""

    def __init__(self, count, seed):
        draw = torch.Generator().manual_seed(seed)
        self.items = []
        while len(self.items) < count:
            length = int(torch.randint(5, 20, (), generator=draw))
            ids = torch.randint(1, 3, (length,), generator=draw)
            if (ids == 1).sum() != (ids == 2).sum():
                label = int((ids == 2).sum() > (ids == 1).sum())
                self.items.append(dict(input_ids=ids.tolist(), labels=label))

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def pad(items):
    longest = max(len(item["input_ids"]) for item in items)
    ids = [i["input_ids"] + [0] * (longest - len(i["input_ids"])) for i in items]
    ids = torch.tensor(ids)
    labels = torch.tensor([item["labels"] for item in items])
    return dict(input_ids=ids, attention_mask=(ids > 0).long(), labels=labels)


def test_trainer_learns_and_goes_on(tmp_path):
    """A training that learns, its checkpoint, and a second one that goes on from it."""
    pytest.importorskip("accelerate")
    from transformers import Trainer, TrainingArguments

    def trainer(steps):
        settings = TrainingArguments(
            str(tmp_path),
            max_steps=steps,
            per_device_train_batch_size=16,
            learning_rate=3e-3,
            save_steps=40,
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            seed=0,
        )
        transformers.set_seed(0)
        return Trainer(
            build(SeTformerForSequenceClassification, num_labels=2),
            settings,
            data_collator=pad,
            train_dataset=Parity(400, 1),
            eval_dataset=Parity(100, 2),
            compute_metrics=lambda e: dict(
                accuracy=float((e.predictions.argmax(-1) == e.label_ids).mean())
            ),
        )

    whole = trainer(80)
    whole.train()
    measured = whole.evaluate()
    assert measured["eval_accuracy"] > 0.85, measured
    resumed = trainer(80)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-40"))
    for name, value in resumed.model.state_dict().items():
        torch.testing.assert_close(value, whole.model.state_dict()[name])


def test_every_mixer_of_sequences_fits_into_a_config():
    for name, mixer in TOKEN_MIXERS.module_dict.items():
        if mixer.is_two_dimensional is not True:
            assert build(SeTformerModel, attention=dict(type=name))(tokens(1, 5))
