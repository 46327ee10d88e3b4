"""TensorFlow Serving, by its RESTful API."""

from typing import Any, Literal

from kdlightning.remote.http import HTTPTeacher
from kdlightning.remote.providers.arguments import Labels
from kdlightning.remote.reading import Outputs, Reader
from kdlightning.remote.writing import Writer
from kdlightning.teachers.blackbox import HardLabelTeacher, SoftLabelTeacher


class TFServing(HTTPTeacher):
    """Predict, or classify.

    https://www.tensorflow.org/tfx/serving/api_rest::

        POST {url}/models/{model}:predict
        {"signature_name": ..., "instances": [{"b64": ...}, ...]}
        -> {"predictions": [[0.9, 0.08, 0.02], ...]}

        POST {url}/models/{model}:classify
        {"signature_name": ..., "examples": [{"image": {"b64": ...}}, ...]}
        -> {"results": [[["cat", 0.9], ["dog", 0.08], ["bird", 0.02]], ...]}

    Args:
        model: its name.
        labels: of ``classify``, and where ``predict`` answers scores by label; None where it answers lists.
        method: which of the two.
        outputs: soft labels: ``probabilities`` or ``logits``; hard labels: ``index`` or ``text``. None for
            ``probabilities``, or ``text`` with labels and ``index`` without.
        input: the name of the model's input, where it is not the only one; of ``classify``, the feature.
        answer: the name of the model's output, where it is not the only one.
        signature: None for the server's default.
        writer: how an image is written; ``image: list`` sends numbers in the place of a file.
        url: of the server, up to its version.
        options: those of :class:`~kdlightning.remote.http.HTTPTeacher` beyond what is said here.
    """

    def __init__(
        self,
        model: str,
        labels: Labels | None = None,
        *,
        method: Literal["predict", "classify"] = "predict",
        outputs: Outputs | None = None,
        input: str | None = None,  # noqa: A002 - TensorFlow's name
        answer: str = "",
        signature: str | None = None,
        writer: Writer | None = None,
        url: str = "http://127.0.0.1:8501/v1",
        **options: Any,  # noqa: ANN401 - NetworkedTeacher's
    ) -> None:
        image: Any = "{image}" if writer is not None and writer.image == "list" else {"b64": "{image}"}
        name = input or ("image" if method == "classify" else None)
        sent, came = ("instances", "predictions") if method == "predict" else ("examples", "results")
        request = {} if signature is None else {"signature_name": signature}
        hard: Outputs = "index" if labels is None else "text"
        super().__init__(
            f"{url.rstrip('/')}/models/{model}:{method}",
            {**request, sent: [image if name is None else {name: image}]},
            outputs or ("probabilities" if self.access == "soft" else hard),
            writer=writer,
            reader=Reader(results=came, answer=answer),
            labels=labels,
            **options,
        )


class TFServingSoftLabelTeacher(TFServing, SoftLabelTeacher):
    """Class probabilities of a model in TensorFlow Serving.

    Its arguments are those of :class:`~kdlightning.remote.providers.tfserving.TFServing`.
    """


class TFServingHardLabelTeacher(TFServing, HardLabelTeacher):
    """The label of a model in TensorFlow Serving.

    Its arguments are those of :class:`~kdlightning.remote.providers.tfserving.TFServing`.
    """
