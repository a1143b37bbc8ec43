"""Traces, received over OTLP/HTTP by a real server, of tasks that real processes carried out."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from gzip import decompress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from sqlalchemy import Engine

from ledger import intake
from ledger.errors import BadInput
from ledger.intake import new_ids
from tests.makers import agent, client, family, install, submit
from tests.oneworker import environment, one_worker
from tests.stack import await_true
from workers.tracing import submitted_ns, trace_ids, tracing

PATH = ["submit", "reserve", "execute", "validate", "commit"]


class Receiver(ThreadingHTTPServer):
    """Keeps every span that is sent to /v1/traces."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.spans: list[Any] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def traces(self) -> dict[bytes, list[Any]]:
        """Spans by trace, by their begin."""
        found = defaultdict(list)
        for span in sorted(self.spans, key=lambda span: int(span.start_time_unix_nano)):
            found[span.trace_id].append(span)
        return found


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = decompress(body)
        assert self.path == "/v1/traces"
        for sent in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in sent.scope_spans:
                self.server.spans += scope.spans
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def receiving() -> Iterator[Receiver]:
    with Receiver() as receiver:
        threading.Thread(target=receiver.serve_forever, daemon=True).start()
        yield receiver
        receiver.shutdown()


def about(span: Any) -> dict[str, Any]:
    return {
        item.key.removeprefix("clearlane."): item.value.string_value or item.value.int_value
        for item in span.attributes
    }


def states(engine: Engine, tasks: list[str]) -> set[str]:
    return {row["state"] for row in intake.task_rows(engine, tasks).values()}


def test_a_settled_task_is_one_trace_of_its_submission_and_four_steps_in_order(
    engine: Engine, database_url: str, redis_url: str, now: datetime, tmp_path: Path
) -> None:
    bad = family("bad", max_attempts=1, validator={"type": "exact", "value": "never"})
    install(engine, now, agents=[agent("A")], families=[family("f"), bad])
    with receiving() as receiver:
        env = environment(database_url, redis_url, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
        with one_worker(env, tmp_path / "log"):
            good, lost = submit(engine, now, 5), submit(engine, now, 1, to="bad")
            await_true("all have ended", lambda: "INIT" not in states(engine, good + lost), 60)
        # Stopped in order: whatever was measured has been sent.
        traces = receiver.traces()
    assert len(traces) == len(good + lost)
    for task in good:
        trace_id, root_id = trace_ids(task)
        spans = traces[trace_id.to_bytes(16)]
        assert [span.name for span in spans] == PATH
        root, *steps = spans
        assert root.span_id == root_id.to_bytes(8)
        assert root.parent_span_id == b""
        assert root.start_time_unix_nano == submitted_ns(task)
        assert {span.parent_span_id for span in steps} == {root.span_id}
        assert [about(span)["outcome"] for span in steps] == [
            "reserved", "ok", "passed", "committed",
        ]  # fmt: skip
        for span in steps:
            assert about(span)["task"] == task
            assert about(span)["attempt"] == 1
            assert about(span)["agent"] == "A"
            assert span.start_time_unix_nano <= span.end_time_unix_nano
    (failed,) = [traces[trace_ids(task)[0].to_bytes(16)] for task in lost]
    assert [span.name for span in failed] == [*PATH[:-1], "abort"]
    assert [about(span).get("outcome") for span in failed[-2:]] == ["failed", "aborted"]


def test_all_processes_keep_the_same_share_of_tasks(
    engine: Engine, database_url: str, redis_url: str, now: datetime, tmp_path: Path
) -> None:
    install(
        engine, now, clients=[client(mint_b=10**6)], agents=[agent("A", y_max=100_000, slots=200)]
    )
    with receiving() as receiver:
        env = environment(
            database_url,
            redis_url,
            OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{receiver.url}/v1/traces",
            OTEL_TRACES_SAMPLER="parentbased_traceidratio",
            OTEL_TRACES_SAMPLER_ARG="0.5",
        )
        with one_worker(env, tmp_path / "log"):
            tasks = submit(engine, now, 200)
            await_true("all have ended", lambda: states(engine, tasks) == {"COMMITTED"}, 60)
        traces = receiver.traces()
    assert 40 < len(traces) < 160  # eleven standard deviations around the half
    for spans in traces.values():
        assert [span.name for span in spans] == PATH  # whole, or not at all


def test_a_trace_belongs_to_its_task_alone(now: datetime) -> None:
    tasks = new_ids(1000, now)
    ids = [trace_ids(task) for task in tasks]
    assert len(set(ids)) == len({trace for trace, _ in ids}) == 1000
    assert ids == [trace_ids(str(uuid.UUID(task))) for task in tasks]
    # What samplers by ratio look at is spread evenly, which the lower half of a UUID is not.
    upper = sum((trace & (1 << 64) - 1) >> 63 for trace, _ in ids)
    assert 400 < upper < 600
    assert submitted_ns(tasks[0]) // 1_000_000 == int(now.timestamp() * 1000)


OFF = """
import sys
from workers.tracing import tracing
assert tracing({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}) is None
assert tracing({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h", "OTEL_SDK_DISABLED": "true"}) is None
import workers.celery
# redis-py imports the metrics of OpenTelemetry by itself where they are installed.
ours = ("opentelemetry.sdk.trace", "opentelemetry.exporter")
print([name for name in sys.modules if name.startswith(ours)])
"""


def test_nothing_of_it_is_imported_while_it_is_off() -> None:
    done = subprocess.run(
        [sys.executable, "-c", OFF],
        env=environment("postgresql://h/d", "redis://h/0"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "[]\n", done.stderr


def test_an_endpoint_without_the_packages_is_refused_at_the_start(
    database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)  # what an import of nothing finds
    with pytest.raises(BadInput, match=r"OTEL_EXPORTER_OTLP_ENDPOINT: .*clearlane\[traces\]"):
        tracing({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h"})
    hidden = tmp_path / "opentelemetry.py"
    hidden.write_text("raise ImportError('not here', name='opentelemetry')")
    env = environment(
        database_url,
        redis_url,
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1",
        PYTHONPATH=str(tmp_path),
    )
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "workers", "worker", "-P", "solo", "-Q", "commit"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    (said,) = [json.loads(line) for line in done.stderr.splitlines() if "cannot start" in line]
    assert said["reason"].startswith("OTEL_EXPORTER_OTLP_ENDPOINT: ")
