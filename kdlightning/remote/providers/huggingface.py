"""Image classifiers on Hugging Face: Inference Providers, and Inference Endpoints of one's own."""

from typing import Any, Literal

from kdlightning.remote.http import HTTPTeacher
from kdlightning.remote.providers.arguments import Labels, keyed, scored
from kdlightning.remote.reading import Reader
from kdlightning.remote.writing import Writer
from kdlightning.teachers.blackbox import HardLabelTeacher, SoftLabelTeacher

HUGGING_FACE = "https://router.huggingface.co/hf-inference/models"


class HuggingFace(HTTPTeacher):
    """The task image-classification.

    https://huggingface.co/docs/inference-providers/tasks/image-classification::

        POST {url}/{model}
        {"inputs": "<base64>", "parameters": {"function_to_apply": "softmax", "top_k": 3}}
        -> [{"label": "cat", "score": 0.9}, {"label": "dog", "score": 0.08}, {"label": "bird", "score": 0.02}]

    Args:
        labels: the model's labels in the order of the classes, or the class index of each; all of them are asked for.
        model: its name on the Hub; None where ``url`` is an endpoint of the model alone.
        multilabel: the model was trained with sigmoids, a score of its own for each class.
        image: ``png``, or ``jpeg``, which is shorter and lossy.
        url: of the server, up to the model.
        api_key_env: the variable with the token; None for HF_TOKEN at Hugging Face's own address.
        options: those of :class:`~kdlightning.remote.networked.NetworkedTeacher`.
    """

    def __init__(
        self,
        labels: Labels,
        model: str | None = None,
        *,
        multilabel: bool = False,
        image: Literal["png", "jpeg"] = "png",
        url: str = HUGGING_FACE,
        api_key_env: str | None = None,
        **options: Any,  # noqa: ANN401 - NetworkedTeacher's
    ) -> None:
        url = url.rstrip("/")
        if model is None and url == HUGGING_FACE:
            raise ValueError("expected the model's name, or the url of an endpoint of one's own, got neither")
        parameters = {"function_to_apply": "sigmoid" if multilabel else "softmax", "top_k": len(labels)}
        super().__init__(
            url if model is None else f"{url}/{model}",
            {"inputs": "{image}", "parameters": parameters},
            scored(self.access, multilabel=multilabel),
            writer=Writer(image=image),
            reader=Reader(label="label", score="score"),
            headers=keyed("Authorization", "Bearer ", api_key_env, "HF_TOKEN", own=url == HUGGING_FACE),
            max_batch=1,
            labels=labels,
            **options,
        )


class HuggingFaceSoftLabelTeacher(HuggingFace, SoftLabelTeacher):
    """Class probabilities of a classifier on Hugging Face.

    Its arguments are those of :class:`~kdlightning.remote.providers.huggingface.HuggingFace`.
    """


class HuggingFaceHardLabelTeacher(HuggingFace, HardLabelTeacher):
    """The best label of a classifier on Hugging Face.

    Its arguments are those of :class:`~kdlightning.remote.providers.huggingface.HuggingFace`.
    """
