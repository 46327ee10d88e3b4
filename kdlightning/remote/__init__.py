"""Teachers behind a connection: the Open Inference Protocol, and any JSON API. Every answer goes into a ledger."""

from kdlightning.remote.connection import Patience, RemoteTeacherError
from kdlightning.remote.description import Tensors
from kdlightning.remote.http import HTTPHardLabelTeacher, HTTPSoftLabelTeacher
from kdlightning.remote.openinference import RemoteHardLabelTeacher, RemoteSoftLabelTeacher

__all__ = [
    "HTTPHardLabelTeacher",
    "HTTPSoftLabelTeacher",
    "Patience",
    "RemoteHardLabelTeacher",
    "RemoteSoftLabelTeacher",
    "RemoteTeacherError",
    "Tensors",
]
