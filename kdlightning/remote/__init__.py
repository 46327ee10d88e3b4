"""Teachers behind a connection: the Open Inference Protocol, and any API of JSON. Every answer goes into a ledger."""

from kdlightning.remote import providers as providers  # known by their names on the command line
from kdlightning.remote.connection import Patience, RemoteTeacherError
from kdlightning.remote.description import Tensors
from kdlightning.remote.http import HTTPHardLabelTeacher, HTTPSoftLabelTeacher, HTTPTopKTeacher
from kdlightning.remote.jobs import Jobs
from kdlightning.remote.openinference import RemoteHardLabelTeacher, RemoteSoftLabelTeacher, RemoteTopKTeacher
from kdlightning.remote.reading import Reader
from kdlightning.remote.signing import AWSSignature, GoogleToken
from kdlightning.remote.writing import Writer

__all__ = [
    "AWSSignature",
    "GoogleToken",
    "HTTPHardLabelTeacher",
    "HTTPSoftLabelTeacher",
    "HTTPTopKTeacher",
    "Jobs",
    "Patience",
    "Reader",
    "RemoteHardLabelTeacher",
    "RemoteSoftLabelTeacher",
    "RemoteTeacherError",
    "RemoteTopKTeacher",
    "Tensors",
    "Writer",
]
