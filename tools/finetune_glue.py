"""Fine-tune a language model of the family on a task of GLUE.

``python tools/finetune_glue.py MODEL --task sst2 --out work_dirs/sst2`` takes a folder
that ``save_pretrained`` wrote, with its tokenizer, and GLUE from the Hugging Face Hub;
``--train FILE --validation FILE`` takes CSV or JSON files with the columns of the task
instead. The recipe is that of BERT-base (Devlin et al., arXiv 1810.04805, appendix
A.3): batches of 32, 3 epochs, AdamW with a highest learning rate of 2e-5, a tenth of
the steps to reach it, linear decay, and 128 tokens.

It has not been run on GLUE by this project, which had no access to the Hub; a test
runs it on local files of the same form.
"""

import argparse
from math import isfinite
from pathlib import Path

# The columns of each task's sentences, and GLUE's metrics.
TASKS = {
    "cola": (("sentence",), ("matthews",)),
    "sst2": (("sentence",), ("accuracy",)),
    "mrpc": (("sentence1", "sentence2"), ("accuracy", "f1")),
    "stsb": (("sentence1", "sentence2"), ("pearson", "spearman")),
    "qqp": (("question1", "question2"), ("accuracy", "f1")),
    "mnli": (("premise", "hypothesis"), ("accuracy",)),
    "qnli": (("question", "sentence"), ("accuracy",)),
    "rte": (("sentence1", "sentence2"), ("accuracy",)),
    "wnli": (("sentence1", "sentence2"), ("accuracy",)),
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder of weights and tokenizer, or a Hub name")
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--train", type=Path, help="CSV or JSON file instead of GLUE's")
    parser.add_argument("--validation", type=Path, help="likewise")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--max-length", type=int, default=128, help="tokens")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if (args.train is None) != (args.validation is None):
        parser.error("--train and --validation go together")
    for name in ("epochs", "batch_size", "learning_rate", "max_length"):
        if not getattr(args, name) > 0:
            flag = name.replace("_", "-")
            parser.error(f"--{flag} must be positive, got {getattr(args, name)}")
    return args


if __name__ == "__main__":
    parse_args()  # answers --help before the seconds of the imports below

import numpy as np
from datasets import DatasetDict, load_dataset
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)

import setformer_mm.transformers  # noqa: F401  registers the family
from setformer_mm.utils.errors import UserError
from setformer_mm.utils.files import write_atomically
from setformer_mm.utils.json_text import json_text
from toolkit.launch import run_tool
from toolkit.outputs import require_writable_folder

METRICS = {
    "accuracy": accuracy_score,
    "f1": f1_score,
    "matthews": matthews_corrcoef,
    "pearson": lambda labels, scores: pearsonr(labels, scores).statistic,
    "spearman": lambda labels, scores: spearmanr(labels, scores).statistic,
}
REGRESSION = "stsb"
FILE_TYPES = {".csv": "csv", ".json": "json", ".jsonl": "json"}


def load_texts(args: argparse.Namespace) -> DatasetDict:
    """The splits "train" and "validation" of a task.

    Raises:
        UserError: if a file is missing or lacks a column, or the Hub is out of reach.
    """
    if args.train is None:
        try:
            texts = load_dataset("nyu-mll/glue", args.task)
        except Exception as error:  # of many kinds, without the network
            raise UserError(
                f"GLUE cannot be loaded from the Hub ({type(error).__name__}); name "
                "files with --train and --validation"
            ) from error
        name = "validation_matched" if args.task == "mnli" else "validation"
        return DatasetDict(train=texts["train"], validation=texts[name])
    files = dict(train=args.train, validation=args.validation)
    for path in files.values():
        if path.suffix not in FILE_TYPES or not path.is_file():
            raise UserError(f"texts are CSV or JSON files, got {path}")
    texts = DatasetDict(
        {
            name: load_dataset(
                FILE_TYPES[path.suffix], data_files=str(path), split="train"
            )
            for name, path in files.items()
        }
    )
    needed = {*TASKS[args.task][0], "label"}
    for name, split in texts.items():
        if missing := needed - {*split.column_names}:
            raise UserError(
                f"{files[name]} lacks the columns {', '.join(sorted(missing))} of "
                f"{args.task}"
            )
    return texts


