"""Clarifai: a visual classifier of an app."""

from typing import Any, Literal

from kdlightning.remote.http import HTTPTeacher
from kdlightning.remote.providers.arguments import Labels, keyed, scored
from kdlightning.remote.reading import Reader
from kdlightning.remote.writing import Writer
from kdlightning.teachers.blackbox import HardLabelTeacher, SoftLabelTeacher

CLARIFAI = "https://api.clarifai.com/v2"


class Clarifai(HTTPTeacher):
    """Model outputs.

    https://docs.clarifai.com/resources/api-overview/api-outputs::

        POST {url}/users/{user}/apps/{app}/models/{model}/outputs
        {"inputs": [{"data": {"image": {"base64": ...}}}, ...],
         "model": {"output_info": {"output_config": {"max_concepts": 3}}}}
        -> {"status": {"code": 10000}, "outputs": [{"data": {"concepts": [{"name": "cat", "value": 0.9}, ...]}}, ...]}

    Args:
        user: whose app it is.
        app: its id.
        model: its id.
        labels: the concepts in the order of the classes, or the class index of each; all of them are asked for.
        model_version: its id; None for the latest.
        multilabel: a score of its own for each concept, as of Clarifai's general models.
        image: ``png``, or ``jpeg``, which is shorter and lossy.
        url: of the server, up to its version.
        api_key_env: the variable with the token; None for CLARIFAI_PAT at Clarifai's own address.
        options: those of :class:`~kdlightning.remote.http.HTTPTeacher` beyond what is said here.
    """

    def __init__(
        self,
        user: str,
        app: str,
        model: str,
        labels: Labels,
        *,
        model_version: str | None = None,
        multilabel: bool = False,
        image: Literal["png", "jpeg"] = "png",
        url: str = CLARIFAI,
        api_key_env: str | None = None,
        **options: Any,  # noqa: ANN401 - NetworkedTeacher's
    ) -> None:
        url, version = url.rstrip("/"), "" if model_version is None else f"/versions/{model_version}"
        super().__init__(
            f"{url}/users/{user}/apps/{app}/models/{model}{version}/outputs",
            {
                "inputs": [{"data": {"image": {"base64": "{image}"}}}],
                "model": {"output_info": {"output_config": {"max_concepts": len(labels)}}},
            },
            scored(self.access, multilabel=multilabel),
            writer=Writer(image=image),
            reader=Reader(results="outputs", answer="data.concepts", label="name", score="value"),
            headers=keyed("Authorization", "Key ", api_key_env, "CLARIFAI_PAT", own=url == CLARIFAI),
            labels=labels,
            **options,
        )


class ClarifaiSoftLabelTeacher(Clarifai, SoftLabelTeacher):
    """Class probabilities of a classifier at Clarifai.

    Its arguments are those of :class:`~kdlightning.remote.providers.clarifai.Clarifai`.
    """


class ClarifaiHardLabelTeacher(Clarifai, HardLabelTeacher):
    """The best concept of a classifier at Clarifai.

    Its arguments are those of :class:`~kdlightning.remote.providers.clarifai.Clarifai`.
    """
