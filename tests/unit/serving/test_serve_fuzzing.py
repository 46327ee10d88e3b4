"""Schemathesis makes requests of what the server says about itself in /openapi.json, valid ones and others."""

import httpx2
import pytest
import schemathesis
import torch
from helpers import Linear
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    response_schema_conformance,
    status_code_conformance,
)
from servers import serving

from kdlightning.serving import ServedModel
from kdlightning.serving.openapi import document

KEY = {"Authorization": "Bearer secret-7"}
MODEL = ServedModel(Linear(torch.ones(3, 4)), "linear", "soft", shape=(1, 2, 2))
SCHEMA = schemathesis.openapi.from_dict(document(MODEL, key=True))
CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance, ignored_auth,
]  # fmt: skip


@pytest.fixture(scope="module")
def url():
    with serving(MODEL, api_key="secret-7", max_body=100_000) as address:
        yield address


def test_the_document_is_the_one_that_is_served_and_its_example_is_answered(url):
    told = httpx2.get(f"{url}/openapi.json", headers=KEY).json()
    assert told == document(MODEL, key=True)
    body = told["paths"]["/v2/models/{name}/infer"]["post"]["requestBody"]["content"]["application/json"]["example"]
    (output,) = httpx2.post(f"{url}/v2/models/linear/infer", headers=KEY, json=body).json()["outputs"]
    assert output["data"] == pytest.approx([1 / 3] * 3)


@SCHEMA.parametrize()
@settings(
    max_examples=20, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck),
)  # fmt: skip
def test_no_request_breaks_the_server(case, url):
    case.call_and_validate(base_url=url, headers=KEY, checks=CHECKS, timeout=20)
