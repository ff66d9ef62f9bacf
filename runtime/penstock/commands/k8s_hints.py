"""What a person can do about each reason that a condition or a pod may have."""

from __future__ import annotations

HINTS = {
    # Of pods.
    "Unschedulable": (
        "free or add nodes, or ask for less in spec.{role}.resources; kubectl -n {namespace} describe pod {pod} tells "
        "what each node lacks"
    ),
    "ImagePullFailed": "check runtime.image and runtime.imagePullSecrets; kubectl -n {namespace} describe pod {pod}",
    "OutOfMemory": "raise spec.{role}.resources.limits.memory, or lower engine.kvCacheMemory or engine.maxModelLen",
    "CrashLoop": "kubectl -n {namespace} logs {pod} --previous",
    "PodFailed": "kubectl -n {namespace} describe pod {pod}",
    "PodEnded": "kubectl -n {namespace} describe pod {pod}; a model larger than model.cache.size ends a pod so",
    "Evicted": "kubectl -n {namespace} describe pod {pod}: its node ran out of memory or disk; set resources.requests",
    "ModelAccessDenied": (
        "check the name in model.source; if it is right, put a token that may read the model into the Secret of "
        "model.credentialsSecret, key HF_TOKEN"
    ),
    "ModelNotFound": "check model.source and model.revision",
    "ModelDownloadFailed": "kubectl -n {namespace} logs {pod}; can the pod reach the hub?",
    "ModelCacheFull": "give model.cache more room, or remove models from its volume",
    "ModelCacheReadOnly": "the volume of model.cache has to be writable for the user 65532, or hold the model already",
    "HandshakeRefused": (
        "prefill and decode pods must serve the same model and revision: compare "
        "kubectl -n {namespace} logs of both; kubectl -n {namespace} delete pod {pod} gets it a new start"
    ),
    "ConfigMissing": "kubectl -n {namespace} describe pod {pod}: a Secret or ConfigMap that it names is missing",
    "WrongFlag": "check engine.args and router.args against `penstock serve --help` and `penstock route --help`",
    "NodeUnreachable": "kubectl get nodes; the pod is replaced when Kubernetes gives the node up",
    "NotCreated": "kubectl -n {namespace} describe pod {pod}: a Secret or a volume that it mounts is missing",
    "ParallelismUnsupported": "let engine.tensorParallel and engine.pipelineParallel be 1",
    # Of what makes pods.
    "PodsRefused": "kubectl -n {namespace} get resourcequota,limitrange; a quota or a policy refuses the pods",
    "GroupsNotMade": "kubectl get pods -A | grep lws: the controller of LeaderWorkerSets has to run",
    "LeaderWorkerSetMissing": "install LeaderWorkerSet, or let a replica fit on one node",
    # Of services.
    "InvalidSpec": "kubectl -n {namespace} edit psvc {name}: change the field that is named above",
    "InvalidSchedule": "kubectl -n {namespace} edit psvc {name}: change the schedule that is named above",
    "BudgetTooSmall": "raise autoscaling.gpuBudget, or lower min or the GPUs of a role",
    "ApiMissing": "install the API that is named above, or take its field out of the spec",
    "RouteRefused": "kubectl -n {namespace} describe httproute {name}: the Gateway has to allow routes from here",
    "ForeignObject": "delete or rename the object that is in the way, or rename the InferenceService",
    "Forbidden": "the operator lacks a right: helm upgrade its chart, or ask who runs the cluster",
    "WaitingForCapacity": "raise autoscaling.gpuBudget, add nodes, or let rollout.maxUnavailable be 1",
    "WaitingForModel": "wait until the new model is in the shared cache; the old revision serves meanwhile",
    "RolloutPaused": "set rollout.paused to false to go on",
    "Suspended": "set spec.suspend to false to have pods again",
    "ScaledToZero": "send a request: the router holds it and has pods started",
    "Limited": "raise max of the role, or gpuBudget, in spec.autoscaling if more pods should be there",
    "OtherWriter": "delete that autoscaler, or spec.autoscaling: one of them has to go",
    "MetricsUnavailable": "do what the sentence says, or let autoscaling.mode be Builtin",
}
