"""Any saved network behind the Open Inference Protocol: for tests, demos and private servers."""

from kdlightning.serving.app import create_app
from kdlightning.serving.model import Response, ServedModel

__all__ = ["Response", "ServedModel", "create_app"]
