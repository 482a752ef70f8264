"""Whatever reads a checkpoint: ``reader(tool, toy, folder, path)``.

``tool`` runs a tool, ``toy`` is the folder of the toy job, ``folder`` takes the outputs
(``run`` and ``out*``), and ``path`` names the checkpoint.
"""

import shutil
from types import SimpleNamespace

from in_process import ROOT
from PIL import Image

from setformer_mm.hooks import KMeansReferenceInitHook
from setformer_mm.models import SeTformer

DIGITS = ROOT / "configs/digits/setformer_digits.py"


def train(tool, toy, folder, path, *options):
    work_dir = ["--work-dir", folder / "run"]
    tool("train", toy / "toy_epochs.py", *work_dir, *options)


def resume(tool, toy, folder, path):
    train(tool, toy, folder, path, "--resume", path)


def leave_as_the_last(folder, path):
    """As if a training had written it: others than in its folder are not read."""
    (folder / "run").mkdir(exist_ok=True)
    path = str(path)
    copy = path if "://" in path else shutil.copy(path, folder / "run")
    (folder / "run" / "last_checkpoint").write_text(str(copy))


def resume_the_last(tool, toy, folder, path):
    leave_as_the_last(folder, path)
    train(tool, toy, folder, path, "--resume")


def resume_by_the_config(tool, toy, folder, path):
    """No flag: mmengine's own way."""
    leave_as_the_last(folder, path)
    train(tool, toy, folder, path, "--cfg-options", "resume=True")


def load_from(tool, toy, folder, path):
    train(tool, toy, folder, path, "--cfg-options", f"load_from={path}")


def init_cfg(tool, toy, folder, path):
    options = ["model.init_cfg.type=Pretrained", f"model.init_cfg.checkpoint={path}"]
    train(tool, toy, folder, path, "--cfg-options", *options)


def ablate(tool, toy, folder, path):
    config = folder / "warm_start.py"
    config.write_text(
        f"_base_ = {str(toy / 'toy_epochs.py')!r}\nload_from = {path!r}\n"
    )
    tool("ablate", config, "--out", folder / "ablation")


def evaluate(tool, toy, folder, path):
    tool("test", toy / "toy_epochs.py", path, "--work-dir", folder / "run")


def picture(folder):
    Image.new("RGB", (32, 32)).save(folder / "picture.png")
    return folder / "picture.png"


def predict(tool, toy, folder, path):
    flags = ["--config", DIGITS, "--checkpoint", path, "--out-dir", folder / "out"]
    tool("predict", picture(folder), *flags)


def visualize(tool, toy, folder, path):
    flags = ["--config", DIGITS, "--checkpoint", path, "--out", folder / "out"]
    tool("visualize_transport", picture(folder), *flags)


def explore(tool, toy, folder, path):
    tool("explore", "--model", DIGITS, path)


def publish(tool, toy, folder, path):
    tool("publish_checkpoint", path, folder / "out.pth")


def convert(tool, toy, folder, path):
    tool("convert_checkpoint", path, folder / "out.pth", "--config", DIGITS)


def measure_padding(tool, toy, folder, path):
    tool("measure_padding", toy / "toy_iters.py", path)


def export(tool, toy, folder, path):
    flags = ["--to", "torch-export", "--out", folder / "out.pt2"]
    tool("export", DIGITS, path, *flags)


def k_means(tool, toy, folder, path):
    """The hook looks for anchors in weights that a user's own runner has loaded."""
    attention = dict(reference_shape=(2, 2))
    arch = dict(embed_dims=8, depths=(1,) * 4, num_heads=(1,) * 4, mlp_ratio=1)
    model = SeTformer(arch, out_indices=(0,), attention=attention)
    model.init_cfg = dict(type="Pretrained", checkpoint=path)
    KMeansReferenceInitHook().before_train(SimpleNamespace(model=model, iter=0))


READERS = [
    resume,
    resume_the_last,
    resume_by_the_config,
    load_from,
    init_cfg,
    ablate,
    evaluate,
    predict,
    visualize,
    explore,
    publish,
    convert,
    measure_padding,
    export,
    k_means,
]
