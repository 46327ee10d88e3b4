"""Amazon Rekognition Custom Labels: a model version that is running."""

from typing import Any, Literal

from kdlightning.remote.http import HTTPTeacher
from kdlightning.remote.providers.arguments import Labels, scored
from kdlightning.remote.reading import Reader
from kdlightning.remote.signing import AWSSignature
from kdlightning.remote.writing import Writer
from kdlightning.teachers.blackbox import HardLabelTeacher, SoftLabelTeacher


class Rekognition(HTTPTeacher):
    """DetectCustomLabels.

    https://docs.aws.amazon.com/rekognition/latest/APIReference/API_DetectCustomLabels.html::

        POST https://rekognition.{region}.amazonaws.com/
        X-Amz-Target: RekognitionService.DetectCustomLabels
        {"ProjectVersionArn": ..., "MinConfidence": 0, "Image": {"Bytes": "<base64>"}}
        -> {"CustomLabels": [{"Name": "cat", "Confidence": 90.1}, ...]}

    Each label has a confidence of its own, 0 to 100; soft labels are their shares of the sum. Requests are signed by
    botocore, with credentials where AWS's tools find them; this needs ``pip install botocore``.

    Args:
        model: the ARN of the model version.
        labels: the custom labels in the order of the classes, or the class index of each; all of them are asked for.
        region: None for the one in the ARN.
        profile: of the files in ``~/.aws``; None for the usual credentials.
        image: ``png``, or ``jpeg``, which is shorter and lossy; at most 4 MB.
        url: of the server; None for that of the region.
        options: those of :class:`~kdlightning.remote.networked.NetworkedTeacher`.

    Raises:
        ValueError: no region in the ARN, and none beside it; else as for its base class.
    """

    def __init__(
        self,
        model: str,
        labels: Labels,
        *,
        region: str | None = None,
        profile: str | None = None,
        image: Literal["png", "jpeg"] = "png",
        url: str | None = None,
        **options: Any,  # noqa: ANN401 - NetworkedTeacher's
    ) -> None:
        region = region or ([*model.split(":"), "", "", "", ""][3] if model.startswith("arn:") else "")
        if not region:
            wanted = "expected an ARN, arn:aws:rekognition:REGION:..., or a region beside it"
            raise ValueError(f"model: {wanted}, got {model}")
        super().__init__(
            url or f"https://rekognition.{region}.amazonaws.com/",
            {"ProjectVersionArn": model, "MinConfidence": 0, "Image": {"Bytes": "{image}"}},
            scored(self.access, multilabel=True),
            writer=Writer(image=image),
            reader=Reader(answer="CustomLabels", label="Name", score="Confidence", percent=True),
            headers={
                "X-Amz-Target": "RekognitionService.DetectCustomLabels",
                "Content-Type": "application/x-amz-json-1.1",
            },
            sign=AWSSignature("rekognition", region, profile),
            max_batch=1,
            labels=labels,
            **options,
        )


class RekognitionSoftLabelTeacher(Rekognition, SoftLabelTeacher):
    """The shares of the confidences of Rekognition Custom Labels.

    Its arguments are those of :class:`~kdlightning.remote.providers.rekognition.Rekognition`.
    """


class RekognitionHardLabelTeacher(Rekognition, HardLabelTeacher):
    """The best label of Rekognition Custom Labels.

    Its arguments are those of :class:`~kdlightning.remote.providers.rekognition.Rekognition`.
    """
