"""The same pull by `dlt`: its rest_api source, merge on the id. Run by a Python that has dlt, see docs/benchmarks.md.

python -m benchmarks.sync_dlt BASE KEY DATABASE_URL STATE_FOLDER
"""

from __future__ import annotations

import os
import sys

from benchmarks.measure import tell, timed


def main(base: str, key: str, url: str, folder: str) -> None:
    """One pipeline run: extract, normalize, load."""
    os.environ |= {"RUNTIME__DLTHUB_TELEMETRY": "false", "RUNTIME__LOG_LEVEL": "CRITICAL"}
    import dlt  # noqa: PLC0415  # it reads its environment when it is imported
    from dlt.sources.rest_api import rest_api_source  # noqa: PLC0415

    source = rest_api_source(
        {
            "client": {
                "base_url": f"{base}/v2/",
                "headers": {"X-API-Key": key},
                "paginator": {"type": "cursor", "cursor_path": "nextCursor", "cursor_param": "cursor"},
            },
            "resource_defaults": {"primary_key": "uuid", "write_disposition": "merge"},
            "resources": [
                {
                    "name": "subscriptions",
                    "endpoint": {
                        "path": "transaction/subscriptions",
                        "params": {"limit": 100},
                        "data_selector": "items",
                    },
                }
            ],
        }
    )
    # it wants a host and a password to be named; the socket's folder in the query wins over the one
    destination = dlt.destinations.postgres(url.replace("postgres@/", "postgres:none@localhost/"))
    pipeline = dlt.pipeline("bench", pipelines_dir=folder, destination=destination, dataset_name="bench")
    with timed() as took:
        pipeline.run(source)
    counts = pipeline.last_trace.last_normalize_info.row_counts
    tell(counts["subscriptions"], took)


if __name__ == "__main__":
    main(*sys.argv[1:])
