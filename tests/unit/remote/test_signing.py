"""Requests that are signed anew for every attempt, and tokens that are renewed before they expire."""

import datetime
import hashlib
import hmac
import json
import re
import sys

import pytest
import torch
from servers import answering

from kdlightning.remote import AWSSignature, GoogleToken, HTTPHardLabelTeacher, Patience, RemoteTeacherError
from kdlightning.remote.credentials import blacken
from kdlightning.remote.providers import (
    RekognitionHardLabelTeacher,
    RekognitionSoftLabelTeacher,
    VertexSoftLabelTeacher,
)

pytest.importorskip("botocore", reason="the extra `aws` is not installed")
pytest.importorskip("google.auth", reason="the extra `google` is not installed")
rsa = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.rsa")
serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")

LABELS = ["cat", "dog", "bird"]
IMAGE = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
MODEL = "arn:aws:rekognition:eu-west-1:123:project/animals/version/animals.2026/1"
SOON = Patience(attempts=3, backoff=0.01, jitter=0.0)
REPLY = {"CustomLabels": [{"Name": "cat", "Confidence": 90.0}, {"Name": "dog", "Confidence": 30.0},
                          {"Name": "bird", "Confidence": 0.0}]}  # fmt: skip


@pytest.fixture(autouse=True)
def nobody(monkeypatch, tmp_path):
    """No credentials but those of the test."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "aws+s3cret")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("HOME", str(tmp_path))


def signature(headers, body, secret, region, service):
    """Signature Version 4 as https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
    tells, of what came.
    """
    told = re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=([^,]+), SignedHeaders=([^,]+), Signature=(\w+)", headers["Authorization"]
    )
    credential, names = told[1].split("/"), told[2].split(";")
    lines = [f"{name}:{' '.join(headers[name].split())}" for name in names]
    canonical = "\n".join(["POST", "/", "", *lines, "", told[2], hashlib.sha256(body).hexdigest()])
    scope = "/".join(credential[1:])
    text = "\n".join(["AWS4-HMAC-SHA256", headers["X-Amz-Date"], scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{secret}".encode()
    for part in (headers["X-Amz-Date"][:8], region, service, "aws4_request", text):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    assert credential == ["AKIDEXAMPLE", headers["X-Amz-Date"][:8], region, service, "aws4_request"]
    assert {"host", "x-amz-date"} <= set(names)
    return told[3], key.hex()


def test_rekognition_is_asked_as_documented_and_signed_anew_for_every_attempt(monkeypatch):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "temporary")
    seen = []

    def answer(handler, body):
        seen.append((handler.headers, body))
        handler.reply(*((503, {"message": "busy"}) if len(seen) == 1 else (200, REPLY)))

    with answering(answer) as url:
        found = RekognitionSoftLabelTeacher(MODEL, LABELS, url=url, ledger=None, patience=SOON).query(IMAGE)
    torch.testing.assert_close(found, torch.tensor([[0.75, 0.25, 0.0]]))
    assert len(seen) == 2
    for headers, body in seen:
        own, expected = signature(headers, body, "aws+s3cret", "eu-west-1", "rekognition")
        assert own == expected
        assert headers["X-Amz-Target"] == "RekognitionService.DetectCustomLabels"
        assert headers["Content-Type"] == "application/x-amz-json-1.1"
        assert headers["X-Amz-Security-Token"] == "temporary"
        sent = json.loads(body)
        assert sent.pop("Image")["Bytes"].startswith("iVBORw0KGgo")
        assert sent == {"ProjectVersionArn": MODEL, "MinConfidence": 0}
    assert blacken("aws+s3cret temporary") == "*** ***"


def test_rekognitions_best_label_and_address():
    with answering(lambda handler, body: handler.reply(200, REPLY)) as url:
        assert RekognitionHardLabelTeacher(MODEL, LABELS, url=url, ledger=None).query(IMAGE).tolist() == [0]
    teacher = RekognitionHardLabelTeacher("animals", LABELS, region="us-east-2", ledger=None)
    assert teacher._address == "https://rekognition.us-east-2.amazonaws.com/"


def test_any_api_of_awss_can_be_signed():
    seen = []

    def answer(handler, body):
        seen.append((handler.headers, body))
        handler.reply(200, {"label": 1})

    sign = AWSSignature("sagemaker", "us-east-1")
    with answering(answer) as url:
        teacher = HTTPHardLabelTeacher(url, {"x": "{image}"}, "index", sign=sign, ledger=None, num_classes=3)
        with pytest.raises(RemoteTeacherError, match="expected"):
            teacher.query(IMAGE)  # no path of the answer is named
    own, expected = signature(*seen[0], "aws+s3cret", "us-east-1", "sagemaker")
    assert own == expected


def test_without_credentials_nothing_is_asked(monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(ValueError, match="no AWS credentials are found: set AWS_ACCESS_KEY_ID"):
        RekognitionHardLabelTeacher(MODEL, LABELS, ledger=None)
    with pytest.raises(ValueError, match="no Google credentials are found: `gcloud auth"):
        VertexSoftLabelTeacher("p", "l", "7", LABELS, ledger=None)


@pytest.mark.parametrize(
    ("module", "sign", "text"),
    [
        ("botocore.session", AWSSignature("rekognition", "eu-west-1"), "pip install botocore"),
        ("google.auth", GoogleToken(), "pip install google-auth requests"),
    ],
    ids=["aws", "google"],
)
def test_a_package_that_is_not_there_is_named(module, sign, text, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=text):
        sign.open()


def test_nothing_that_is_signed_travels_unencrypted():
    with pytest.raises(ValueError, match="a key would travel unencrypted"):
        RekognitionHardLabelTeacher(MODEL, LABELS, url="http://example.org/", ledger=None)


def account(tmp_path, url):
    """A service account's file, as Google Cloud hands it out."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    told = {
        "type": "service_account", "project_id": "p", "private_key_id": "k", "client_id": "1",
        "private_key": key.private_bytes(*form).decode(), "client_email": "a@p.iam.gserviceaccount.com",
        "token_uri": f"{url}/token",
    }  # fmt: skip
    (tmp_path / "account.json").write_text(json.dumps(told))
    return str(tmp_path / "account.json")


