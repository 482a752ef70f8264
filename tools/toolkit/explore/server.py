"""The page's server: pictures come in, predictions and plans go out.

Nothing is written to disk. Errors are ``{"error": sentence}``.
"""

import io
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from setformer_mm.utils.errors import UserError
from setformer_mm.utils.transport import Transport

from ..pictures import decode_picture, read_picture
from .models import ExplorableModel, Look, layout, reference_view, token_view

PAGE = Path(__file__).parent / "page"
HOSTS = ["127.0.0.1", "localhost"]
MAX_BYTES = 20 * 2**20
MAX_PIXELS = 40_000_000
KEPT_LOOKS, KEPT_PLANS = 8, 16

# The page is all that it loads, and no other page may hold it in a frame.
HEADERS = {
    b"content-security-policy": b"default-src 'self'; img-src 'self' blob:; "
    b"frame-ancestors 'none'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-store",
}


class Explorer:
    """Models, and the last few looks that they took.

    Args:
        models: with different names.
    """

    def __init__(self, models: Sequence[ExplorableModel]) -> None:
        self.models = {model.name: model for model in models}
        self._looks: OrderedDict[str, Look] = OrderedDict()
        # Scopes of the host libraries are the process's: one model at a time.
        self._lock = threading.Lock()
        self.transport = lru_cache(KEPT_PLANS)(self._transport)

    def model(self, name: str) -> ExplorableModel:
        """Find a model by its name."""
        if name not in self.models:
            raise HTTPException(404, f"there is no model {name!r}")
        return self.models[name]

    def look_at(self, name: str, picture: np.ndarray, picture_name: str) -> dict:
        """Run a model on a picture and keep what it saw."""
        model, start = self.model(name), time.perf_counter()
        with self._lock:
            look = model.look(picture, picture_name)
        key = secrets.token_urlsafe(12)
        self._looks[key] = look
        while len(self._looks) > KEPT_LOOKS:
            self._looks.popitem(last=False)
        height, width = look.picture.shape[:2]
        return dict(
            id=key,
            width=width,
            height=height,
            kind=look.prediction.kind,
            items=look.prediction.items,
            overlay=look.prediction.overlay is not None,
            stages=layout(look),
            seconds=round(time.perf_counter() - start, 3),
        )

    def look(self, key: str) -> Look:
        """Find what was seen."""
        if key not in self._looks:
            raise HTTPException(
                404, "this picture is not kept any more; choose it once again"
            )
        return self._looks[key]

    def _transport(self, key: str, stage: int, block: int) -> Transport:
        return self.look(key).recorded[stage, block].transport()


def build_app(explorer: Explorer) -> Starlette:
    """The page with all that it asks for.

    Args:
        explorer: what it shows.
    """

    def models(request: Request) -> Response:
        listed = [
            dict(name=m.name, samples=[path.name for path in m.samples])
            for m in explorer.models.values()
        ]
        return JSONResponse(dict(models=listed, maxBytes=MAX_BYTES))

    def sample(request: Request) -> Response:
        return _png(_sample(request)[..., ::-1])

    def _sample(request: Request) -> np.ndarray:
        samples = explorer.model(request.path_params["model"]).samples
        return read_picture(samples[_integer(request, "sample", len(samples))])

    async def look(request: Request) -> Response:
        _require_own_page(request)
        model = request.path_params["model"]
        if "sample" in request.query_params:
            picture, name = _sample(request), "the sample"
        else:
            name = request.query_params.get("name") or "the picture"
            content = await _body(request, name)
            picture = await run_in_threadpool(decode_picture, content, name, MAX_PIXELS)
        seen = await run_in_threadpool(explorer.look_at, model, picture, name)
        return JSONResponse(seen)

    def picture(request: Request) -> Response:
        return _png(explorer.look(request.path_params["look"]).picture)

    def overlay(request: Request) -> Response:
        drawn = explorer.look(request.path_params["look"]).prediction.overlay
        if drawn is None:
            raise HTTPException(404, "this prediction has no overlay")
        return _png(drawn)

    def _transport(request: Request) -> Transport:
        key = request.path_params["look"]
        stages = layout(explorer.look(key))
        stage = _integer(request, "stage", len(stages))
        block = _integer(request, "block", stages[stage]["blocks"])
        return explorer.transport(key, stage, block)

    def token(request: Request) -> Response:
        transport = _transport(request)
        rows, columns = transport.spatial_shape
        row = _integer(request, "row", rows)
        column = _integer(request, "column", columns)
        return JSONResponse(dict(heads=token_view(transport, row * columns + column)))

    def reference(request: Request) -> Response:
        transport = _transport(request)
        head = _integer(request, "head", transport.attention.num_heads)
        count = transport.attention.references.shape[1]
        reference = _integer(request, "reference", count)
        return JSONResponse(reference_view(transport, head, reference))

    return Starlette(
        routes=[
            Route("/api/models", models),
            Route("/api/models/{model}/sample", sample),
            Route("/api/models/{model}/look", look, methods=["POST"]),
            Route("/api/looks/{look}/picture.png", picture),
            Route("/api/looks/{look}/overlay.png", overlay),
            Route("/api/looks/{look}/token", token),
            Route("/api/looks/{look}/reference", reference),
            Mount("/", StaticFiles(directory=PAGE, html=True)),
        ],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS),
            Middleware(_WithHeaders),
        ],
        exception_handlers={
            UserError: lambda _, error: _sentence(str(error), 400),
            HTTPException: lambda _, error: _sentence(error.detail, error.status_code),
            Exception: lambda _, error: _sentence(
                f"the server failed ({type(error).__name__}); its terminal says more",
                500,
            ),
        },
    )


class _WithHeaders:
    """Adds :data:`HEADERS` to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS.items()]
            await send(message)

        await self.app(scope, receive, send_with_headers)


def _require_own_page(request: Request) -> None:
    """Refuse pictures that another web site sends from the user's browser."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers["host"]:
        raise HTTPException(403, f"pictures come from this page alone, not {origin}")


async def _body(request: Request, name: str) -> bytes:
    """The upload, of which no more is read than is allowed."""
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > MAX_BYTES:
            limit = MAX_BYTES // 2**20
            raise HTTPException(
                413, f"{name} is larger than {limit} MiB; make it smaller"
            )
    return bytes(content)


def _integer(request: Request, name: str, count: int) -> int:
    """A number of the query, in ``0..count-1``."""
    text = request.query_params.get(name, "")
    if not (text.isascii() and text.isdigit() and int(text) < count):
        raise HTTPException(400, f"{name} must be in 0..{count - 1}, got {text!r}")
    return int(text)


def _png(picture: np.ndarray) -> Response:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "PNG")
    return Response(buffer.getvalue(), media_type="image/png")


def _sentence(text: str, status: int) -> Response:
    return JSONResponse(dict(error=text), status)
