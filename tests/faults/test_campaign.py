"""A short campaign: a few cases of each group, and what counts as a failure."""

import pytest

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")
pytest.importorskip("mmpretrain")

from setformer_mm.utils.errors import UserError

from .campaign import ACCEPTED, IDENTICAL, REFUSED, Campaign, Case, Fault
from .child import run
from .groups import GROUPS, cases_of, import_host_libraries
from .outputs import refused, refused_or_same

# Of each group, so that all take some ten seconds.
NUMBERS = dict(zip(GROUPS, (8, 3, 3, 3, 1, 1)))


@pytest.fixture(scope="module", autouse=True)
def warm():
    import_host_libraries()


@pytest.mark.parametrize("group", GROUPS)
def test_a_few_cases(group, seed, tmp_path):
    campaign = Campaign(seed, tmp_path)
    for name, case in campaign.draw(GROUPS, {group: NUMBERS[group]}):
        campaign.run(name, case)
    print(campaign.markdown())
    assert campaign.failures == []


def test_cases_depend_on_the_seed_alone(tmp_path):
    name = "malicious checkpoint"

    def drawn(seed: int, folder: str) -> list[str]:
        cases = Campaign(seed, tmp_path / folder).draw(GROUPS, {name: 9})
        return [case.name for _, case in cases]

    assert drawn(1, "a") == drawn(1, "b") != drawn(2, "c")


def test_every_group_gets_cases():
    assert sum(cases_of(list(GROUPS), 1000).values()) == 1000
    assert all(cases_of(list(GROUPS), 1).values())


def refuse(sentence: str = "no"):
    raise UserError(sentence)


def trace():
    raise ZeroDivisionError


def test_a_refusal(tmp_path):
    assert refused(run(refuse), tmp_path, "no") == REFUSED


@pytest.mark.parametrize("work", [trace, lambda: None, lambda: refuse("a\nb")])
def test_what_is_no_refusal(tmp_path, work):
    with pytest.raises(Fault):
        refused(run(work), tmp_path)


@pytest.mark.parametrize("name", ["out.pth", "run/epoch_1.pth", "a.partial"])
def test_a_refusal_that_leaves_something(tmp_path, name):
    (tmp_path / "run").mkdir()
    (tmp_path / name).touch()
    with pytest.raises(Fault, match="left"):
        refused(run(refuse), tmp_path)


def test_another_result(tmp_path):
    (tmp_path / "out").write_text("1")
    with pytest.raises(Fault, match="differs"):
        refused_or_same(run(lambda: None), tmp_path, {"out": "another digest"})


def fail(folder):
    raise Fault("of this test")


def test_figures(tmp_path):
    campaign = Campaign(0, tmp_path)
    for work in (lambda _: REFUSED, lambda _: IDENTICAL, lambda _: ACCEPTED, fail):
        campaign.run("group", Case("kind", "name", work))
    assert "of this test" in campaign.failures[0]
    row = campaign.markdown().splitlines()[-1]
    assert [cell.strip() for cell in row.split("|")][1:7] == ["all", *"41111"]
