"""Look into a model in the browser: what it sees, and what attention transports.

``python tools/explore.py [--model CONFIG CHECKPOINT]...`` serves a page on this machine
alone. Drop a picture, click one of its tokens, and see where its mass goes and which
references serve it, block by block and head by head. Without ``--model`` the three
committed models of the embedded data are there. docs/explore.md says more.
"""

import argparse
import socket
import webbrowser
from collections import Counter
from contextlib import suppress
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "configs/digits"
HOST = "127.0.0.1"
COMMITTED = [
    (str(FOLDER / f"{name}.py"), str(FOLDER / f"checkpoints/{name}.pth"))
    for name in (
        "mask_rcnn_setformer_digits",
        "upernet_setformer_digits",
        "setformer_digits",
    )
]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Look into models in the browser.")
    parser.add_argument(
        "--model",
        nargs=2,
        action="append",
        metavar=("CONFIG", "CHECKPOINT"),
        help="a model; may be given several times (the committed ones)",
    )
    parser.add_argument(
        "--port", type=int, default=0, help="port of the page (any free one)"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ...")
    parser.add_argument(
        "--score-thr", type=float, default=0.3, help="least score of a shown instance"
    )
    parser.add_argument(
        "--open", action="store_true", help="open the page in the browser"
    )
    args = parser.parse_args()
    if not 0 <= args.port < 65536:
        parser.error(f"--port must be in 0..65535, got {args.port}")
    return args


if __name__ == "__main__":
    parse_args()  # answers --help before the seconds of the imports below

from setformer_mm.utils.checkpoints import load_checkpoints_safely
from setformer_mm.utils.errors import UserError
from toolkit.launch import run_tool
from toolkit.preflight import require_device


def listen(port: int) -> socket.socket:
    """Take a port of this machine that no other machine reaches.

    Whoever connects before the server runs waits for it.

    Raises:
        UserError: if it is taken, or not this user's to take.
    """
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
    except OSError as error:
        listening.close()
        raise UserError(
            f"port {port} cannot be used ({error.strerror}); name another one with "
            "--port, or none for any free one"
        ) from error
    listening.listen()
    return listening


def main() -> None:
    args = parse_args()
    try:
        import uvicorn

        from toolkit.explore.models import load_explorable
        from toolkit.explore.server import Explorer, build_app
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn"):
            raise
        raise UserError(
            f"the page needs {error.name}; `pip install -r requirements/explore.txt`"
        ) from error
    chosen = args.model or COMMITTED
    name, count = Counter(Path(config).stem for config, _ in chosen).most_common(1)[0]
    if count > 1:
        raise UserError(f"configs must have different names, got {name} {count} times")
    require_device(args.device)
    load_checkpoints_safely()
    with listen(args.port) as listening:
        models = []
        for files in chosen:
            print("Reading {1} for {0}".format(*files), flush=True)
            models.append(load_explorable(*files, args.device, args.score_thr))
        url = f"http://{HOST}:{listening.getsockname()[1]}"
        print(f"Open {url} in a browser; Ctrl-C stops.", flush=True)
        if args.open:
            webbrowser.open(url)
        config = uvicorn.Config(build_app(Explorer(models)), log_level="warning")
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run([listening])


if __name__ == "__main__":
    run_tool(main)
