"""Teachers of vendors, each a page that says what its API takes and answers; all are teachers of HTTP and no more.

A preset is a class whose constructor hands :class:`~kdlightning.remote.http.HTTPTeacher` an address, a request,
headers, a writer and a reader. What it does not set (budget, price, ledger, pace, patience, ...) is the user's to set,
by the same names as everywhere. Keys come from the variable that the vendor's own tools read, and go to the vendor's
own address only: where ``url`` is another, name the variable (``api_key_env``).

Servers of the Open Inference Protocol (KServe V2, Triton) have a teacher of their own, which reads their metadata:
:class:`~kdlightning.remote.RemoteSoftLabelTeacher`.
"""

from kdlightning.remote.providers.anthropic import AnthropicTeacher
from kdlightning.remote.providers.anthropicbatch import AnthropicBatchTeacher
from kdlightning.remote.providers.azure import AzureHardLabelTeacher, AzureSoftLabelTeacher
from kdlightning.remote.providers.clarifai import ClarifaiHardLabelTeacher, ClarifaiSoftLabelTeacher
from kdlightning.remote.providers.gemini import GeminiTeacher
from kdlightning.remote.providers.googlevision import GoogleVisionTeacher
from kdlightning.remote.providers.huggingface import HuggingFaceHardLabelTeacher, HuggingFaceSoftLabelTeacher
from kdlightning.remote.providers.openaibatch import OpenAIBatchSoftLabelTeacher, OpenAIBatchTeacher
from kdlightning.remote.providers.openaichat import OpenAIChatSoftLabelTeacher, OpenAIChatTeacher
from kdlightning.remote.providers.rekognition import RekognitionHardLabelTeacher, RekognitionSoftLabelTeacher
from kdlightning.remote.providers.roboflow import RoboflowHardLabelTeacher, RoboflowSoftLabelTeacher
from kdlightning.remote.providers.tfserving import TFServingHardLabelTeacher, TFServingSoftLabelTeacher
from kdlightning.remote.providers.vertex import VertexHardLabelTeacher, VertexSoftLabelTeacher

__all__ = [
    "AnthropicBatchTeacher",
    "AnthropicTeacher",
    "AzureHardLabelTeacher",
    "AzureSoftLabelTeacher",
    "ClarifaiHardLabelTeacher",
    "ClarifaiSoftLabelTeacher",
    "GeminiTeacher",
    "GoogleVisionTeacher",
    "HuggingFaceHardLabelTeacher",
    "HuggingFaceSoftLabelTeacher",
    "OpenAIBatchSoftLabelTeacher",
    "OpenAIBatchTeacher",
    "OpenAIChatSoftLabelTeacher",
    "OpenAIChatTeacher",
    "RekognitionHardLabelTeacher",
    "RekognitionSoftLabelTeacher",
    "RoboflowHardLabelTeacher",
    "RoboflowSoftLabelTeacher",
    "TFServingHardLabelTeacher",
    "TFServingSoftLabelTeacher",
    "VertexHardLabelTeacher",
    "VertexSoftLabelTeacher",
]
