"""What proves who asks where a key in a header does not: made anew for every attempt, so that nothing of it expires."""

import threading
from abc import ABC, abstractmethod
from typing import Any

from kdlightning.remote.connection import AttemptError, Request
from kdlightning.remote.credentials import remember

_AWS = "no AWS credentials are found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile of ~/.aws"
_GOOGLE = "no Google credentials are found: `gcloud auth application-default login`, or a service account's file named "
_GOOGLE += "by GOOGLE_APPLICATION_CREDENTIALS"


class Signer(ABC):
    """Headers that prove who asks."""

    @abstractmethod
    def open(self) -> None:
        """Find the credentials, before anything is asked.

        Raises:
            ImportError: a package is not installed.
            ValueError: there are no credentials, with where they are looked for.
        """

    @abstractmethod
    def headers(self, request: Request) -> dict[str, str]:
        """Those of one attempt.

        Raises:
            AttemptError: credentials could not be had or renewed; it is not paid.
        """


class AWSSignature(Signer):
    """Signature Version 4 of Amazon Web Services, by botocore: credentials are found as AWS's own tools find them.

    Args:
        service: the name that is signed, such as ``rekognition`` or ``sagemaker``.
        region: such as ``eu-west-1``.
        profile: of the files in ``~/.aws``; None for the usual one.
    """

    def __init__(self, service: str, region: str, profile: str | None = None) -> None:
        self._scope, self._profile = (service, region), profile
        self._credentials: Any = None

    def open(self) -> None:
        """Find the credentials; see the base class."""
        try:
            from botocore.session import Session
        except ImportError as error:
            raise ImportError("signed requests to AWS need botocore: pip install botocore") from error
        self._credentials = Session(profile=self._profile).get_credentials()
        if self._credentials is None:
            raise ValueError(_AWS)

    def headers(self, request: Request) -> dict[str, str]:
        """Date, signature and, with temporary credentials, their token."""
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.exceptions import BotoCoreError

        try:
            frozen = self._credentials.get_frozen_credentials()  # renewed where they are about to expire
        except BotoCoreError as error:
            raise AttemptError(f"AWS credentials cannot be had ({error})", paid=False) from None
        for secret in (frozen.secret_key, frozen.token):
            remember(secret or "")
        signed = AWSRequest(request.method, request.url, dict(request.headers), request.body)
        SigV4Auth(frozen, *self._scope).add_auth(signed)
        return {name: value for name, value in signed.headers.items() if name not in request.headers}


class GoogleToken(Signer):
    """Access tokens of Google Cloud, by google-auth: application default credentials, renewed before they expire.

    Args:
        scopes: what the token is for.
    """

    def __init__(self, scopes: list[str] | None = None) -> None:
        self._scopes = scopes or ["https://www.googleapis.com/auth/cloud-platform"]
        self._credentials: Any = None
        self._lock = threading.Lock()

    def open(self) -> None:
        """Find the credentials; see the base class."""
        try:
            from google.auth import default
            from google.auth.exceptions import DefaultCredentialsError
            from google.auth.transport.requests import Request as Transport
        except ImportError as error:
            raise ImportError("tokens of Google Cloud need two packages: pip install google-auth requests") from error
        try:
            self._credentials, _ = default(scopes=self._scopes)
        except DefaultCredentialsError:
            raise ValueError(_GOOGLE) from None
        self._transport = Transport()

    def headers(self, request: Request) -> dict[str, str]:
        """The token, a new one where the last has expired."""
        from google.auth.exceptions import GoogleAuthError

        with self._lock:
            if not self._credentials.valid:
                try:
                    self._credentials.refresh(self._transport)
                except GoogleAuthError as error:
                    raise AttemptError(f"no access token of Google's could be had ({error})", paid=False) from None
            token: str = self._credentials.token
        remember(token)
        return {"Authorization": f"Bearer {token}"}