def test_vertexs_token_is_renewed_when_it_has_expired(tmp_path, monkeypatch):
    seen = []

    def answer(handler, body):
        if handler.path == "/token":
            seen.append("token")
            handler.reply(200, {"access_token": f"ya29.{len(seen)}", "expires_in": 3600, "token_type": "Bearer"})
        else:
            seen.append(handler.headers["Authorization"])
            found = {"displayNames": LABELS, "confidences": [0.5, 0.25, 0.25], "ids": ["1", "2", "3"]}
            handler.reply(200, {"predictions": [found]})

    with answering(answer) as url:
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", account(tmp_path, url))
        sign = GoogleToken()
        monkeypatch.setattr("kdlightning.remote.providers.vertex.GoogleToken", lambda: sign)
        teacher = VertexSoftLabelTeacher("p", "l", "7", LABELS, url=url, ledger=None)
        for _ in range(2):
            torch.testing.assert_close(teacher.query(IMAGE), torch.tensor([[0.5, 0.25, 0.25]]))
        sign._credentials.expiry = datetime.datetime(2020, 1, 1)
        teacher.query(IMAGE)
    assert seen == ["token", "Bearer ya29.1", "Bearer ya29.1", "token", "Bearer ya29.4"]
    assert blacken("ya29.1 ya29.4") == "*** ***"


def test_a_token_that_cannot_be_had_is_not_paid(tmp_path, monkeypatch):
    with answering(lambda handler, body: handler.reply(400, {"error": "invalid_grant"})) as url:
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", account(tmp_path, url))
        teacher = VertexSoftLabelTeacher("p", "l", "7", LABELS, url=url, ledger=None, patience=Patience(attempts=1))
        with pytest.raises(RemoteTeacherError, match="no access token of Google's could be had"):
            teacher.query(IMAGE)
    assert teacher.paid.queries == 0