def count_labels(texts: DatasetDict, task: str) -> int:
    """Labels of a task, 1 for a regression.

    Raises:
        UserError: if they are no numbers, or those of classes not 0, 1, ...
    """
    used = {name: set(split["label"]) for name, split in texts.items()}
    labels = set.union(*used.values())
    if task == REGRESSION:
        if all(isinstance(label, int | float) and isfinite(label) for label in labels):
            return 1
        raise UserError(f"the labels of {task} must be finite numbers")
    count = max(2, len(used["train"]))
    if all(type(label) is int and 0 <= label < count for label in labels):
        return count
    some = ", ".join(sorted(map(repr, labels))[:5])
    raise UserError(
        f"the labels of {task} must be 0 to {count - 1}, as the training has {count} "
        f"of them, got {some}"
    )


def load_model(
    path: str, num_labels: int, max_length: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model with a head for the labels, new if its own is for others, and tokenizer.

    Raises:
        UserError: if there is none, or it cannot take such sequences.
    """
    kind = "regression" if num_labels == 1 else "single_label_classification"
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        model = AutoModelForSequenceClassification.from_pretrained(
            path,
            num_labels=num_labels,
            problem_type=kind,  # else that of the head before
            ignore_mismatched_sizes=True,
        )
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} cannot be loaded: {reason}") from error
    longest = getattr(model.config, "max_position_embeddings", max_length)
    if max_length > longest:
        raise UserError(f"--max-length must be at most {path}'s {longest} positions")
    if tokenizer.pad_token is None:
        raise UserError(f"the tokenizer of {path} must have a pad_token")
    tokenizer.padding_side = "right"
    return model, tokenizer


def measured(task: str, evaluated: EvalPrediction) -> dict[str, float]:
    """GLUE's metrics of a task."""
    scores = np.asarray(evaluated.predictions)
    answers = scores[:, 0] if task == REGRESSION else scores.argmax(-1)
    names = TASKS[task][1]
    return {name: float(METRICS[name](evaluated.label_ids, answers)) for name in names}


def main() -> None:
    args = parse_args()
    require_writable_folder(args.out, "--out")
    texts = load_texts(args)
    is_regression = args.task == REGRESSION
    num_labels = count_labels(texts, args.task)
    model, tokenizer = load_model(args.model, num_labels, args.max_length)
    columns = TASKS[args.task][0]

    def tokenized(batch: dict) -> dict:
        sentences = [batch[column] for column in columns]
        found = tokenizer(*sentences, truncation=True, max_length=args.max_length)
        labels = batch["label"]
        found["labels"] = [float(y) for y in labels] if is_regression else labels
        return found

    texts = DatasetDict(
        {
            name: split.map(tokenized, batched=True, remove_columns=split.column_names)
            for name, split in texts.items()
        }
    )
    settings = TrainingArguments(
        str(args.out),
        num_train_epochs=args.epochs,
        per_device_train_batch_size=args.batch_size,
        per_device_eval_batch_size=2 * args.batch_size,
        learning_rate=args.learning_rate,
        weight_decay=0.01,
        warmup_steps=0.1,  # a share of all
        lr_scheduler_type="linear",
        eval_strategy="epoch",
        save_strategy="no",
        report_to=[],
        seed=args.seed,
    )
    trainer = Trainer(
        model,
        settings,
        data_collator=DataCollatorWithPadding(tokenizer),
        train_dataset=texts["train"],
        eval_dataset=texts["validation"],
        processing_class=tokenizer,
        compute_metrics=lambda evaluated: measured(args.task, evaluated),
    )
    trainer.train()
    metrics = trainer.evaluate()
    trainer.save_model(str(args.out))
    result = dict(task=args.task, model=args.model, metrics=metrics, seed=args.seed)
    write_atomically(args.out / "glue_result.json", json_text(result, indent=1))
    print(", ".join(f"{n} {metrics[f'eval_{n}']:.4f}" for n in TASKS[args.task][1]))


if __name__ == "__main__":
    run_tool(main)
