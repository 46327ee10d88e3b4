"""Gemini, by Google's generateContent; the answer is held to the labels by an enumeration."""

from typing import Any, Literal

from kdlightning.remote.http import HTTPTeacher
from kdlightning.remote.providers.arguments import Labels, choices, keyed, question
from kdlightning.remote.reading import Reader
from kdlightning.remote.writing import Writer
from kdlightning.teachers.blackbox import HardLabelTeacher

GEMINI = "https://generativelanguage.googleapis.com/v1beta"
_BLOCKED = ["SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY"]


class GeminiTeacher(HTTPTeacher, HardLabelTeacher):
    """The label that Gemini chooses for an image.

    https://ai.google.dev/api/generate-content::

        POST {url}/models/{model}:generateContent
        {"contents": [{"parts": [{"text": ...}, {"inline_data": {"mime_type": "image/png", "data": ...}}]}],
         "generationConfig": {"responseMimeType": "text/x.enum", "responseSchema": {"type": "STRING", "enum": [...]}}}
        -> {"candidates": [{"content": {"parts": [{"text": "cat"}]}, "finishReason": "STOP"}],
            "usageMetadata": {"promptTokenCount": 264, "candidatesTokenCount": 1}}

    A blocked prompt is answered by ``{"promptFeedback": {"blockReason": "SAFETY"}}`` and no candidate: refused.

    Args:
        model: such as ``gemini-2.5-flash``.
        labels: the label texts in the order of the classes, or the class index of each; one of each class is offered.
        prompt: the question; None for one that offers the labels.
        generation: further fields of ``generationConfig``, such as ``{maxOutputTokens: 16, thinkingConfig:
            {thinkingBudget: 0}}``.
        image: ``png``, or ``jpeg``, which is shorter and lossy.
        more: further fields of the request, such as ``safetySettings``.
        url: of the server, up to its version.
        api_key_env: the variable with the key; None for GEMINI_API_KEY at Google's own address.
        options: those of :class:`~kdlightning.remote.networked.NetworkedTeacher`.
    """

    def __init__(
        self,
        model: str,
        labels: Labels,
        *,
        prompt: str | None = None,
        generation: dict[str, Any] | None = None,
        image: Literal["png", "jpeg"] = "png",
        more: dict[str, Any] | None = None,
        url: str = GEMINI,
        api_key_env: str | None = None,
        **options: Any,  # noqa: ANN401 - NetworkedTeacher's
    ) -> None:
        url = url.rstrip("/")
        shown = {"inline_data": {"mime_type": f"image/{image}", "data": "{image}"}}
        held = {"responseMimeType": "text/x.enum", "responseSchema": {"type": "STRING", "enum": choices(labels)}}
        request: dict[str, Any] = {"contents": [{"parts": [{"text": question(labels, prompt)}, shown]}]}
        request["generationConfig"] = held | (generation or {})
        super().__init__(
            f"{url}/models/{model}:generateContent",
            request | (more or {}),
            "text",
            writer=Writer(image=image),
            reader=Reader(
                answer="candidates.0.content.parts.-1.text",
                refused={"promptFeedback.blockReason": [], "candidates.0.finishReason": _BLOCKED},
            ),
            headers=keyed("x-goog-api-key", "", api_key_env, "GEMINI_API_KEY", own=url == GEMINI),
            max_batch=1,
            labels=labels,
            **options,
        )
