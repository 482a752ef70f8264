"""README, and how the site is built from it and from docs/."""

import importlib.util
import logging
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def test_readme_takes_five_minutes():
    assert len(README.split()) <= 1500


def test_first_experiment_of_the_readme(tmp_path):
    """It is the config that it says, of the file name and the weights that it says."""
    pytest.importorskip("mmpretrain")
    from mmengine.config import Config
    from mmengine.registry import MODELS, DefaultScope

    (name, text) = re.search(
        r"cat > configs/(\w+\.py) <<'EOF'\n(.*?)EOF\n", README, re.DOTALL
    ).groups()
    assert f"python tools/train.py configs/{name}" in README
    assert f"`work_dirs/{Path(name).stem}`" in README
    for folder in ("_base_", "digits"):
        (tmp_path / folder).symlink_to(ROOT / "configs" / folder)
    (tmp_path / name).write_text(text, "utf-8")
    cfg = Config.fromfile(tmp_path / name)
    assert cfg.train_cfg.max_epochs == 1
    assert (ROOT / cfg.load_from).exists()
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    mixers = [block.attn for stage in model.backbone.stages for block in stage.blocks]
    assert {mixer.num_iters for mixer in mixers} == {3}


@pytest.fixture(scope="module")
def repository():
    """The hook of the site, docs/site/repository.py."""
    pytest.importorskip("mkdocs")
    path = ROOT / "docs" / "site" / "repository.py"
    spec = importlib.util.spec_from_file_location("site_repository", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("source", "link", "expected"),
    [
        ("README.md", "[a](docs/method.md#padding)", "[a](method.md#padding)"),
        ("README.md", "![a](docs/images/bench_op.png)", "![a](images/bench_op.png)"),
        ("README.md", "[a](CHANGELOG.md)", "[a](changelog.md)"),
        ("README.md", "[`a`](LICENSE)", "`a`"),
        ("docs/api/ops.md", "[a](../method.md)", "[a](../method.md)"),
        ("docs/tables.md", "[a](../README.md#models)", "[a](index.md#models)"),
        ("docs/tables.md", "[a](data/README.md)", "[a](data/README.md)"),
        ("docs/tables.md", "[a](data/demos.yaml) b", "a b"),
        ("docs/tables.md", "[a](https://a.b) [c](#c)", "[a](https://a.b) [c](#c)"),
        ("docs/tables.md", "```\n[a](LICENSE)\n```", "```\n[a](LICENSE)\n```"),
    ],
)
def test_links_become_those_of_the_site(repository, caplog, source, link, expected):
    place = "index.md" if source == "README.md" else source.removeprefix("docs/")
    assert repository.links_of_the_site(link, source, place, None) == expected
    assert not caplog.records


def test_links_to_the_repository_lead_to_its_address(repository):
    text = repository.links_of_the_site(
        "[a](../setup.py)", "docs/tables.md", "tables.md", "https://host/project/"
    )
    assert text == "[a](https://host/project/blob/main/setup.py)"


def test_a_link_to_no_file_is_a_warning(repository, caplog):
    repository.links_of_the_site("[a](../no.py)", "docs/tables.md", "tables.md", None)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert (
        record.getMessage() == "docs/tables.md links to ../no.py, which does not exist"
    )
    assert record.name.startswith("mkdocs.")  # those count in a strict build


@pytest.mark.parametrize(
    ("text", "is_refused"),
    [
        ('[b](b.md#known)\n\n```python exec="1"\nprint(1)\n```', False),
        ("[b](no.md)", True),
        ("[b](b.md#unknown)", True),
        ('```python exec="1"\nassert False\n```', True),
        ('```bash exec="1"\nfalse\n```', True),
    ],
)
def test_the_site_is_refused_with_its_first_fault(text, is_refused, tmp_path):
    pytest.importorskip("markdown_exec")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config
    from mkdocs.exceptions import Abort

    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text(text, "utf-8")
    (tmp_path / "docs" / "b.md").write_text("## Known", "utf-8")
    config = load_config(
        str(ROOT / "mkdocs.yml"),
        docs_dir=str(tmp_path / "docs"),
        site_dir=str(tmp_path / "site"),
        nav=["a.md", "b.md"],
        hooks=[],
        plugins=["markdown-exec"],
    )
    if is_refused:
        with pytest.raises(Abort, match="strict mode"):
            build(config)
    else:
        build(config)
        assert "<p>1</p>" in (tmp_path / "site" / "a" / "index.html").read_text("utf-8")
