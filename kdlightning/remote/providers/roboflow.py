"""Roboflow's hosted classifiers."""

from typing import Any, Literal

from kdlightning.remote.http import HTTPTeacher
from kdlightning.remote.providers.arguments import Labels, keyed, scored
from kdlightning.remote.reading import Reader
from kdlightning.remote.writing import Writer
from kdlightning.teachers.blackbox import HardLabelTeacher, SoftLabelTeacher

ROBOFLOW = "https://classify.roboflow.com"


class Roboflow(HTTPTeacher):
    """One image, as base64 and nothing else.

    https://docs.roboflow.com/inference-classification/hosted-api::

        POST {url}/{model}/{version}
        Content-Type: application/x-www-form-urlencoded
        -> {"predictions": [{"class": "cat", "confidence": 0.7149}, ...], "top": "cat", "confidence": 0.7149}

    A model of several labels an image answers ``{"predictions": {"cat": {"confidence": 0.7}, ...}}``.

    Args:
        model: the project's name in the address.
        version: of the project's model.
        labels: the classes in order, or the class index of each.
        multilabel: the model is one of several labels an image: a score of its own for each.
        image: ``png``, or ``jpeg``, which is shorter and lossy.
        url: of the server.
        api_key_env: the variable with the key; None for ROBOFLOW_API_KEY at Roboflow's own address.
        options: those of :class:`~kdlightning.remote.networked.NetworkedTeacher`.
    """

    def __init__(
        self,
        model: str,
        version: str,
        labels: Labels,
        *,
        multilabel: bool = False,
        image: Literal["png", "jpeg"] = "png",
        url: str = ROBOFLOW,
        api_key_env: str | None = None,
        **options: Any,  # noqa: ANN401 - NetworkedTeacher's
    ) -> None:
        url = url.rstrip("/")
        super().__init__(
            f"{url}/{model}/{version}",
            "{image}",
            scored(self.access, multilabel=multilabel),
            writer=Writer(image=image, body="base64"),
            reader=Reader(answer="predictions", label="class", score="confidence"),
            headers=keyed("Authorization", "Bearer ", api_key_env, "ROBOFLOW_API_KEY", own=url == ROBOFLOW),
            max_batch=1,
            version=version,
            labels=labels,
            **options,
        )


class RoboflowSoftLabelTeacher(Roboflow, SoftLabelTeacher):
    """Class probabilities of a classifier at Roboflow.

    Its arguments are those of :class:`~kdlightning.remote.providers.roboflow.Roboflow`.
    """


class RoboflowHardLabelTeacher(Roboflow, HardLabelTeacher):
    """The best class of a classifier at Roboflow.

    Its arguments are those of :class:`~kdlightning.remote.providers.roboflow.Roboflow`.
    """
