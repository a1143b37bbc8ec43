"""Agents that mean harm: each speaks bytes on a socket of its own, and is known by its name.

What a call of each must end in stands beside it, so that the same list serves the client alone
and the whole path.
"""

from __future__ import annotations

import asyncio
import gzip
import socket
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from ledger.model import Outcome

GOOD = b'{"output": {"answer": 1}}'
OK_HEAD = b"HTTP/1.1 200 OK\r\n"
BLOCK = b"x" * 65_536
METADATA = "http://169.254.169.254/latest/meta-data/"
PATIENCE_S = 120.0  # for agents whose call ends by itself: never reached unless something hangs
HANG_S = 0.5  # the deadline of a call that only its deadline ends


class Wire:
    """One connection. Counts what the other side's kernel has taken."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, took: Took
    ) -> None:
        self.reader, self.writer, self.took = reader, writer, took
        writer.transport.set_write_buffer_limits(0)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()
        self.took.sent += len(data)

    async def asked(self) -> bytes:
        """The head of the request, and its body."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        sizes = [int(line[15:]) for line in lines if line.startswith(b"content-length:")]
        return head + (await self.reader.readexactly(sizes[0]) if sizes else b"")

    async def ever(self) -> None:
        """Until the other side goes away."""
        while await self.reader.read(65_536):
            pass

    async def flood(self, block: bytes) -> None:
        while True:
            await self.send(block)

    def reset(self) -> None:
        """RST instead of FIN."""
        found = self.writer.get_extra_info("socket")
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@dataclass(kw_only=True)
class Took:
    """What one agent has seen."""

    sent: int = 0
    requests: int = 0
    connections: int = 0


