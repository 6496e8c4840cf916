"""What a server did, in the text that Prometheus reads (exposition format 0.0.4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Seconds up to which requests are counted together."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Samples = Iterable[tuple[Mapping[str, str], float]]
"""Labels, and the value that they have."""


class Metrics:
    """Counts; only the event loop's thread does."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()
        """By path and status."""
        self.texts: Counter[tuple[str, str]] = Counter()
        """That were answered, by source and target."""
        self.dropped = 0
        """Texts that nobody waited for any more."""
        self.seconds: Counter[float] = Counter()
        """Answers by the least of `BUCKETS` that they took no longer than."""
        self.seconds_sum = 0.0

    def observe(self, path: str, status: int, seconds: float) -> None:
        """A request was answered; how long it took counts where there is an answer."""
        self.requests[path, str(status)] += 1
        if status < 400:
            self.seconds[next((bucket for bucket in BUCKETS if seconds <= bucket), float("inf"))] += 1
            self.seconds_sum += seconds

    def text(self, queued: Samples, running: Samples, ready: Samples) -> str:
        """All of it, and how much waits, is being decoded, and is there, of each pair of languages."""
        families: list[tuple[str, str, str, Samples]] = [
            ("seqloom_requests_total", "counter", "Requests that were answered.",
             [({"path": path, "status": status}, number) for (path, status), number in self.requests.items()]),
            ("seqloom_texts_total", "counter", "Texts that were answered.",
             [({"source": source, "target": target}, number) for (source, target), number in self.texts.items()]),
            ("seqloom_texts_dropped_total", "counter", "Texts that left the queue as nobody waited for them any more.",
             [({}, self.dropped)]),
            ("seqloom_queue_texts", "gauge", "Texts that wait.", queued),
            ("seqloom_running_texts", "gauge", "Texts that are being decoded.", running),
            ("seqloom_ready", "gauge", "Whether the model is loaded.", ready),
        ]  # fmt: skip
        lines = []
        for name, kind, meaning, samples in families:
            lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
            lines += [f"{name}{labelled(labels)} {value:g}" for labels, value in samples]
        name, number = "seqloom_request_seconds", 0
        lines += [f"# HELP {name} Seconds to an answer's end.", f"# TYPE {name} histogram"]
        for bucket in (*BUCKETS, float("inf")):
            number += self.seconds[bucket]
            lines.append(f'{name}_bucket{{le="{"+Inf" if bucket == float("inf") else f"{bucket:g}"}"}} {number}')
        lines += [f"{name}_sum {self.seconds_sum:.6f}", f"{name}_count {number}"]
        return "\n".join(lines) + "\n"


def labelled(labels: Mapping[str, str]) -> str:
    """``{path="/translate",status="200"}``"""
    if not labels:
        return ""
    escaped = {name: value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") for name, value in
               labels.items()}  # fmt: skip
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped.items()) + "}"
