"""How a bench tells a peer what to do: one JSON line in, one JSON line out.

`{"do": verb, …}` is answered with what the verb returns, or with `{"error": …}`.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

Verb = Callable[..., Mapping[str, Any] | None]


def serve(verbs: Mapping[str, Verb]) -> None:
    """Answer until the input ends. Whatever a library prints goes to the log instead."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as out:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        for line in sys.stdin:
            request = json.loads(line)
            try:
                answer = dict(verbs[request.pop("do")](**request) or {})
            except Exception as error:
                traceback.print_exc()
                answer = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(answer), file=out, flush=True)
