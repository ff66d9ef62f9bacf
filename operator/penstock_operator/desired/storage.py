"""Where a model lies, and what has to be mounted for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from penstock_operator import kinds, names
from penstock_operator.api.v1alpha1 import ModelCache
from penstock_operator.desired.identity import build_child
from penstock_operator.errors import SpecError
from penstock_operator.service import Manifest, Service

CLAIM_SCHEME, PACKAGE_SCHEME, HUB_SCHEME = "pvc://", "pypi://", "hf://"
CLAIM_FOLDER = "/mnt/model"  # a volume that `pvc://` names
CACHE_VOLUME, CLAIM_VOLUME = "model-cache", "model"
CONVERTED = ".gguf"  # such a file is converted into the cache
TOKEN = "HF_TOKEN"  # in the environment, and in the user's Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlace:
    """A model as a container finds it."""

    argument: str  # the MODEL of `penstock serve`
    volumes: tuple[Manifest, ...]
    mounts: tuple[Manifest, ...]

    @property
    def has_cache(self) -> bool:
        """True if there is a cache folder."""
        return any(volume["name"] == CACHE_VOLUME for volume in self.volumes)


def place_model(service: Service) -> ModelPlace:
    """Where the service's model is. Raises `SpecError` for a source that cannot be, or settings that do not fit it."""
    source = service.spec.model.source
    argument, volumes, mounts = source, [], []
    if source.startswith(CLAIM_SCHEME):
        claim, argument = split_claim(source)
        volumes.append({"name": CLAIM_VOLUME, "persistentVolumeClaim": {"claimName": claim, "readOnly": True}})
        mounts.append({"name": CLAIM_VOLUME, "mountPath": CLAIM_FOLDER, "readOnly": True})
    is_path = argument.startswith("/")
    is_hub = not is_path and not source.startswith(PACKAGE_SCHEME)
    check_hub_settings(service, is_hub=is_hub)
    if not is_path or argument.endswith(CONVERTED):  # what is a folder already needs no cache
        volumes.append(build_cache_volume(service, is_read_only=is_shared(service)))
        mounts.append(build_cache_mount(is_read_only=is_shared(service)))
    return ModelPlace(argument=argument, volumes=tuple(volumes), mounts=tuple(mounts))


def check_hub_settings(service: Service, *, is_hub: bool) -> None:
    """Raise `SpecError` for settings that make sense only for a model of the hub."""
    model = service.spec.model
    if model.revision is not None and not is_hub:
        raise SpecError("InvalidSpec", "spec.model.revision: only a model of the hub, hf://org/name, has revisions")
    if is_shared(service) and not is_hub:
        raise SpecError("InvalidSpec", "spec.model.cache.type: Shared is for a model of the hub, hf://org/name")


def split_claim(source: str) -> tuple[str, str]:
    """`pvc://claim/path` as the claim's name and the path in a container."""
    claim, _, path = source.removeprefix(CLAIM_SCHEME).partition("/")
    if ".." in PurePosixPath(path).parts:
        raise SpecError("InvalidSpec", f"spec.model.source: {source} leaves its volume; write it without ..")
    return claim, str(PurePosixPath(CLAIM_FOLDER, path.strip("/")))


def is_shared(service: Service) -> bool:
    """True if one volume holds the model for all pods, which only read it."""
    cache = service.spec.model.cache
    return cache is not None and cache.type == "Shared"


def is_filled_here(service: Service) -> bool:
    """True if that volume is filled by a download of ours, and not by the user."""
    cache = service.spec.model.cache
    return is_shared(service) and cache is not None and cache.access_mode != "ReadOnlyMany"


def build_cache_volume(service: Service, *, is_read_only: bool) -> Manifest:
    """The shared volume, or a folder that goes with the pod."""
    cache = service.spec.model.cache
    volume: Manifest = {"name": CACHE_VOLUME}
    if cache is not None and is_shared(service):
        claim: Manifest = {"claimName": cache.claim_name or names.model_cache(service.key.name)}
        return {**volume, "persistentVolumeClaim": {**claim, "readOnly": True} if is_read_only else claim}
    return {**volume, "emptyDir": {"sizeLimit": str(cache.size)} if cache is not None and cache.size else {}}


def build_cache_mount(*, is_read_only: bool) -> Manifest:
    """Where the cache is mounted in a container."""
    mount: Manifest = {"name": CACHE_VOLUME, "mountPath": names.CACHE_FOLDER}
    return {**mount, "readOnly": True} if is_read_only else mount


def build_claims(service: Service) -> list[Manifest]:
    """The shared volume's claim, if it is ours."""
    cache = service.spec.model.cache
    if cache is None or not is_shared(service) or cache.claim_name is not None:
        return []
    name = service.key.name
    return [
        build_child(
            service,
            kinds.VOLUME_CLAIM,
            names.model_cache(name),
            names.common_labels(name),
            spec=build_claim_spec(cache),
        )
    ]


def build_claim_spec(cache: ModelCache) -> Manifest:
    """A volume that many nodes mount."""
    requests = {"storage": str(cache.size)}
    spec: Manifest = {"accessModes": [cache.access_mode or "ReadWriteMany"], "resources": {"requests": requests}}
    return spec if cache.storage_class_name is None else {**spec, "storageClassName": cache.storage_class_name}


def build_cache_env(*, is_offline: bool) -> list[Manifest]:
    """Where the cache is; `is_offline`: what is not in it is not asked for."""
    env = [
        {"name": "PENSTOCK_CACHE", "value": names.CACHE_FOLDER},
        {"name": "HF_HOME", "value": f"{names.CACHE_FOLDER}/huggingface"},
    ]
    return [*env, {"name": "HF_HUB_OFFLINE", "value": "1"}] if is_offline else env


def build_token_env(service: Service) -> list[Manifest]:
    """What opens gated and private models of the hub."""
    secret = service.spec.model.credentials_secret
    if secret is None:
        return []
    return [{"name": TOKEN, "valueFrom": {"secretKeyRef": {"name": secret, "key": TOKEN}}}]


def fetch_words(service: Service, *flags: str) -> list[str]:
    """What follows `penstock` where the model is fetched, or waited for."""
    model = service.spec.model
    revision = [] if model.revision is None else [f"--revision={model.revision}"]
    return ["fetch", model.source, *revision, *flags]
