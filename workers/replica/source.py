"""Reading a log over HTTP: bounded in bytes and in time, and believed in nothing."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

import aiohttp

from ledger.errors import BadInput, Unavailable
from ledger.proof.errors import ProofRefused
from ledger.proof.merkle import HASH_BYTES
from ledger.proof.notes import Note
from ledger.proof.tiles import ENTRY_BYTES_MAX, Bundle, Tile, bundle_path, split_hashes, tile_path
from tasks.reach import why_unreachable
from workers.replica.faults import Damaged

FETCH_S: Final = 30.0
NOTE_BYTES_MAX: Final = 65_536
OK: Final = 200
BUSY: Final = 429  # too much is being sent at the moment
BUSY_S: Final = 1.0  # whatever Retry-After says: the log may say anything


class Source:
    """The log below a URL. An async context manager; each call raises Unavailable or Damaged."""

    def __init__(self, url: str, token: str | None) -> None:
        if not url.startswith(("http://", "https://")):
            raise BadInput("--log", "it is no http or https URL", "use the log's, as the gateway's")
        if not _has_host(url):
            raise BadInput("--log", "it names no host or port", "use the log's, as the gateway's")
        self._url = url.rstrip("/")
        self._headers = {"Accept-Encoding": "identity", "Cache-Control": "no-cache"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=FETCH_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def checkpoint(self) -> Note:
        """The newest checkpoint, as it is."""
        data = await self._fetch("checkpoint", NOTE_BYTES_MAX)
        try:
            return Note.parse(data)
        except ProofRefused as error:
            raise Damaged(f"the checkpoint served: {error}") from error

    async def tile(self, tile: Tile) -> list[bytes]:
        """The hashes of a tile."""
        data = await self._fetch(tile_path(tile), tile.width * HASH_BYTES)
        try:
            return split_hashes(data, tile)
        except ProofRefused as error:
            raise Damaged(str(error)) from error

    async def bundle(self, bundle: Bundle) -> bytes:
        """The entries of a page, each behind its length."""
        return await self._fetch(bundle_path(bundle), bundle.width * (2 + ENTRY_BYTES_MAX))

    async def _fetch(self, path: str, bytes_max: int) -> bytes:
        """The bytes, as soon as the log has room for us."""
        until_s = time.monotonic() + FETCH_S
        while True:
            found = await self._once(path, bytes_max)
            if found is not None:
                return found
            if time.monotonic() + BUSY_S > until_s:
                raise _unavailable(f"{path} is answered with {BUSY} for {FETCH_S:g} s")
            await asyncio.sleep(BUSY_S)

    async def _once(self, path: str, bytes_max: int) -> bytes | None:
        """The bytes; None when we are to come again."""
        try:
            async with self._session.get(f"{self._url}/{path}", allow_redirects=False) as response:
                if response.status == BUSY:
                    return None
                if response.status != OK:
                    raise _unavailable(f"{path} is answered with {response.status}")
                data = bytearray()
                async for chunk in response.content.iter_any():
                    data += chunk
                    if len(data) > bytes_max:
                        raise Damaged(f"{path} is longer than {bytes_max} bytes")
                return bytes(data)
        except TimeoutError as error:
            raise _unavailable(f"{path}: no answer within {FETCH_S:g} s") from error
        except ValueError:  # its text shows the URL, where a password may be
            raise _unavailable(f"{path}: the URL is none that can be asked") from None
        except aiohttp.ClientError as error:
            raise _unavailable(f"{path}: {why_unreachable(error)}") from error


def _has_host(url: str) -> bool:
    try:
        found = urlsplit(url)
        return bool(found.hostname) and found.port != 0
    except ValueError:  # no port; its text may show a password
        return False


def _unavailable(reason: str) -> Unavailable:
    return Unavailable("log", reason, "see --log and --token-file; it is asked again")
