"""Every metric that is counted: name, labels, and the label values that are there from the start, so that no alert misses a first event.

Names, labels and label values of NORA are kept (fact sheet metrics.md, since-1.1.md section 6); the others are ours. Labels never hold names of
artifacts, users or addresses. docs/monitoring.md is checked against this table and scrape_metrics.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product

REGISTRIES = ("<registries>",)
"""Stands for the repositories of this server."""
OTHER = "other"
"""What is below no repository's mount: /health, /api, unknown addresses."""
REGISTRIES_AND_OTHER = ("<registries>", OTHER)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
METHOD_OTHER = "other"

COUNTER, HISTOGRAM, GAUGE = "counter", "histogram", "gauge"
"""A gauge here is a number that each process has of its own, and that is added up over those that live."""

HTTP_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LONG_BUCKETS = (0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0)
STORAGE_BUCKETS = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 10.0)
SIZE_BUCKETS = (1024.0, 16384.0, 262144.0, 1048576.0, 16777216.0, 134217728.0, 536870912.0)
JOB_BUCKETS = (0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


@dataclass(frozen=True, eq=False)
class Family:
    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    values: tuple[tuple[str, ...], ...] | None = ()
    """Of each label, those that are there from the start, in all combinations. None: whatever comes."""
    buckets: tuple[float, ...] = ()

    @property
    def by_repository(self) -> bool:
        return self.labels[:1] == ("registry",)

    def presets(self, in_full: Iterable[str], others: Iterable[str]) -> Iterator[tuple[str, ...]]:
        """Labels that are there before anything is counted. `in_full`: repositories that have all of them, `others`: those that have only
        what is counted by repository alone; the rest of theirs comes with the first event, or 200 of them would fill each scrape with zeros."""
        if self.values is None:
            return
        if not self.by_repository:
            yield from product(*self.values)
            return
        names, *rest = self.values
        yield from product((*in_full, *(name for name in names if name != REGISTRIES[0])), *rest)
        if not rest and self.kind == COUNTER:
            yield from ((name,) for name in others)


# Requests.

HTTP_REQUESTS = Family(
    "nora_http_requests_total",
    COUNTER,
    "Requests answered, by the repository they were for.",
    ("registry", "method", "status"),
    (REGISTRIES_AND_OTHER, METHODS, ("200", "401", "403", "404", "429", "500", "503")),
)
HTTP_DURATION = Family(
    "nora_http_request_duration_seconds",
    HISTOGRAM,
    "Time until the head of the answer was ready.",
    ("registry", "method"),
    (REGISTRIES_AND_OTHER, METHODS),
    HTTP_BUCKETS,
)
HTTP_LAST_BYTE = Family(
    "nora_http_last_byte_seconds",
    HISTOGRAM,
    "Time until the last byte of the answer was with the kernel.",
    ("registry",),
    (REGISTRIES_AND_OTHER,),
    LONG_BUCKETS,
)
HTTP_SENT = Family("nora_http_response_bytes_total", COUNTER, "Bytes of bodies that were sent.", ("registry",), (REGISTRIES_AND_OTHER,))
HTTP_RECEIVED = Family("nora_http_request_bytes_total", COUNTER, "Bytes of bodies that came in.", ("registry",), (REGISTRIES_AND_OTHER,))
HTTP_CUT = Family("nora_http_responses_cut_total", COUNTER, "Answers that did not get through whole.", ("registry",), (REGISTRIES_AND_OTHER,))
HTTP_REPEATED = Family(
    "nora_http_repeated_total", COUNTER, "Requests that got the answer to an earlier one again, because nothing that it rests on has changed."
)
CONNECTIONS_ENDED = Family(
    "nora_http_connections_ended_total",
    COUNTER,
    "Connections that the server ended to have room: one that waited (evicted), or a new one beyond its client's share (refused).",
    ("reason",),
    (("evicted", "refused"),),
)
HTTP_IN_FLIGHT = Family("nora_http_requests_in_flight", GAUGE, "Requests that are running now.")
DOWNLOADS = Family("nora_downloads_total", COUNTER, "Artifacts served: blobs and manifests, not HEAD.", ("registry",), (REGISTRIES,))
UPLOADS = Family("nora_uploads_total", COUNTER, "Artifacts taken: blobs and manifests, not mounts.", ("registry",), (REGISTRIES,))
CACHE_REQUESTS = Family(
    "nora_cache_requests_total",
    COUNTER,
    "Artifacts that were here (hit) or had to be fetched (miss); hosted ones are hits.",
    ("registry", "result"),
    (REGISTRIES, ("hit", "miss")),
)

# Access.

LOGINS = Family(
    "nora_auth_logins_total",
    COUNTER,
    "Logins by kind of credential; a credential that goes on counts once in a quarter of an hour.",
    ("method", "result"),
    (("password", "token", "bearer", "oidc", "other"), ("ok", "failed", "locked_out")),
)
OIDC_REJECTED = Family(
    "nora_auth_oidc_rejected_total",
    COUNTER,
    "Tokens of OIDC issuers that were refused.",
    ("reason",),
    (("disabled", "no_provider", "lifetime_exceeded", "no_role_rule", "algorithm", "jwt_invalid", "jwks", "other"),),
)
DENIED = Family(
    "nora_access_denied_total",
    COUNTER,
    "Refusals for want of a right: 401 to clients without credentials, 403 to known ones.",
    ("registry", "action", "status"),
    (REGISTRIES_AND_OTHER, ("pull", "push", "delete", "admin", "login"), ("401", "403")),
)
NAMESPACE_SCOPE = Family(
    "nora_auth_namespace_scope_total",
    COUNTER,
    "Writes of OIDC identities with a namespace scope.",
    ("provider", "decision"),
    None,
)

RATE_LIMITED = Family(
    "nora_rate_limit_requests_total",
    COUNTER,
    "Requests that rate limits were asked about.",
    ("tier", "outcome"),
    (("auth", "upload", "general", "metrics"), ("allowed", "refused")),
)
RATE_DELAYED = Family(
    "nora_rate_limit_delayed_total", COUNTER, "Requests that waited a moment for their turn.", ("tier",), (("auth", "upload", "general", "metrics"),)
)
RATE_LIMIT_FAILURES = Family("nora_rate_limit_store_failures_total", COUNTER, "Requests that could not be counted where they should.")

# Curation.

CURATION_DECISIONS = Family(
    "nora_curation_decisions_total",
    COUNTER,
    "Answers of the gate; skip: there is no policy that could refuse.",
    ("decision",),
    (("allow", "block", "audit", "skip"),),
)
CURATION_BLOCKS = Family(
    "nora_curation_blocks_total",
    COUNTER,
    "Artifacts refused (enforce) or that would have been (audit), by the kind of rule.",
    ("registry", "rule", "mode"),
    (REGISTRIES, ("blocklist", "allowlist", "min-release-age", "pin", "namespace", "quarantine", "freeze"), ("enforce", "audit")),
)
NAMESPACE_REFUSED = Family(
    "nora_namespace_isolation_refused_total", COUNTER, "Internal names that were not asked of an upstream.", ("registry",), (REGISTRIES,)
)
QUARANTINE_HOLDS = Family(
    "nora_quarantine_holds_total",
    COUNTER,
    "Artifacts in quarantine that were asked for.",
    ("registry", "outcome"),
    (REGISTRIES, ("blocked", "observed")),
)

# Storage and staging.

STORAGE_OPERATIONS = Family(
    "nora_storage_operations_total",
    COUNTER,
    "Operations on the storage. not_found is no error.",
    ("operation", "status"),
    (
        ("put", "get", "delete", "copy", "get_reader", "get_range", "stat"),
        ("ok", "not_found", "error", "pin_error", "integrity_fail", "verify_error"),
    ),
)
STORAGE_DURATION = Family(
    "nora_storage_operation_duration_seconds",
    HISTOGRAM,
    "How long operations on the storage took.",
    ("backend", "operation"),
    (("local",), ("put", "get", "delete", "get_reader", "get_range", "stat")),
    STORAGE_BUCKETS,
)
STORAGE_GET_BYTES = Family(
    "nora_storage_get_bytes",
    HISTOGRAM,
    "Size of reads into memory; other: of content, which repositories share.",
    ("registry",),
    (REGISTRIES_AND_OTHER,),
    SIZE_BUCKETS,
)
STAGING_SPILLS = Family("nora_staging_spills_total", COUNTER, "Uploads that moved from the temporary folder to the data volume.")
STAGING_REFUSED = Family(
    "nora_staging_refused_total",
    COUNTER,
    "Uploads that could not go on: no space, or too many of them.",
    ("reason",),
    (("storage_full", "read_only", "too_many_uploads", "principal_sessions", "principal_bytes"),),
)
STAGING_MADE_ROOM = Family("nora_staging_made_room_total", COUNTER, "Idle uploads that were removed because others could not begin or go on.")
UPLOADS_IN_FLIGHT = Family("nora_upload_in_flight", GAUGE, "Uploads whose bytes are coming in now.")

# Background work.

JOB_RUNS = Family("nora_job_runs_total", COUNTER, "Rounds of background work.", ("task", "result"), (("maintenance", "inventory"), ("ok", "failed")))
WORKER_EXITS = Family("nora_worker_exits_total", COUNTER, "Worker processes that ended, for whatever reason.")
AUDIT_LOST = Family("nora_audit_records_lost_total", COUNTER, "Records of the audit log that could not be written.")
TASK_PANICS = Family(
    "nora_task_panics_total", COUNTER, "Background tasks that ended in an unexpected error.", ("task",), (("maintenance", "sighup", "audit"),)
)

# Of NORA, for what this version does not do yet: they stay at 0, so that dashboards and alerts made for NORA go on working.

_OF_UPSTREAMS: tuple[Family, ...] = (
    Family("nora_cache_write_errors_total", COUNTER, "Failed background writes.", ("registry", "operation"), (REGISTRIES, ("manifest", "metadata"))),
    Family(
        "nora_upstream_policy_blocked_total", COUNTER, "Refusals of an upstream's firewall.", ("registry", "reason"), (REGISTRIES, ("geo", "waf"))
    ),
    Family("nora_circuit_breaker_rejections_total", COUNTER, "Refused by an open breaker.", ("registry",), (REGISTRIES,)),
    Family("nora_proxy_coalesced_total", COUNTER, "Requests served from the fetch of another one.", ("registry",), (REGISTRIES,)),
    Family(
        "nora_proxy_coalesce_fallthrough_total",
        COUNTER,
        "Requests that fetched themselves.",
        ("registry", "reason"),
        (REGISTRIES, ("leader", "budget")),
    ),
    Family("nora_proxy_upstream_304_total", COUNTER, "Revalidations answered 304.", ("registry",), (REGISTRIES,)),
    Family("nora_proxy_revalidation_bytes_saved_total", COUNTER, "Bytes not fetched again.", ("registry",), (REGISTRIES,)),
    Family("nora_proxy_revalidation_errors_total", COUNTER, "Failed revalidations.", ("registry",), (REGISTRIES,)),
    Family("nora_proxy_download_bytes_total", COUNTER, "Bytes fetched from upstreams."),
    Family("nora_metadata_corrupt_total", COUNTER, "Publishing refused for a broken document.", ("registry",), (REGISTRIES,)),
    Family("nora_packument_rebuilt_total", COUNTER, "Documents assembled again.", ("registry",), (REGISTRIES,)),
    Family("nora_response_upstream_url_leak_total", COUNTER, "Answers that named an upstream's host.", ("registry",), (REGISTRIES,)),
    Family(
        "nora_leak_detection_skipped_total",
        COUNTER,
        "Answers that were not looked through for such names.",
        ("reason",),
        (("own_surface", "too_large", "unknown_size", "body_read_error", "gzip_truncated"),),
    ),
    Family("nora_maintenance_timeouts_total", COUNTER, "Rounds of background work cut at their deadline."),
    Family("nora_gc_blobs_removed_total", COUNTER, "Blobs removed by garbage collection."),
    Family("nora_gc_bytes_freed_total", COUNTER, "Bytes freed by garbage collection."),
    Family("nora_gc_metadata_phantoms_total", COUNTER, "Version entries without a file removed."),
    Family("nora_gc_stat_failures_total", COUNTER, "Orphans kept because their age could not be read."),
    Family("nora_gc_proxy_cache_evicted_total", COUNTER, "Cached artifacts evicted."),
    Family("nora_gc_proxy_cache_bytes_freed_total", COUNTER, "Bytes freed by that."),
    Family("nora_gc_docker_mark_failures_total", COUNTER, "Sweeps of images that were skipped."),
    Family("nora_gc_duration_seconds", HISTOGRAM, "Garbage collection runs.", buckets=JOB_BUCKETS),
    Family("nora_retention_versions_deleted_total", COUNTER, "Versions deleted by retention."),
    Family("nora_retention_bytes_freed_total", COUNTER, "Bytes freed by retention."),
    Family("nora_retention_duration_seconds", HISTOGRAM, "Retention runs.", buckets=JOB_BUCKETS),
    Family(
        "nora_upstream_request_duration_seconds",
        HISTOGRAM,
        "Time until an upstream's head.",
        ("registry", "status"),
        (REGISTRIES, ("2xx", "4xx", "5xx", "timeout", "error")),
        (*HTTP_BUCKETS, 30.0),
    ),
    Family("nora_storage_verify_duration_seconds", HISTOGRAM, "Hash checks of reads.", ("registry",), (REGISTRIES,), STORAGE_BUCKETS),
)

FAMILIES: tuple[Family, ...] = (
    *(found for name, found in list(globals().items()) if isinstance(found, Family) and name.isupper()),
    *_OF_UPSTREAMS,
)
