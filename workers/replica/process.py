"""The process of a replica: serve and follow until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog
import uvicorn

from ledger.errors import BadInput
from ledger.proof.errors import ProofRefused
from ledger.proof.notes import KINDS, LOG, VerifierKey
from workers.listening import Server, listen, url_of
from workers.replica import keys, store
from workers.replica.app import create_app
from workers.replica.connections import CONNECTIONS_MAX, Fair
from workers.replica.evidence import Evidence
from workers.replica.follow import Follower
from workers.replica.replica import Replica
from workers.replica.source import Source

STOP_S: Final = 10
TOKEN_MAX: Final = 4_096

log = structlog.get_logger()


def run(
    *, key: Path, state: Path, address: tuple[str, int], url: str, log_key: str, token: Path | None
) -> None:
    """Raises BadInput, Conflict (another process has the state), Unavailable (port taken)."""
    signer = keys.read(key)
    log_vkey = _log_key(log_key)
    source = Source(url, _token(token))
    with store.opened(state, log_vkey.name) as opened:
        replica = Replica(
            opened, Evidence(state), log_key=log_vkey, signer=signer, clock_s=time.time
        )
        bound = listen(*address)
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        log.info(
            "replica listening",
            url=url_of(bound),
            key=signer.key.encode(),
            size=replica.size,
            signed=replica.signed_size,
        )
        asyncio.run(_serve(replica, source, bound))
    log.info("replica stopped")


async def _serve(replica: Replica, source: Source, bound: socket.socket) -> None:
    async with source:
        follower = Follower(replica, source)
        config = uvicorn.Config(
            create_app(replica, follower),
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            http=Fair,
            ws="none",
            limit_concurrency=CONNECTIONS_MAX,
            timeout_graceful_shutdown=STOP_S,
        )
        following = asyncio.create_task(follower.run())
        server = Server(config, release=lambda: None)
        serving = asyncio.create_task(server.serve(sockets=[bound]))
        try:
            await asyncio.wait({following, serving}, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                following.result()  # a bug of ours: end, and be started again
        finally:
            server.should_exit = True
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following
            await serving
            follower.close()


def _log_key(text: str) -> VerifierKey:
    try:
        key = VerifierKey.parse(text)
    except ProofRefused as error:
        raise BadInput("--log-key", error.reason, "use what `clearlane log key` prints") from error
    if key.kind != LOG:
        reason = f"{key} is the key of a {KINDS[key.kind]}"
        raise BadInput("--log-key", reason, "use what `clearlane log key` prints")
    return key


def _token(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        with file.open() as opened:
            token = opened.read(TOKEN_MAX).strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = f"{file} cannot be read: {type(error).__name__}"
        raise BadInput("--token-file", reason, "name a file with a replica's token") from error
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise BadInput(
            "--token-file", f"{file} has no token", "make one: `clearlane tokens create`"
        )
    return token
