"""Google Vertex AI: an image classifier that is deployed to an endpoint."""

from typing import Any, Literal

from kdlightning.remote.http import HTTPTeacher
from kdlightning.remote.providers.arguments import Labels, scored
from kdlightning.remote.reading import Reader
from kdlightning.remote.signing import GoogleToken
from kdlightning.remote.writing import Writer
from kdlightning.teachers.blackbox import HardLabelTeacher, SoftLabelTeacher


class Vertex(HTTPTeacher):
    """AutoML image classification.

    https://cloud.google.com/vertex-ai/docs/image-data/classification/get-predictions::

        POST {url}/projects/{project}/locations/{location}/endpoints/{endpoint}:predict
        {"instances": [{"content": ...}], "parameters": {"confidenceThreshold": 0.0, "maxPredictions": 3}}
        -> {"predictions": [{"ids": [...], "displayNames": ["cat", ...], "confidences": [0.9, ...]}]}

    The access token is Google's own affair (application default credentials) and is renewed before it expires; this
    needs ``pip install google-auth requests``.

    Args:
        project: its id.
        location: such as ``us-central1``.
        endpoint: its id.
        labels: the display names in the order of the classes, or the class index of each; all of them are asked for.
        multilabel: the model is one of several labels an image: a score of its own for each.
        image: ``png``, or ``jpeg``, which is shorter and lossy; at most 1.5 MB a request.
        url: of the server, up to its version; None for that of the location.
        token_env: the variable with an access token, where google-auth is not to find one. It ends after an hour.
        options: those of :class:`~kdlightning.remote.http.HTTPTeacher` beyond what is said here.
    """

    def __init__(
        self,
        project: str,
        location: str,
        endpoint: str,
        labels: Labels,
        *,
        multilabel: bool = False,
        image: Literal["png", "jpeg"] = "png",
        url: str | None = None,
        token_env: str | None = None,
        **options: Any,  # noqa: ANN401 - NetworkedTeacher's
    ) -> None:
        base = (url or f"https://{location}-aiplatform.googleapis.com/v1").rstrip("/")
        parameters = {"confidenceThreshold": 0.0, "maxPredictions": len(labels)}
        super().__init__(
            f"{base}/projects/{project}/locations/{location}/endpoints/{endpoint}:predict",
            {"instances": [{"content": "{image}"}], "parameters": parameters},
            scored(self.access, multilabel=multilabel),
            writer=Writer(image=image),
            reader=Reader(results="predictions", label="displayNames", score="confidences"),
            headers={} if token_env is None else {"Authorization": f"Bearer env:{token_env}"},
            sign=GoogleToken() if token_env is None else None,
            labels=labels,
            **options,
        )


class VertexSoftLabelTeacher(Vertex, SoftLabelTeacher):
    """Class probabilities of a classifier on Vertex AI.

    Its arguments are those of :class:`~kdlightning.remote.providers.vertex.Vertex`.
    """


class VertexHardLabelTeacher(Vertex, HardLabelTeacher):
    """The best label of a classifier on Vertex AI.

    Its arguments are those of :class:`~kdlightning.remote.providers.vertex.Vertex`.
    """
