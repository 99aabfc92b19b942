"""``python -m nextstat_jax.explorer surrogate.npz``: a page with the contours of a surrogate's likelihood."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import runpy
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import nextstat_jax as nextstat

_FIRST_PORT = 2718
_LAST_PORT = 2818


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the page until it is interrupted.

    Args:
        arguments: Of the command line, those of the process by default.

    Returns:
        Exit status: 0, or 2 where the file or the port cannot be used, with one line on standard error that says why.
        No server is started then.
    """
    options = _parser().parse_args(arguments)
    # In full, so that marimo, which reads numbers and the like out of arguments, takes it for nothing but a text.
    path = options.surrogate and os.path.abspath(options.surrogate)
    try:
        _require_extra()
        port = _free_port(options.host, options.port)
        if path is None:
            print("Training a small surrogate of the embedded example ...", flush=True)
        from ._landscape import open_landscape

        # Kept by the process: the pages find it there.
        open_landscape(path)
    except nextstat.NextstatError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    shown = f"[{options.host}]" if ":" in options.host else options.host
    print(f"Serving http://{shown}:{port} (stop with Ctrl+C)", flush=True)
    return _serve(path, options.host, port, options.no_browser)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m nextstat_jax.explorer", description=(__doc__ or "").replace("``", "")
    )
    parser.add_argument(
        "surrogate", nargs="?", help="a file of nextstat_jax.distill.save (default: a small one is trained first)"
    )
    parser.add_argument("--port", type=_port, help=f"of the server (default: the first free one from {_FIRST_PORT} on)")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve at (default: this computer only)")
    parser.add_argument("--no-browser", action="store_true", help="do not open the page")
    return parser


def _port(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if not 1 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a port: expected 1 to 65535")
    return value


def _require_extra() -> None:
    for package in ("marimo", "matplotlib"):
        try:
            __import__(package)
        except ImportError:
            raise nextstat.MissingExtraError(package, "explorer") from None


def _free_port(host: str, port: int | None) -> int:
    """The port if it is free, or the first free one; ``DatasetError`` where there is none."""
    for candidate in [port] if port else range(_FIRST_PORT, _LAST_PORT):
        try:
            family = socket.getaddrinfo(host, candidate, type=socket.SOCK_STREAM)[0][0]
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                if os.name == "posix":
                    # As the server does: a port of a server that has just ended is free.
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, candidate))
            return candidate
        except OSError as error:
            if error.errno != errno.EADDRINUSE or port:
                reason = error.strerror or error
                raise nextstat.DatasetError(
                    f"cannot serve at {host}, port {candidate}: {reason}; choose another one"
                ) from None
    raise nextstat.DatasetError(f"no port from {_FIRST_PORT} to {_LAST_PORT - 1} is free: choose one with --port")


def _serve(path: str | None, host: str, port: int, headless: bool) -> int:
    """``python -m marimo run`` in this process, so that the pages share what has been loaded and compiled."""
    command = ["--quiet", "run", str(Path(__file__).with_name("_app.py")), "--host", host, "--port", str(port)]
    command += ["--no-token", "--no-sandbox", "--no-check", *(["--headless"] if headless else [])]
    command += ["--", "--surrogate", path] if path else []
    # The server takes its own end for an error and prints where it stood.
    logging.getLogger("uvicorn.error").addFilter(lambda record: "CancelledError" not in record.getMessage())
    before, sys.argv = sys.argv, ["marimo", *command]
    try:
        runpy.run_module("marimo", run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    finally:
        sys.argv = before
    return 0


if __name__ == "__main__":
    sys.exit(main())
