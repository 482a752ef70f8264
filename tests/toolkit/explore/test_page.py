"""The page in a browser: what it shows is what the operator computes."""

import base64
import shutil
import threading

import pytest
import torch

uvicorn = pytest.importorskip("uvicorn")
sync_api = pytest.importorskip("playwright.sync_api")

from setformer_mm.ops import transport_plan  # noqa: E402
from toolkit.explore.server import Explorer, build_app  # noqa: E402

# The token of the first stage in the middle of the picture.
CENTRE = 9, 16
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DROP = """([name, content]) => {
    const bytes = Uint8Array.from(atob(content), (char) => char.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], name));
    const event = new DragEvent("drop", { dataTransfer: data, bubbles: true });
    document.getElementById("stage").dispatchEvent(event);
}"""


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        # The system's, or the one of `playwright install chromium`.
        path = next(filter(None, map(shutil.which, BROWSERS)), None)
        try:
            # Chromium as root, as in containers, runs without its sandbox only.
            launched = playwright.chromium.launch(
                executable_path=path, args=["--no-sandbox"]
            )
        except sync_api.Error as error:
            pytest.skip(
                "there is no browser: install chromium, or run `playwright install "
                f"chromium` ({str(error).splitlines()[0]})"
            )
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def explorer(models):
    return Explorer(list(models.values()))


@pytest.fixture(scope="module")
def url(explorer):
    config = uvicorn.Config(
        build_app(explorer), port=0, log_level="warning", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    listening = config.bind_socket()
    # A browser that waits for an answer must not keep the tests from ending.
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join(timeout=10)


@pytest.fixture
def page(browser, url):
    """The page, on which no script fails and which asks nobody else."""
    with browser.new_context(viewport=dict(width=1280, height=900)) as context:
        page = context.new_page()
        failures, requests = [], []
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(url)
        page.wait_for_selector("#model option", state="attached")
        yield page
        assert failures == []
        assert all(u.startswith((url, "blob:")) for u in requests), requests


def drop(page, content: bytes, name: str = "a.png") -> None:
    page.evaluate(DROP, [name, base64.b64encode(content).decode()])


def shown(page, block: str, token: tuple[int, int]) -> str:
    """Wait until the page shows a head of a block and a token; return its look."""
    text = f" {block} {token[0]},{token[1]}"
    page.wait_for_selector(f"body[data-shown$='{text}']", timeout=30_000)
    return page.get_attribute("body", "data-shown").split()[0]


def click_token(page, row: int, column: int, rows: float, columns: float) -> None:
    """Click its centre; the grid is that of the picture's pixels over the stride."""
    canvas = page.locator("#picture")
    box = canvas.bounding_box()
    x, y = (column + 0.5) / columns * box["width"], (row + 0.5) / rows * box["height"]
    canvas.click(position=dict(x=x, y=y))


def numbers(page, selector: str) -> list[float]:
    return [float(text) for text in page.locator(selector).all_text_contents()]


def assert_printed(printed: list[float], exact: torch.Tensor, digits: int) -> None:
    half = 0.5 * 10**-digits + 1e-4  # the page rounds what was float32 in the model
    assert len(printed) == len(exact)
    for text, value in zip(printed, exact.tolist()):
        assert abs(text - value) <= half


def test_weights_of_a_clicked_token_are_the_operators(page, explorer, models, png):
    model = models["mmseg"]
    page.select_option("#model", model.name)
    drop(page, png)
    shown(page, "0.0.0", CENTRE)
    page.click("[data-block='2.1']")
    shown(page, "2.1.0", (2, 4))
    click_token(page, 2, 5, 77 / 16, 128 / 16)
    shown(page, "2.1.0", (2, 5))
    page.click("#heads button:nth-child(4)")
    key = shown(page, "2.1.3", (2, 5))

    attention = model.attentions[2, 1]
    tokens = explorer.look(key).recorded[2, 1].tokens
    rows, columns = tokens.shape[:2]
    assert (rows, columns) == (5, 8)
    count, token, head = rows * columns, 2 * columns + 5, 3
    x = tokens.reshape(1, count, attention.num_heads, attention.head_dim).double()
    parameters = [parameter.double() for parameter in attention.folding_parameters()]
    fields = dict(epsilon=attention.epsilon, num_iters=attention.num_iters)
    page.click("summary")
    for way, column in (("in", 2), ("back", 4)):
        plan = transport_plan(x, *parameters, way=way, **fields, alpha=attention.alpha)
        percents = 100 * count * plan[0, head, token]
        assert percents.sum().item() == pytest.approx(100)
        assert_printed(numbers(page, f"#references-{way} button"), percents, 1)
        table = f"#numbers tbody td:nth-child({column})"
        assert_printed(numbers(page, table), percents, 2)

    page.click("text=With positions")
    page.wait_for_selector("text=What the model uses")
    to_tokens, from_tokens = explorer.transport(key, 2, 1).factors
    served = numbers(page, "#references-back button")
    assert_printed(served, 100 * to_tokens[head, token], 1)
    counts = numbers(page, "#references-in button")
    assert_printed(counts, count * from_tokens[head, :, token], 2)
    best = int(to_tokens[head, token].argmax())
    assert f"Reference {best} serves it most" in page.inner_text("#words")


def test_a_reference_shows_what_it_does(page, png):
    drop(page, png)
    shown(page, "0.0.0", CENTRE)
    page.click("#references-in button:nth-child(6)")
    page.wait_for_selector("#references-in button:nth-child(6)[aria-pressed=true]")
    assert page.is_checked("input[value=reference]")
    assert page.inner_text("#caption").startswith("What reference 5")
    page.click("#references-back button:nth-child(8)")
    page.wait_for_selector("#references-back button:nth-child(8)[aria-pressed=true]")
    assert page.inner_text("#caption").startswith("Whom reference 7")


def test_all_models_and_the_keyboard(page, models, png):
    drop(page, png)
    shown(page, "0.0.0", CENTRE)
    assert page.locator("#items li").count() >= 1
    page.select_option("#model", models["mmpretrain"].name)
    shown(page, "0.0.0", (8, 8))  # the same place in 64 x 64 pixels
    assert page.locator("#items li").count() == 5
    page.focus("#picture")
    for key in ("ArrowRight", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    shown(page, "0.0.0", (9, 10))
    assert page.is_checked("input[value=receives]")
    page.keyboard.press("Shift+B")  # backwards from the first block to the last
    shown(page, "3.0.0", (1, 1))
    page.keyboard.press("h")
    shown(page, "3.0.1", (1, 1))


def test_errors_are_sentences_and_leave_what_was_shown(page, png):
    drop(page, b"<html>", "page.jpg")
    page.wait_for_selector("#error:not([hidden])")
    error = page.inner_text("#error")
    assert error == "Page.jpg is no picture that Pillow reads."
    drop(page, png)
    key = shown(page, "0.0.0", CENTRE)
    assert page.is_hidden("#error")
    page.route("**/api/**", lambda route: route.abort())
    drop(page, png)
    page.wait_for_selector("#error:not([hidden])")
    assert page.inner_text("#error").startswith("The server does not answer")
    assert shown(page, "0.0.0", CENTRE) == key


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_small_screens(page, png, scheme):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size(dict(width=360, height=700))
    drop(page, png)
    shown(page, "0.0.0", CENTRE)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    luminance = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g)[0]"
    assert (int(page.evaluate(luminance)) > 128) == (scheme == "light")
