"""Google Cloud Vision: labels of an open vocabulary, with scores of their own."""

from typing import Any, Literal

from kdlightning.remote.http import HTTPTeacher
from kdlightning.remote.providers.arguments import Labels, keyed
from kdlightning.remote.reading import Reader
from kdlightning.remote.writing import Writer
from kdlightning.teachers.blackbox import HardLabelTeacher

VISION = "https://vision.googleapis.com/v1"


class GoogleVisionTeacher(HTTPTeacher, HardLabelTeacher):
    """The best of the labels that are yours; an image without any is unreadable.

    https://cloud.google.com/vision/docs/labels::

        POST {url}/images:annotate
        {"requests": [{"image": {"content": ...}, "features": [{"type": "LABEL_DETECTION", "maxResults": 50}]}, ...]}
        -> {"responses": [{"labelAnnotations": [{"mid": ..., "description": "Cat", "score": 0.97}, ...]}, ...]}

    Args:
        labels: the class index of each label text; several may have one: ``{cat: 0, kitten: 0, dog: 1}``.
        max_results: labels that are asked for.
        max_batch: the most images in a request; Google takes 16, and 10 MB.
        image: ``png``, or ``jpeg``, which is shorter and lossy.
        url: of the server, up to its version.
        api_key_env: the variable with the key; None for GOOGLE_API_KEY at Google's own address.
        options: those of :class:`~kdlightning.remote.networked.NetworkedTeacher`.
    """

    def __init__(
        self,
        labels: Labels,
        *,
        max_results: int = 50,
        max_batch: int = 16,
        image: Literal["png", "jpeg"] = "png",
        url: str = VISION,
        api_key_env: str | None = None,
        **options: Any,  # noqa: ANN401 - NetworkedTeacher's
    ) -> None:
        url = url.rstrip("/")
        feature = {"type": "LABEL_DETECTION", "maxResults": max_results}
        super().__init__(
            f"{url}/images:annotate",
            {"requests": [{"image": {"content": "{image}"}, "features": [feature]}]},
            "text",
            writer=Writer(image=image),
            reader=Reader(results="responses", answer="labelAnnotations", label="description"),
            headers=keyed("x-goog-api-key", "", api_key_env, "GOOGLE_API_KEY", own=url == VISION),
            max_batch=max_batch,
            labels=labels,
            **options,
        )
