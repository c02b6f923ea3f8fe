"""Pictures of an archive over HTTP, with a gallery; read-only."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Sequence
from typing import Annotated

import typer

from jobs import cli
from pipeline.errors import ConfigError

_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


def serve(
    archive: Annotated[str, typer.Option(help="Folder or prefix of the archive.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8080,
    token: Annotated[
        str | None,
        typer.Option(envvar="SHARDPRESS_TOKEN", help="What callers must give; required unless --host is loopback."),
    ] = None,
    cache_mb: Annotated[int, typer.Option(min=0, help="Memory for rendered files.")] = 256,
    at_once: Annotated[int, typer.Option(min=1, help="Pictures decoded at the same time.")] = 2,
    device: Annotated[str, typer.Option(help="For the learned codec: auto, cpu, cuda.")] = "auto",
) -> int:
    """Serve an archive: a gallery at /, pictures at /images/ID?w=640&format=webp, /healthz, /metrics.

    A token is asked for as `Authorization: Bearer TOKEN`, or as the password of HTTP Basic, which browsers ask for.
    """
    local = is_loopback(host)
    if not local and not token:
        raise ConfigError(
            f"--host {host}: others can reach it, and there is no token; set SHARDPRESS_TOKEN or keep to 127.0.0.1"
        )
    try:
        import uvicorn

        from pipeline.serve.app import app
    except ImportError as error:
        raise ConfigError(f"serve: {error.name} is not installed; pip install 'shardpress[serve]'") from error
    from pipeline.data.pictures import Pictures
    from pipeline.serve.renders import Renders

    pictures = Pictures(archive, device=device)
    application = app(Renders(pictures, cache_mb << 20, at_once), token, _LOCAL_NAMES if local else frozenset())
    server = uvicorn.Server(uvicorn.Config(application, host, port, log_level="warning", access_log=False))
    opened = _listening(host, port)
    shown = f"[{host}]" if ":" in host else host
    print(f"{len(pictures)} pictures at http://{shown}:{opened.getsockname()[1]}/ (Ctrl-C ends it)", flush=True)
    with contextlib.suppress(KeyboardInterrupt):  # how a server ends
        server.run(sockets=[opened])
    return cli.OK


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listening(host: str, port: int) -> socket.socket:
    """Bound before anything is printed, so that a port in use is told in one sentence."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.getaddrinfo(host, port, family)
    except socket.gaierror as error:
        raise ConfigError(f"--host {host}: {error.strerror}; expected an address of this machine") from error
    opened = socket.socket(family, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host, port))
        opened.listen(128)
    except OSError as error:
        opened.close()
        raise ConfigError(f"--host {host} --port {port}: {error.strerror}; choose another with --port") from error
    return opened


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run_command(serve, argv, "python -m jobs.serve")


if __name__ == "__main__":
    raise SystemExit(main())
