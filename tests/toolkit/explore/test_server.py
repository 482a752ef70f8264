"""What the page's server answers, and what it refuses."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette")

from starlette.testclient import TestClient

from toolkit.explore import server
from toolkit.explore.models import token_view

DETECTOR = "mask_rcnn_setformer_digits"


@pytest.fixture
def explorer(models):
    return server.Explorer(list(models.values()))


@pytest.fixture
def client(explorer):
    app = server.build_app(explorer)
    return TestClient(app, "http://127.0.0.1:1", raise_server_exceptions=False)


def look(client, content: bytes, model: str = DETECTOR, **headers):
    url = f"/api/models/{model}/look?name=a.png"
    return client.post(url, content=content, headers=headers)


def test_from_a_picture_to_the_weights_of_a_token(client, explorer, png):
    seen = look(client, png).json()
    assert (seen["width"], seen["height"], seen["kind"]) == (128, 77, "instances")
    base = f"/api/looks/{seen['id']}"
    for name, mode in (("picture", "RGB"), ("overlay", "RGBA")):
        answer = client.get(f"{base}/{name}.png")
        drawn = Image.open(io.BytesIO(answer.content))
        assert (drawn.size, drawn.mode) == ((128, 77), mode)
    stage = seen["stages"][2]
    assert (stage["rows"], stage["columns"], stage["blocks"]) == (5, 8, 3)
    place = "stage=2&block=1&row=4&column=7"
    heads = client.get(f"{base}/token?{place}").json()["heads"]
    transport = explorer.look(seen["id"]).recorded[2, 1].transport()
    assert heads == token_view(transport, 39)
    place = "stage=2&block=1&head=3&reference=15"
    served = client.get(f"{base}/reference?{place}").json()
    assert served["serves"][39] == heads[3]["weight_back"][15]


def test_the_model_runs_once_a_picture(client, explorer, models, png, monkeypatch):
    runs = []
    model = models["mmdet"].model
    step = model.test_step
    monkeypatch.setattr(model, "test_step", lambda data: runs.append(1) or step(data))
    base = f"/api/looks/{look(client, png).json()['id']}"
    for column in range(3):
        client.get(f"{base}/token?stage=0&block=0&row=0&column={column}")
    assert len(runs) == 1
    assert explorer.transport.cache_info().misses == 1


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("token?stage=4&block=0&row=0&column=0", "stage must be in 0..3, got '4'"),
        ("token?stage=2&block=3&row=0&column=0", "block must be in 0..2, got '3'"),
        ("token?stage=3&block=0&row=3&column=0", "row must be in 0..2, got '3'"),
        ("token?stage=3&block=0&row=0&column=x", "column must be in 0..3, got 'x'"),
        ("token?stage=3&block=0&row=0", "column must be in 0..3, got ''"),
        ("reference?stage=0&block=0&head=1&reference=0", "head must be in 0..0, got"),
        ("reference?stage=0&block=0&head=0&reference=-1", "reference must be in 0..15"),
    ],
)
def test_numbers_out_of_range(client, png, path, message):
    key = look(client, png).json()["id"]
    answer = client.get(f"/api/looks/{key}/{path}")
    assert answer.status_code == 400
    assert message in answer.json()["error"]


def test_uploads_that_are_refused(client, png, monkeypatch):
    def refused(content, status=400, **fields):
        answer = look(client, content, **fields)
        assert answer.status_code == status
        return answer.json()["error"]

    assert refused(b"<html>") == "a.png is no picture that Pillow reads"
    assert refused(b"") == "a.png is empty"
    assert "cannot be decoded" in refused(png[: len(png) // 2])
    assert refused(png, 404, model="none") == "there is no model 'none'"
    site = refused(png, 403, origin="http://example.com")
    assert site == "pictures come from this page alone, not http://example.com"
    assert refused(png, 403, origin="null")
    monkeypatch.setattr(server, "MAX_BYTES", 2**20)
    large = "a.png is larger than 1 MiB; make it smaller"
    assert refused(b"x" * (2**20 + 1), 413) == large
    monkeypatch.setattr(server, "MAX_PIXELS", 13_000)
    assert refused(png) == (
        "a.png has 150 x 90 pixels, more than 0.013 million; make it smaller"
    )


def test_the_page_itself_may_send(client, png):
    assert look(client, png, origin="http://127.0.0.1:1").status_code == 200


@pytest.mark.parametrize("host", ["example.com", "192.168.0.2:1", "127.0.0.1.evil.com"])
def test_other_hosts_are_refused(client, host):
    answer = client.get("/api/models", headers=dict(host=host))
    assert answer.status_code == 400


def test_old_looks_are_given_up(client, png, monkeypatch):
    monkeypatch.setattr(server, "KEPT_LOOKS", 1)
    first, second = (look(client, png).json()["id"] for _ in range(2))
    assert client.get(f"/api/looks/{second}/picture.png").status_code == 200
    answer = client.get(f"/api/looks/{first}/token?stage=0&block=0&row=0&column=0")
    assert answer.status_code == 404
    assert answer.json()["error"].startswith("this picture is not kept any more")


def test_the_page_loads_nothing_from_elsewhere(client):
    page = client.get("/")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for path in server.PAGE.iterdir():
        text = path.read_text("utf-8")
        assert "http" not in text.replace("http://www.w3.org/2000/svg", ""), path
        assert client.get(f"/{path.name}").status_code == 200
    assert client.get("/../server.py").status_code == 404
    assert client.get("/%2e%2e/server.py").status_code == 404


def test_samples(client, explorer, models, picture, tmp_path, monkeypatch):
    path = tmp_path / "sample.png"
    Image.fromarray(picture).save(path)
    explorer.models[DETECTOR] = replace(models["mmdet"], samples=[path])
    listed = client.get("/api/models").json()["models"]
    assert listed[0] == dict(name=DETECTOR, samples=["sample.png"])
    base = f"/api/models/{DETECTOR}"
    shown = client.get(f"{base}/sample?sample=0").content
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(shown))), picture)
    assert client.post(f"{base}/look?sample=0").json()["width"] == 128
    answer = client.post(f"{base}/look?sample=1")
    assert answer.json()["error"] == "sample must be in 0..0, got '1'"
    path.unlink()
    assert "sample.png" in client.post(f"{base}/look?sample=0").json()["error"]


def test_a_failure_is_a_sentence(client, explorer, png, monkeypatch):
    monkeypatch.setattr(explorer, "look", lambda key: 1 / 0)
    answer = client.get("/api/looks/x/picture.png")
    assert answer.status_code == 500
    assert answer.json()["error"] == (
        "the server failed (ZeroDivisionError); its terminal says more"
    )
