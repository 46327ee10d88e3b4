"""Azure Custom Vision: a classifier that was trained and published there."""

from typing import Any, Literal

from kdlightning.remote.http import HTTPTeacher
from kdlightning.remote.providers.arguments import Labels, scored
from kdlightning.remote.reading import Reader
from kdlightning.remote.writing import Writer
from kdlightning.teachers.blackbox import HardLabelTeacher, SoftLabelTeacher


class AzureCustomVision(HTTPTeacher):
    """One image, as it is.

    https://learn.microsoft.com/en-us/rest/api/customvision/image-classifier::

        POST {endpoint}/customvision/v3.1/prediction/{project}/classify/iterations/{iteration}/image/nostore
        Content-Type: application/octet-stream
        -> {"predictions": [{"tagId": ..., "tagName": "cat", "probability": 0.9}, ...]}

    Args:
        endpoint: of the prediction resource, such as ``https://example.cognitiveservices.azure.com``.
        project: its id.
        iteration: the name under which the iteration was published.
        labels: the tags in the order of the classes, or the class index of each.
        multilabel: the project is one of several tags an image: a score of its own for each.
        store: keep the images with the project, for training on.
        image: ``png``, or ``jpeg``, which is shorter and lossy; at most 4 MB.
        api_key_env: the variable with the prediction key.
        options: those of :class:`~kdlightning.remote.networked.NetworkedTeacher`.
    """

    def __init__(
        self,
        endpoint: str,
        project: str,
        iteration: str,
        labels: Labels,
        *,
        multilabel: bool = False,
        store: bool = False,
        image: Literal["png", "jpeg"] = "png",
        api_key_env: str = "VISION_PREDICTION_KEY",
        **options: Any,  # noqa: ANN401 - NetworkedTeacher's
    ) -> None:
        path = f"customvision/v3.1/prediction/{project}/classify/iterations/{iteration}/image"
        super().__init__(
            f"{endpoint.rstrip('/')}/{path}{'' if store else '/nostore'}",
            "{image}",
            scored(self.access, multilabel=multilabel),
            writer=Writer(image=image, body="raw"),
            reader=Reader(answer="predictions", label="tagName", score="probability"),
            headers={"Prediction-Key": f"env:{api_key_env}"},
            max_batch=1,
            labels=labels,
            **options,
        )


class AzureSoftLabelTeacher(AzureCustomVision, SoftLabelTeacher):
    """Class probabilities of Azure Custom Vision.

    Its arguments are those of :class:`~kdlightning.remote.providers.azure.AzureCustomVision`.
    """


class AzureHardLabelTeacher(AzureCustomVision, HardLabelTeacher):
    """The best tag of Azure Custom Vision.

    Its arguments are those of :class:`~kdlightning.remote.providers.azure.AzureCustomVision`.
    """
