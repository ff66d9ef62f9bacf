"""What the operator costs with many services, over an API server in memory: `python bench/operator_cost.py [SERVICES]`.

One look at each service is what a resync adds every `--resync-seconds`; calls to a real API server come on top.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESYNC_SECONDS = 600.0
TEXT = """
apiVersion: penstock.dev/v1alpha1
kind: InferenceService
metadata: {name: chat}
spec:
  model: {source: hf://org/model}
  connector: {type: nixl}
  prefill: {replicas: 1}
  decode: {replicas: 2}
"""


def measure(num_services: int) -> dict[str, float]:
    """CPU-seconds and memory of one run."""
    sys.path.insert(0, str(ROOT / "tests"))
    from support.operator_run import OperatorRun

    run = OperatorRun()
    keys = [run.create(TEXT, name=f"s{number}") for number in range(num_services)]
    begun = time.process_time()
    run.work(10 * num_services)
    figures = {"services": num_services, "create_cpu_seconds": time.process_time() - begun}
    for _ in range(4):
        run.cluster.step()
        run.now += 3.0
        run.work(100 * num_services)
    assert all(run.condition(key, "Ready")["status"] == "True" for key in keys)
    run.writes()
    begun = time.process_time()
    assert run.resync.turn()
    listed = time.process_time()
    num_looks = run.work(10 * num_services)
    looked = time.process_time()
    assert run.writes() == [], "nothing had happened"
    figures["objects"] = sum(len(run.store.children(key)) + 1 for key in keys)
    figures["list_cpu_seconds"], figures["looks_cpu_seconds"] = listed - begun, looked - listed
    figures["look_ms"] = (looked - listed) / num_looks * 1e3
    figures["steady_percent_of_a_core"] = (looked - begun) / RESYNC_SECONDS * 100
    figures["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return figures


if __name__ == "__main__":
    for name, value in measure(int(sys.argv[1]) if len(sys.argv) > 1 else 1000).items():
        print(f"{name:26} {value:10.2f}")