Speak = Callable[[Wire], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Hostile:
    """One kind of agent. `says`: words of the reply's detail. `hangs`: till its deadline."""

    name: str
    speak: Speak
    outcome: Outcome
    says: str = ""
    hangs: bool = False
    kind: str = "json"
    tls: bool = False
    took: Took = field(default_factory=Took)

    @property
    def deadline_s(self) -> float:
        return HANG_S if self.hangs else PATIENCE_S


def answering(*parts: bytes) -> Speak:
    """Read the request, say these parts, hang up."""

    async def speak(wire: Wire) -> None:
        await wire.asked()
        for part in parts:
            await wire.send(part)

    return speak


def staying(*parts: bytes) -> Speak:
    """The same, but keep the line open."""

    async def speak(wire: Wire) -> None:
        await wire.asked()
        for part in parts:
            await wire.send(part)
        await wire.ever()

    return speak


def flooding(head: bytes, block: bytes) -> Speak:
    async def speak(wire: Wire) -> None:
        await wire.asked()
        await wire.send(head)
        await wire.flood(block)

    return speak


def dripping(head: bytes, drop: bytes, every_s: float = 0.02) -> Speak:
    async def speak(wire: Wire) -> None:
        await wire.asked()
        await wire.send(head)
        while True:
            await wire.send(drop)
            await asyncio.sleep(every_s)

    return speak


def body(content: bytes, *headers: str, status: str = "200 OK", version: str = "1.1") -> bytes:
    """A well-formed answer."""
    lines = [f"HTTP/{version} {status}", f"Content-Length: {len(content)}", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + content


def garbage(name: str, content: bytes, says: str = "", kind: str = "json") -> Hostile:
    """200, and this content."""
    return Hostile(
        name=name, speak=staying(body(content)), outcome=Outcome.GARBAGE, says=says, kind=kind
    )


def error(name: str, *parts: bytes, says: str = "") -> Hostile:
    return Hostile(name=name, speak=answering(*parts), outcome=Outcome.ERROR, says=says)


def fine(name: str, *parts: bytes) -> Hostile:
    """Odd, but within the protocol."""
    return Hostile(name=name, speak=answering(*parts), outcome=Outcome.OK)


async def _never(wire: Wire) -> None:
    await wire.ever()


async def _deaf(wire: Wire) -> None:
    """Does not read the request either."""
    wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.Event().wait()


async def _reset_at_once(wire: Wire) -> None:
    wire.reset()


async def _reset_mid_body(wire: Wire) -> None:
    await wire.asked()
    await wire.send(OK_HEAD + b"Content-Length: 100\r\n\r\n{")
    await asyncio.sleep(0.05)
    wire.reset()


async def _plain(wire: Wire) -> None:
    await wire.reader.read(1)
    await wire.send(body(GOOD))


async def _close_unasked(wire: Wire) -> None:
    wire.writer.close()


async def _answer_unasked(wire: Wire) -> None:
    await wire.send(body(b'{"output": "unasked"}') * 2)
    await wire.ever()


async def _endless_chunks(wire: Wire) -> None:
    await wire.asked()
    await wire.send(OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    await wire.flood(b"10000\r\n" + BLOCK + b"\r\n")


HANGS: Sequence[Hostile] = [
    Hostile(name="never answers", speak=_never, outcome=Outcome.TIMEOUT, hangs=True),
    Hostile(name="does not listen", speak=_deaf, outcome=Outcome.TIMEOUT, hangs=True),
    *(
        Hostile(name=name, speak=speak, outcome=Outcome.TIMEOUT, hangs=True, tls=tls)
        for name, speak, tls in (
            ("hangs inside its headers", staying(OK_HEAD + b"X-A: "), False),
            ("hangs after its headers", staying(OK_HEAD + b"Content-Length: 9\r\n\r\n"), False),
            ("hangs in its body", staying(OK_HEAD + b"Content-Length: 99\r\n\r\n{"), False),
            (
                "hangs before its last chunk",
                staying(OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"),
                False,
            ),
            ("drips its headers", dripping(OK_HEAD, b"X"), False),
            ("drips its body", dripping(OK_HEAD + b"Content-Length: 99999\r\n\r\n", b" "), False),
            ("hangs in the TLS handshake", _never, True),
        )
    ),
]

CHUNKED = OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
GIGABYTE = OK_HEAD + b"Content-Length: 1073741824\r\n\r\n"
FLOODS: Sequence[Hostile] = [
    Hostile(name=name, speak=speak, outcome=outcome, says=says)
    for name, speak, outcome, says in (
        ("1 GB announced", flooding(GIGABYTE, BLOCK), Outcome.GARBAGE, "larger than"),
        ("1 GB unannounced", flooding(OK_HEAD + b"\r\n", BLOCK), Outcome.GARBAGE, "larger than"),
        ("1 GB in chunks", _endless_chunks, Outcome.GARBAGE, "larger than"),
        (
            "1 GB in chunks of one byte",
            flooding(CHUNKED, b"1\r\nx\r\n" * 8192),
            Outcome.GARBAGE,
            "more than",
        ),
        (
            "1 GB with a refusal",
            flooding(b"HTTP/1.1 401 No\r\n\r\n", BLOCK),
            Outcome.REFUSED,
            "HTTP 401",
        ),
        (
            "1 GB with a failure",
            flooding(b"HTTP/1.1 500 No\r\n\r\n", BLOCK),
            Outcome.ERROR,
            "HTTP 500",
        ),
        (
            "1 GB with a redirect",
            flooding(b"HTTP/1.1 302 No\r\nLocation: /\r\n\r\n", BLOCK),
            Outcome.ERROR,
            "not followed",
        ),
        ("endless status line", flooding(b"HTTP/1.1 200 ", BLOCK), Outcome.ERROR, ""),
        ("endless header", flooding(OK_HEAD + b"X-A: ", BLOCK), Outcome.ERROR, ""),
        ("endless name of a header", flooding(OK_HEAD, BLOCK), Outcome.ERROR, ""),
        ("endless headers", flooding(OK_HEAD, b"X-A: b\r\n" * 8192), Outcome.ERROR, ""),
        (
            "endless different headers",
            flooding(OK_HEAD, b"".join(b"X-%d: b\r\n" % n for n in range(8192))),
            Outcome.ERROR,
            "",
        ),
        (
            "endless interim answers",
            flooding(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 2048),
            Outcome.GARBAGE,
            "more than",
        ),
        (
            "endless early hints",
            flooding(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 1024),
            Outcome.GARBAGE,
            "more than",
        ),
        (
            "endless chunk extension",
            flooding(CHUNKED + b"1;a=", BLOCK),
            Outcome.GARBAGE,
            "more than",
        ),
        ("endless size of a chunk", flooding(CHUNKED, b"0" * 65_536), Outcome.GARBAGE, "more than"),
        (
            "endless trailers",
            flooding(CHUNKED + b"2\r\n{}\r\n0\r\n", b"X-A: b\r\n" * 8192),
            Outcome.ERROR,
            "",
        ),
        (
            "100,000 headers",
            answering(
                OK_HEAD
                + b"".join(b"X-%d: b\r\n" % n for n in range(100_000))
                + b"Content-Length: 25\r\n\r\n"
                + GOOD
            ),
            Outcome.ERROR,
            "",
        ),
        (
            "endless lines that are no HTTP",
            flooding(b"", b"\r\n" * 32_768),
            Outcome.GARBAGE,
            "more than",
        ),
    )
]

BOMB = b" " * (64 << 20)
BOMBS: Sequence[Hostile] = [
    Hostile(
        name=f"bomb in {name}",
        speak=answering(body(content, f"Content-Encoding: {name}")),
        outcome=Outcome.GARBAGE,
        says="encoded as",
    )
    for name, content in (
        ("gzip", gzip.compress(BOMB)),
        ("x-gzip", gzip.compress(BOMB)),
        ("deflate", zlib.compress(BOMB)),
        ("br", b"\x1b" * 4096),
        ("zstd", b"\x28\xb5\x2f\xfd" * 1024),
        ("gzip, gzip", gzip.compress(gzip.compress(BOMB))),
        ("identity, gzip", gzip.compress(BOMB)),
    )
] + [
    Hostile(
        name="bomb in a transfer coding",
        speak=answering(
            OK_HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
            b"%x\r\n%b\r\n0\r\n\r\n" % (len(gzip.compress(BOMB)), gzip.compress(BOMB)),
        ),
        outcome=Outcome.GARBAGE,
    ),
    Hostile(
        name="bomb in a refusal",
        speak=answering(
            body(gzip.compress(BOMB), "Content-Encoding: gzip", status="403 Forbidden")
        ),
        outcome=Outcome.REFUSED,
        says="HTTP 403",
    ),
    Hostile(
        name="bomb without a label",
        speak=answering(body(gzip.compress(BOMB))),
        outcome=Outcome.GARBAGE,
        says="not JSON",
    ),
]


def _chat(content: str) -> bytes:
    return b'{"choices": [{"message": {"content": "%b"}}]}' % content.encode()


GARBAGE: Sequence[Hostile] = [
    garbage("prose", b"Sure! Here it is.", "not JSON"),
    garbage("a web page", b"<html><body>502</body></html>", "not JSON"),
    garbage("nothing", b"", "not JSON"),
    garbage("half a document", b'{"output": {"a"', "not JSON"),
    garbage("two documents", GOOD + GOOD, "not JSON"),
    garbage("random bytes", bytes(range(256)) * 16, "not JSON"),
    garbage("100,000 levels", b"[" * 100_000, "deeper than"),
    garbage("100,000 closed levels", b"[" * 100_000 + b"]" * 100_000, "deeper than"),
    garbage("100,000 levels of objects", b'{"output":' * 50_000 + b"1" + b"}" * 50_000, "deeper"),
    garbage("65 levels", b'{"output":' + b"[" * 65 + b"]" * 65 + b"}", "deeper than"),
    garbage("a number of 5,000 digits", b'{"output": %b}' % (b"9" * 5000), "more than 1000 digits"),
    garbage("1e999", b'{"output": 1e999}', "finite"),
    garbage("NaN", b'{"output": NaN}', "finite"),
    garbage("-Infinity", b'{"output": [-Infinity]}', "finite"),
    garbage("the same key twice", b'{"output": 1, "output": 2}', "twice"),
    garbage("the same key twice, inside", b'{"output": {"a": 1, "\\u0061": 2}}', "twice"),
    garbage("half a surrogate pair", b'{"output": "\\ud800"}', "surrogate"),
    garbage("half a surrogate pair as a key", b'{"output": {"\\udfff": 1}}', "surrogate"),
    garbage("surrogates in UTF-8", b'{"output": "\xed\xa0\x80"}', "not JSON"),
    garbage("NUL escaped", b'{"output": "\\u0000"}', "NUL"),
    garbage("NUL raw", b'{"output": "\x00"}', "not JSON"),
    garbage("raw escape sequences", b'{"output": "\x1b[2J"}', "not JSON"),
    garbage("overlong UTF-8", b'{"output": "\xc0\xaf"}', "not JSON"),
    garbage("UTF-16", '{"output": 1}'.encode("utf-16"), "not JSON"),
    garbage("UTF-8 with a mark", b"\xef\xbb\xbf" + GOOD, "not JSON"),
    garbage("latin-1", '{"output": "é"}'.encode("latin-1"), "not JSON"),
    garbage("JSON with a comment", b'{"output": 1} // fine', "not JSON"),
    garbage("no output", b'{"answer": 1}', "no field output"),
    garbage("a list", b"[1]", "no field output"),
    garbage("chat without choices", GOOD, "choices", "openai"),
    garbage("chat of prose", _chat("Sure!"), "not JSON", "openai"),
    garbage("chat of NaN", _chat("NaN"), "finite", "openai"),
    garbage("chat of 1,000 levels", _chat("[" * 1000 + "]" * 1000), "deeper", "openai"),
    garbage("chat with a key twice", _chat('{\\"a\\":1,\\"a\\":2}'), "twice", "openai"),
    garbage("chat of a list", b'{"choices": [{"message": {"content": [1]}}]}', "text", "openai"),
    garbage("chat of nothing", b'{"choices": {"0": 1}}', "choices", "openai"),
]

BROKEN: Sequence[Hostile] = [
    error("no HTTP", b"hello\r\n\r\n"),
    error("HTTP/0.9", GOOD),
    error("HTTP/3.0", b"HTTP/3.0 200 OK\r\n\r\n" + GOOD),
    error("HTTP/2 frames", b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + b"\x00" * 18),
    error("a status of 2000", b"HTTP/1.1 2000 OK\r\n\r\n" + GOOD),
    error("a status of -1", b"HTTP/1.1 -1 OK\r\n\r\n" + GOOD),
    error("a chunk of size zz", CHUNKED + b"zz\r\n"),
    error("a chunk of size -1", CHUNKED + b"-1\r\nx\r\n"),
    error("a chunk of 2^64", CHUNKED + b"1" + b"0" * 16 + b"\r\nx"),
    error("a chunk longer than said", CHUNKED + b"2\r\n{}}}}}\r\n0\r\n\r\n"),
    error("no last chunk", CHUNKED + b"2\r\n{}\r\n"),
    error("two lengths", OK_HEAD + b"Content-Length: 2\r\nContent-Length: 25\r\n\r\n" + GOOD),
    error("length and chunks", CHUNKED[:-2] + b"Content-Length: 3\r\n\r\n0\r\n\r\n"),
    error("a length of -1", OK_HEAD + b"Content-Length: -1\r\n\r\n" + GOOD),
    error("a length of 2^70", OK_HEAD + b"Content-Length: 1180591620717411303424\r\n\r\n" + GOOD),
    error("a header without a name", OK_HEAD + b": x\r\n\r\n" + GOOD),
    error("a header with NUL", OK_HEAD + b"X-A: \x00\r\n\r\n" + GOOD),
    error(
        "a switch of protocols", b"HTTP/1.1 101 Yes\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
    ),
    error("early close", OK_HEAD + b"Content-Length: 99\r\n\r\n{"),
    error("early close in its headers", OK_HEAD + b"Content-Le"),
    error("close without a word"),
    Hostile(
        name="plain text where TLS is due",
        speak=_plain,
        outcome=Outcome.ERROR,
        tls=True,
    ),
    *(
        Hostile(name=name, speak=speak, outcome=Outcome.ERROR)
        for name, speak in (
            ("reset at once", _reset_at_once),
            ("reset in its body", _reset_mid_body),
            ("close before the request", _close_unasked),
        )
    ),
    *(
        error(f"redirect to {target}", body(b"", f"Location: {target}", status=status), says=target)
        for target, status in (
            (METADATA, "302 Found"),
            ("file:///etc/passwd", "301 Moved"),
            ("http://10.0.0.1/", "307 Temporary"),
            ("http://[::ffff:169.254.169.254]/", "308 Permanent"),
            ("/run", "302 Found"),
            ("gopher://127.0.0.1:6379/_FLUSHALL", "303 See Other"),
        )
    ),
    error("redirect to nowhere", body(b"", status="302 Found"), says="nowhere"),
    error("not modified", body(b"", status="304 Not Modified")),
]

ODD: Sequence[Hostile] = [
    fine("HTTP/1.0 until it closes", b"HTTP/1.0 200 OK\r\n\r\n" + GOOD),
    fine("no content type", body(GOOD)),
    fine("the wrong content type", body(GOOD, "Content-Type: image/png")),
    fine("the wrong charset", body(GOOD, "Content-Type: application/json; charset=utf-7")),
    fine("an encoding in capitals", body(GOOD, "Content-Encoding: Identity")),
    fine("chunks of one byte", CHUNKED, *(b"1\r\n%c\r\n" % c for c in GOOD), b"0\r\n\r\n"),
    fine("interim answers", b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + body(GOOD)),
    fine("cookies", body(GOOD, *(f"Set-Cookie: a{n}=b" for n in range(50)))),
    fine("a second answer behind the first", body(GOOD) + body(b'{"output": "poison"}')),
    *(
        Hostile(
            name=f"Retry-After: {value[:20]}",
            speak=answering(body(b"", f"Retry-After: {value}", status="429 Slow Down")),
            outcome=Outcome.RATE_LIMITED,
        )
        for value in ("-1", "1e9", "9" * 4000, "Fri, 31 Dec 9999 23:59:59 GMT", "soon", "", "0x10")
    ),
]

ALL: Sequence[Hostile] = [*HANGS, *FLOODS, *BOMBS, *GARBAGE, *BROKEN, *ODD]


@asynccontextmanager
async def listening(agent: Hostile) -> AsyncIterator[int]:
    """The agent on a port of its own."""
    wires: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        agent.took.connections += 1
        with suppress(OSError, asyncio.IncompleteReadError):
            await agent.speak(Wire(reader, writer, agent.took))
        with suppress(OSError):
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(serve(reader, writer))
        wires.add(task)
        task.add_done_callback(wires.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, backlog=256)
    for found in server.sockets:
        # What the kernel holds between two processes is not what the client has read.
        found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(wires):
            task.cancel()
        await asyncio.gather(*wires, return_exceptions=True)
