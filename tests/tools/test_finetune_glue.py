"""tools/finetune_glue.py on local files of GLUE's form: it learns and complains."""

import csv
import json
import random

import pytest

pytest.importorskip("transformers", "5")
pytest.importorskip("datasets")
pytest.importorskip("accelerate")

from tokenizers import Tokenizer  # noqa: E402
from tokenizers.models import WordLevel  # noqa: E402
from tokenizers.pre_tokenizers import Whitespace  # noqa: E402
from transformers import AutoTokenizer, PreTrainedTokenizerFast  # noqa: E402

from setformer_mm.transformers import (  # noqa: E402
    SeTformerConfig,
    SeTformerForMaskedLM,
    SeTformerForSequenceClassification,
)
from setformer_mm.utils.errors import UserError  # noqa: E402

GOOD, BAD = ("fine", "lovely", "great"), ("poor", "awful", "dull")
FILLERS = ("film", "the", "plot", "was", "a", "with", "scenes")
SPECIAL = dict(pad_token="[PAD]", unk_token="[UNK]")


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    """A masked language model as it begins, and a tokenizer of whole words."""
    words = ["[PAD]", "[UNK]", *GOOD, *BAD, *FILLERS]
    vocabulary = WordLevel({word: i for i, word in enumerate(words)}, "[UNK]")
    tokenizer = Tokenizer(vocabulary)
    tokenizer.pre_tokenizer = Whitespace()
    folder = tmp_path_factory.mktemp("model")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL).save_pretrained(
        folder
    )
    config = SeTformerConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    SeTformerForMaskedLM(config).save_pretrained(folder)
    return folder


def write_rows(path, count, columns, rng):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, "label"])
        for _ in range(count):
            label = rng.randrange(2)
            sentences = []
            for _ in columns:
                chosen = rng.choices(FILLERS, k=rng.randint(3, 9))
                chosen.append(rng.choice((BAD, GOOD)[label]))
                sentences.append(" ".join(rng.sample(chosen, len(chosen))))
            writer.writerow([*sentences, label])


@pytest.mark.parametrize(
    "task, columns, metrics",
    [
        ("sst2", ("sentence",), {"accuracy"}),
        ("mrpc", ("sentence1", "sentence2"), {"accuracy", "f1"}),
        ("stsb", ("sentence1", "sentence2"), {"pearson", "spearman"}),
    ],
)
def test_it_learns(tool, language_model, tmp_path, task, columns, metrics, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LOCAL_RANK")  # which says to Trainer that there are several
    rng = random.Random(0)
    write_rows(tmp_path / "train.csv", 256, columns, rng)
    write_rows(tmp_path / "validation.csv", 64, columns, rng)
    flags = ["--train", tmp_path / "train.csv"]
    flags += ["--validation", tmp_path / "validation.csv", "--task", task]
    flags += [
        "--out",
        tmp_path / "out",
        "--learning-rate",
        "1e-2",
        "--batch-size",
        "16",
    ]
    tool("finetune_glue", language_model, *flags)
    found = json.loads((tmp_path / "out" / "glue_result.json").read_text())["metrics"]
    assert metrics <= {name.removeprefix("eval_") for name in found}
    assert all(found[f"eval_{name}"] > 0.8 for name in metrics), found
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_mistakes_in_files(tool, language_model, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write_rows(tmp_path / "texts.csv", 4, ("text",), random.Random(0))
    flags = ["--task", "sst2", "--out", tmp_path / "out"]

    def files(name):
        return ["--train", tmp_path / name, "--validation", tmp_path / name]

    with pytest.raises(UserError, match="texts.csv lacks the columns sentence of sst2"):
        tool("finetune_glue", language_model, *flags, *files("texts.csv"))
    with pytest.raises(UserError, match="texts are CSV or JSON files, got .*gone.csv"):
        tool("finetune_glue", language_model, *flags, *files("gone.csv"))
    write_rows(tmp_path / "good.csv", 4, ("sentence",), random.Random(0))
    with pytest.raises(UserError, match="nowhere cannot be loaded"):
        tool("finetune_glue", tmp_path / "nowhere", *flags, *files("good.csv"))
    with pytest.raises(SystemExit):
        tool("finetune_glue", language_model, *flags, *files("good.csv")[:2])
    assert not (tmp_path / "out").exists()


def write_labels(path, labels):
    path.write_text("sentence,label\n" + "".join(f"fine,{y}\n" for y in labels))
    return path


MISTAKES = {
    "from 1": ([1, 2], [1], [], "labels of sst2 must be 0 to 1.* got 1, 2"),
    "names": (["bad", "good"], ["bad"], [], "must be 0 to 1.* got 'bad', 'good'"),
    "only in the validation": ([0, 1], [2], [], "as the training has 2 of them"),
    "positions": ([0, 1], [0], ["--max-length", "600"], "at most .* 512 positions"),
}


@pytest.mark.parametrize(
    "train, validation, more, message", MISTAKES.values(), ids=MISTAKES
)
def test_mistakes_before_the_training(
    tool, language_model, tmp_path, monkeypatch, train, validation, more, message
):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    flags = ["--task", "sst2", "--out", tmp_path / "out"]
    flags += ["--train", write_labels(tmp_path / "train.csv", train)]
    flags += ["--validation", write_labels(tmp_path / "validation.csv", validation)]
    with pytest.raises(UserError, match=message):
        tool("finetune_glue", language_model, *flags, *more)


def test_flags_are_positive(tool, language_model, tmp_path, capsys):
    flags = ["--task", "sst2", "--out", tmp_path / "out", "--batch-size", "0"]
    with pytest.raises(SystemExit):
        tool("finetune_glue", language_model, *flags)
    assert "--batch-size must be positive, got 0" in capsys.readouterr().err


def test_a_head_for_other_labels_is_replaced(
    tool, language_model, tmp_path, monkeypatch
):
    """As from MNLI or STS-B to RTE; a file may have columns of its own."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    model = SeTformerForSequenceClassification.from_pretrained(
        language_model, num_labels=3, problem_type="regression"
    )
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(language_model).save_pretrained(tmp_path / "model")
    columns = ("sentence1", "sentence2")
    write_rows(tmp_path / "train.csv", 8, columns, random.Random(0))
    write_rows(tmp_path / "validation.csv", 8, (*columns, "note"), random.Random(1))
    flags = ["--train", tmp_path / "train.csv"]
    flags += ["--validation", tmp_path / "validation.csv", "--epochs", "1"]
    out = tmp_path / "out"
    tool("finetune_glue", tmp_path / "model", "--task", "rte", "--out", out, *flags)
    config = SeTformerConfig.from_pretrained(out)
    assert config.num_labels == 2
    assert config.problem_type == "single_label_classification"
