"""Claude, by Anthropic's messages API."""

from typing import Any, Literal

from kdlightning.remote.http import HTTPTeacher
from kdlightning.remote.providers.arguments import Labels, keyed, question
from kdlightning.remote.reading import Reader
from kdlightning.remote.writing import Writer
from kdlightning.teachers.blackbox import HardLabelTeacher

ANTHROPIC = "https://api.anthropic.com"


class AnthropicTeacher(HTTPTeacher, HardLabelTeacher):
    """The label that Claude writes about an image.

    https://docs.anthropic.com/en/api/messages::

        POST {url}/v1/messages
        {"model": ..., "max_tokens": 16, "messages": [{"role": "user", "content": [
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ...}},
            {"type": "text", "text": ...}]}]}
        -> {"content": [{"type": "text", "text": "cat"}], "stop_reason": "end_turn",
            "usage": {"input_tokens": 290, "output_tokens": 4}}

    Args:
        model: such as ``claude-haiku-4-5``.
        labels: the label texts in the order of the classes, or the class index of each; one of each class is offered.
        prompt: the question; None for one that offers the labels.
        max_tokens: the longest answer.
        image: ``png``, or ``jpeg``, which is shorter and lossy.
        more: further fields of the request, such as ``{temperature: 0}``.
        url: of the server.
        api_key_env: the variable with the key; None for ANTHROPIC_API_KEY at Anthropic's own address.
        options: those of :class:`~kdlightning.remote.networked.NetworkedTeacher`.
    """

    def __init__(
        self,
        model: str,
        labels: Labels,
        *,
        prompt: str | None = None,
        max_tokens: int = 16,
        image: Literal["png", "jpeg"] = "png",
        more: dict[str, Any] | None = None,
        url: str = ANTHROPIC,
        api_key_env: str | None = None,
        **options: Any,  # noqa: ANN401 - NetworkedTeacher's
    ) -> None:
        url = url.rstrip("/")
        shown = {"type": "image", "source": {"type": "base64", "media_type": f"image/{image}", "data": "{image}"}}
        content = [shown, {"type": "text", "text": question(labels, prompt)}]
        request = {"model": model, "max_tokens": max_tokens, "messages": [{"role": "user", "content": content}]}
        super().__init__(
            f"{url}/v1/messages",
            request | (more or {}),
            "text",
            writer=Writer(image=image),
            reader=Reader(answer="content.-1.text", refused={"stop_reason": ["refusal"]}, match="contains"),
            headers={"anthropic-version": "2023-06-01"}
            | keyed("x-api-key", "", api_key_env, "ANTHROPIC_API_KEY", own=url == ANTHROPIC),
            max_batch=1,
            labels=labels,
            **options,
        )
