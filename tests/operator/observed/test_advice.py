"""What a user is told to do about a trouble."""

from __future__ import annotations

import pytest

from penstock_operator.observed.advice import advised
from penstock_operator.observed.seen import Trouble
from support.operator_services import SMALL, build_service

OF_HUB = {"source": "hf://org/name"}
CLAIM = {"type": "Shared", "claimName": "weights"}


def told(reason: str, message: str = "pod chat-0: so it is", **model) -> str:
    trouble = advised(build_service(SMALL | {"model": OF_HUB | model}), Trouble(reason=reason, message=message))
    assert trouble.message.startswith(message)
    return trouble.message.removeprefix(message)


def test_a_hub_that_refuses_needs_a_secret_or_another_token():
    assert "name a Secret with the key HF_TOKEN in spec.model.credentialsSecret" in told("ModelAccessDenied")
    assert "key HF_TOKEN of Secret mine" in told("ModelAccessDenied", credentialsSecret="mine")


def test_a_model_that_is_not_there_has_a_wrong_name_or_revision():
    assert told("ModelNotFound") == "; correct spec.model.source or spec.model.revision"


def test_a_full_cache_is_enlarged_where_it_is():
    assert told("ModelCacheFull") == "; raise spec.model.cache.size"
    assert "PersistentVolumeClaim weights" in told("ModelCacheFull", cache=CLAIM)


def test_a_secret_that_is_missing_is_made_and_any_other_is_none_of_ours():
    message = 'pod chat-0 cannot start: secret "mine" not found'
    assert "kubectl -n demo create secret generic mine" in told("ConfigMissing", message, credentialsSecret="mine")
    assert told("ConfigMissing", message, credentialsSecret="other") == ""
    assert told("ConfigMissing", message) == ""


@pytest.mark.parametrize("reason", ["Unschedulable", "CrashLoop"])
def test_what_nobody_can_advise_stays_as_it_is(reason):
    assert told(reason) == ""
