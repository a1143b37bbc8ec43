"""Traces of tasks through OpenTelemetry, when an endpoint for them is set.

Messages carry ids only, so every process derives a task's trace from its id: the same trace id,
the same root and the same decision whether it is sampled. Nothing of OpenTelemetry is imported
while tracing is off.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final
from uuid import UUID

from ledger.errors import BadInput
from ledger.model import AttemptKey

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
OFF: Final = "OTEL_SDK_DISABLED"
SERVICE: Final = "clearlane"
STOP_MS: Final = 5_000  # for spans that are still to be sent at the end


def trace_ids(task: str) -> tuple[int, int]:
    """Trace id (128 bits) and root span id (64 bits) of a task. Pure.

    A digest and not the UUID itself: samplers by ratio look at the lower half of the trace id
    and count on its bits being random, which the bits of a UUID are not.
    """
    digest = blake2b(UUID(task).bytes, digest_size=24, person=b"clearlane").digest()
    return int.from_bytes(digest[:16]), int.from_bytes(digest[16:])


def submitted_ns(task: str) -> int:
    """When a task was submitted, from its id (UUID version 7), in nanoseconds since 1970. Pure."""
    return int(task[:8] + task[9:13], 16) * 1_000_000


class Tracing:
    """Sends spans from a thread of its own; a slow receiver costs spans, never a step."""

    def __init__(self) -> None:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk import trace as sdk
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import sampling
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        self._trace, self._sdk = trace, sdk
        name = os.environ.get("OTEL_SERVICE_NAME") or SERVICE
        resource = Resource.create({"service.name": name})
        # It reads the sampler from the environment; spans are made below.
        self._provider = sdk.TracerProvider(resource=resource, shutdown_on_exit=False)
        self._processor = BatchSpanProcessor(OTLPSpanExporter())
        self._new_id = self._provider.id_generator.generate_span_id
        self._keep = sampling.Decision.RECORD_AND_SAMPLE
        self._scope = InstrumentationScope(SERVICE)

    def submitted(self, task: str, until_ns: int) -> None:
        """The root: from the submission to the first step. Sent again it is the same span."""
        trace_id, span_id = trace_ids(task)
        if self._sampled(trace_id):
            self._end(
                "submit",
                {"task": task},
                context=self._context(trace_id, span_id, remote=False),
                kind=self._trace.SpanKind.PRODUCER,
                start_time=min(submitted_ns(task), until_ns),
                end_time=until_ns,
            )

    def step(
        self,
        name: str,
        key: AttemptKey,
        start_ns: int,
        end_ns: int,
        *,
        agent: str | None,
        outcome: str,
    ) -> None:
        """One step of one attempt, beneath the task's root. Instants are since 1970."""
        trace_id, root_id = trace_ids(key.task)
        if not self._sampled(trace_id):
            return
        about = {"task": key.task, "attempt": key.attempt, "outcome": outcome}
        if agent is not None:
            about["agent"] = agent
        kinds = self._trace.SpanKind
        self._end(
            name,
            about,
            context=self._context(trace_id, self._new_id(), remote=False),
            parent=self._context(trace_id, root_id, remote=True),
            kind=kinds.CLIENT if name == "execute" else kinds.CONSUMER,
            start_time=start_ns,
            end_time=end_ns,
        )

    def close(self) -> None:
        """Send what is left, within `STOP_MS`."""
        self._processor.force_flush(STOP_MS)
        self._processor.shutdown()  # type: ignore[no-untyped-call]

    def _sampled(self, trace_id: int) -> bool:
        decision = self._provider.sampler.should_sample(None, trace_id, "submit").decision
        return decision is self._keep

    def _end(self, name: str, about: Mapping[str, Any], **given: Any) -> None:
        """Made whole instead of started: its ids are given and both its ends are known."""
        span = self._sdk.ReadableSpan(
            name=name,
            resource=self._provider.resource,
            attributes={f"clearlane.{key}": value for key, value in about.items()},
            instrumentation_scope=self._scope,
            **given,
        )
        self._processor.on_end(span)

    def _context(self, trace_id: int, span_id: int, *, remote: bool) -> Any:
        flags = self._trace.TraceFlags(self._trace.TraceFlags.SAMPLED)
        return self._trace.SpanContext(trace_id, span_id, remote, flags)


def tracing(environment: Mapping[str, str]) -> Tracing | None:
    """Tracing as the environment asks for it; None when it does not.

    Raises BadInput when it does and the packages are not installed.
    """
    name = next((name for name in ENDPOINTS if environment.get(name, "").strip()), None)
    if name is None or environment.get(OFF, "").strip().lower() == "true":
        return None
    try:
        return Tracing()
    except ImportError as error:
        raise BadInput(
            name,
            f"it asks for traces, and a package for them is missing ({error.name})",
            "run `pip install 'clearlane[traces]'`, or unset it",
        ) from None
