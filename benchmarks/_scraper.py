"""A scraper in a process of its own, so that reading what it gets delays nobody who is measured.

Run as `python -m benchmarks._scraper PORT EVERY`: for each line with a number of seconds it scrapes for so long, every
EVERY seconds, and prints how long each scrape took, in seconds, as JSON.
"""

import http.client
import json
import sys
import time

ACCEPT = "application/openmetrics-text; version=1.0.0"
"""What Prometheus asks for."""


def main() -> None:
    """Scrape whenever asked to."""
    port, every = int(sys.argv[1]), float(sys.argv[2])
    for asked in sys.stdin:
        until = time.perf_counter() + float(asked)
        took = []
        while (began := time.perf_counter()) < until:
            took.append(_scrape(port))
            time.sleep(max(0.0, began + every - time.perf_counter()))
        print(json.dumps(took), flush=True)


def _scrape(port: int) -> float:
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/metrics", headers={"Accept": ACCEPT})
    assert connection.getresponse().read().endswith(b"# EOF\n")
    connection.close()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
