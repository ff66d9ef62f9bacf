"""The kernels' benchmark in Triton's interpreter, in processes of its own: the interpreter is chosen before Triton."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

BROKEN = """
import json, time
from dataclasses import replace

import torch

from penstock.bench.gpu.attention_peers import NotInstalled
from penstock.bench.gpu.clock import HostClock
from penstock.bench.gpu.limits import measure_limits
from penstock.bench.gpu.shapes import TINY, decode
from penstock.bench.gpu.suite import Plan, run_tasks, tasks
from penstock_kernels.gpu import gated_activation, paged_attention_op, rms_norm

def absent(case):
    raise NotInstalled

def idle_peer(case):
    return lambda: torch.zeros_like(case.out)

device, clock = torch.device("cpu"), HostClock()
idle = replace(rms_norm.OP, launches=lambda inputs: ())
plan = Plan(
    clock=clock, device=device, dtype=torch.float32, models=(TINY,), workloads=(decode(2, 20),), scale=4096,
    ops=(idle, gated_activation.OP, paged_attention_op.OP), peers={"absent": absent, "idle": idle_peer},
)
limits = measure_limits(clock, device, is_smoke=True)
found = run_tasks(tasks(plan), time.monotonic() + 60)
print(json.dumps([figure.as_json(limits) for _, figure in found]))
"""
FLASH = """
import torch

def one(query, keys, values):
    group = query.shape[1] // keys.shape[1]
    keys, values = (part.repeat_interleave(group, 1) for part in (keys, values))
    scores = torch.einsum("qhd,khd->hqk", query, keys) * query.shape[2] ** -0.5
    is_seen = torch.ones(scores.shape[1:]).tril(len(keys) - len(query)).bool()
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(~is_seen, float("-inf")).softmax(-1), values)

def flash_attn_with_kvcache(query, keys, values, *, cache_seqlens, causal):
    assert causal
    return torch.stack([one(q, k[:n], v[:n]) for q, k, v, n in zip(query, keys, values, cache_seqlens)])

def flash_attn_varlen_func(query, keys, values, *, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal):
    assert causal
    assert (max_seqlen_q, max_seqlen_k) == (int(cu_seqlens_q.diff().max()), int(cu_seqlens_k.diff().max()))
    q, k = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
    parts = [one(query[a:b], keys[c:d], values[c:d]) for a, b, c, d in zip(q, q[1:], k, k[1:])]
    return torch.cat(parts), None
"""
PEERS = """
import json, warnings
import torch
from penstock.bench.gpu.attention_case import build_case
from penstock.bench.gpu.attention_peers import ATTENTION_PEERS, NotComparable
from penstock.bench.gpu.shapes import TINY, Workload, decode, prefill

warnings.simplefilter("ignore")
torch.cuda.get_device_capability = lambda device: (9, 0)
workloads = [
    decode(3, 37), prefill(19, batch=2), prefill(8, is_fp8=True),
    *(Workload(name=name, lengths=lengths) for name, lengths in (
        ("skewed", ((1, 90), (1, 5), (1, 17))), ("chunk", ((4, 21),)), ("mixed", ((4, 21), (1, 33))),
    )),
]
found = {}
for workload in workloads:
    case = build_case(TINY, workload, dtype=torch.float32, device=torch.device("cpu"))
    for name, peer in ATTENTION_PEERS.items():
        try:
            error = case.error_of(peer(case)().reshape(case.out.shape))
        except NotComparable as why:
            error = str(why)
        found[f"{workload.name}, {name}"] = error
print(json.dumps(found))
"""
BARE = """
import importlib.metadata, json, sys
sys.modules["msgspec"] = None
import penstock.cli, penstock.bench.kernels
import penstock.bench.gpu.environment, penstock.bench.gpu.suite, penstock.bench.gpu.sweep
packages = importlib.metadata.packages_distributions()
imported = {name.split(".")[0] for name, module in sys.modules.items() if module is not None}
print(json.dumps(sorted({package for name in imported for package in packages.get(name, ())})))
"""
BROUGHT = {"setuptools", "typing-extensions", "typing_extensions", "tqdm", "Pygments", "Jinja2", "MarkupSafe"}
BROUGHT |= {"torch", "triton", "numpy", "rich", "penstock"}
"""What may be imported: torch, triton, numpy and rich, and what they bring along."""


def interpreted(program: str, **variables: str) -> str:
    environment = {**os.environ, "TRITON_INTERPRET": "1", **variables}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def figures():
    return json.loads(interpreted(BROKEN))


def test_a_kernel_that_writes_nothing_is_called_wrong(figures):
    norms = [figure for figure in figures if figure["op"] == "rms_norm"]
    assert len(norms) == 2
    assert {figure["verdict"] for figure in norms} == {"wrong"}
    assert {figure["microseconds"] for figure in norms} == {None}


def test_kernels_that_are_right_have_a_time_and_a_share(figures):
    found = [figure for figure in figures if figure["op"] != "rms_norm"]
    assert {figure["op"] for figure in found} == {"gated_activation", "paged_attention"}
    assert {figure["verdict"] for figure in found} == {"right"}
    assert all(figure["percent"] > 0 and figure["microseconds"] > 0 for figure in found)


def test_peers_are_checked_too(figures):
    (attention,) = (figure for figure in figures if figure["op"] == "paged_attention")
    assert attention["peers"]["absent"]["note"] == "not installed"
    assert attention["peers"]["idle"]["note"].startswith("wrong")
    assert attention["peers"]["idle"]["microseconds"] is None


def test_each_peer_computes_what_we_do_or_says_why_it_does_not(tmp_path):
    (tmp_path / "flash_attn_interface.py").write_text(FLASH)
    paths = os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", "")))
    found = json.loads(interpreted(PEERS, PYTHONPATH=paths))
    refused = {name: why for name, why in found.items() if isinstance(why, str)}
    assert refused == {
        "prefill 1 x 8 fp8, SDPA": "no float8 cache",
        "prefill 1 x 8 fp8, FlexAttention": "no float8 cache",
        "prefill 1 x 8 fp8, FA3": "needs float8 queries too",
        "skewed, SDPA": "lengths differ",
        "chunk, SDPA": "a chunk on a cache",
        "mixed, SDPA": "lengths differ",
        "mixed, FlexAttention": "decode and prefill in one step",
    }
    assert {name: error for name, error in found.items() if name not in refused and not error < 1e-5} == {}


def test_it_needs_nothing_but_torch_triton_numpy_and_rich():
    assert set(json.loads(interpreted(BARE))) <= BROUGHT
