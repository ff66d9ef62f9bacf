"""What a person can do about each reason that a condition or a pod may have."""

from __future__ import annotations

HINTS = {
    "Unschedulable": "kubectl describe pod {pod}; free or add nodes, or ask for less in spec.{role}.resources",
    "ImagePullFailed": "check spec.runtime.image and imagePullSecrets; kubectl describe pod {pod}",
    "OutOfMemory": "raise spec.{role}.resources.limits.memory, or lower engine.kvCacheMemory or maxModelLen",
    "CrashLoop": "kubectl -n {namespace} logs {pod} --previous",
    "ModelAccessDenied": "put a token that may read the model into the Secret of model.credentialsSecret, key HF_TOKEN",
    "ModelNotFound": "check model.source and model.revision",
    "ModelDownloadFailed": "kubectl -n {namespace} logs {pod}; can the pod reach the hub?",
    "HandshakeRefused": "prefill and decode pods must serve the same model and revision; see the logs of both",
    "ConfigMissing": "kubectl describe pod {pod}: a Secret or ConfigMap that it names is missing",
    "WrongFlag": "check engine.args and router.args against `penstock serve --help` and `penstock route --help`",
    "NodeUnreachable": "kubectl get nodes; the pod is replaced when Kubernetes gives the node up",
    "NotCreated": "kubectl describe pod {pod}: is a volume missing?",
    "PodsRefused": "kubectl -n {namespace} get resourcequota; a quota or a policy refuses the pods",
    "ForeignObject": "delete or rename the object that is in the way, or rename the InferenceService",
    "WaitingForCapacity": "raise gpuBudget, add nodes, or let rollout.maxUnavailable be 1",
    "RolloutPaused": "set rollout.paused to false to go on",
    "BudgetTooSmall": "raise autoscaling.gpuBudget, or lower the min of the roles",
}
