"""Vision-language models behind the OpenAI chat API: OpenAI, vLLM, Ollama, llama.cpp, LM Studio, OpenRouter."""

from typing import Any, Literal

from kdlightning.remote.http import HTTPTeacher
from kdlightning.remote.providers.arguments import Labels, choices, keyed, question
from kdlightning.remote.reading import Reader
from kdlightning.remote.writing import Writer
from kdlightning.teachers.blackbox import HardLabelTeacher, SoftLabelTeacher

OPENAI = "https://api.openai.com/v1"
_REFUSED: dict[str, list[str]] = {"choices.0.finish_reason": ["content_filter"], "choices.0.message.refusal": []}


class OpenAIChat(HTTPTeacher):
    """A model that is shown an image and asked which label it shows.

    What is sent and read is the chat API of OpenAI, https://developers.openai.com/api/reference/resources/chat::

        POST {url}/chat/completions
        {"model": ..., "messages": [{"role": "user", "content": [
            {"type": "text", "text": ...}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}}]}]}
        -> {"choices": [{"message": {"content": "cat", "refusal": null}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 290, "completion_tokens": 1}}

    Args:
        model: as the server names it.
        labels: the label texts in the order of the classes, or the class index of each; one of each class is offered.
        url: of the server, up to its version. vLLM: ``http://127.0.0.1:8000/v1``; Ollama: ``http://127.0.0.1:11434/v1``;
            llama.cpp: ``http://127.0.0.1:8080/v1``; OpenRouter: ``https://openrouter.ai/api/v1``.
        prompt: the question; None for one that offers the labels.
        constrain: what holds the answer to a label. ``words``: the question; the label is found in what is said.
            ``schema``: a JSON schema (OpenAI, Ollama, llama.cpp, vLLM). ``choice``: vLLM's ``structured_outputs``.
        max_tokens: the longest answer. A model that reasons first needs room for that, too.
        image: ``png``, or ``jpeg``, which is shorter and lossy.
        detail: how closely OpenAI looks, which decides the price: ``low``, ``high``.
        more: further fields of the request, such as ``{temperature: 0}``.
        api_key_env: the variable with the key; None for OPENAI_API_KEY at OpenAI's own address, and elsewhere for none.
        options: those of :class:`~kdlightning.remote.networked.NetworkedTeacher`.

    Raises:
        ValueError: log-probabilities of an answer that is JSON; else as for its base class.
    """

    def __init__(
        self,
        model: str,
        labels: Labels,
        *,
        url: str = OPENAI,
        prompt: str | None = None,
        constrain: Literal["words", "schema", "choice"] = "words",
        max_tokens: int = 16,
        image: Literal["png", "jpeg"] = "png",
        detail: Literal["low", "high", "auto"] | None = None,
        more: dict[str, Any] | None = None,
        api_key_env: str | None = None,
        **options: Any,  # noqa: ANN401 - NetworkedTeacher's
    ) -> None:
        url, soft = url.rstrip("/"), self.access == "soft"
        if soft and constrain == "schema":
            told = "log-probabilities are read of the label's own tokens"
            raise ValueError(f"constrain: expected words or choice, got schema: {told}")
        shown = {"url": f"data:image/{image};base64,{{image}}", **({} if detail is None else {"detail": detail})}
        content = [{"type": "text", "text": question(labels, prompt)}, {"type": "image_url", "image_url": shown}]
        request: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": content}]}
        request["max_completion_tokens" if url == OPENAI else "max_tokens"] = max_tokens
        if constrain == "choice":
            request["structured_outputs"] = {"choice": choices(labels)}
        elif constrain == "schema":
            request["response_format"] = {"type": "json_schema", "json_schema": _schema(labels)}
        if soft:
            request |= {"logprobs": True, "top_logprobs": 20}
        text = "choices.0.message.content" + (".label" if constrain == "schema" else "")
        super().__init__(
            f"{url}/chat/completions",
            request | (more or {}),
            "tokens" if soft else "text",
            writer=Writer(image=image),
            reader=Reader(answer="choices.0.logprobs.content" if soft else text, refused=_REFUSED, match="contains"),
            headers=keyed("Authorization", "Bearer ", api_key_env, "OPENAI_API_KEY", own=url == OPENAI),
            max_batch=1,
            labels=labels,
            **options,
        )


class OpenAIChatTeacher(OpenAIChat, HardLabelTeacher):
    """The label that a chat model writes.

    Its arguments are those of :class:`~kdlightning.remote.providers.openaichat.OpenAIChat`.
    """


class OpenAIChatSoftLabelTeacher(OpenAIChat, SoftLabelTeacher):
    """Class probabilities of the log-probabilities of a chat model's tokens, where it gives any.

    Its arguments are those of :class:`~kdlightning.remote.providers.openaichat.OpenAIChat`.
    """


def _schema(labels: Labels) -> dict[str, Any]:
    fields = {"label": {"type": "string", "enum": choices(labels)}}
    schema = {"type": "object", "properties": fields, "required": ["label"], "additionalProperties": False}
    return {"name": "classification", "strict": True, "schema": schema}
