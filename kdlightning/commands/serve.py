"""``python -m kdlightning serve``."""

import argparse
import ipaddress
import re
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

_DESCRIPTION = """\
Put a saved network behind the Open Inference Protocol (KServe V2 over REST), with JSON and binary tensors: what
RemoteSoftLabelTeacher and RemoteHardLabelTeacher speak, and Triton, KServe, MLServer and OpenVINO Model Server too."""

_EPILOG = """\
addresses:
  /v2, /v2/models/NAME            what the server and the model are
  /v2/health/live, .../ready      probes; the only addresses that need no key
  /v2/models/NAME/infer           images in, answers out
  /metrics                        images answered so far
  /openapi.json                   all of this for machines

examples:
  kdlightning serve runs/teacher/network --response hard
  KDL_API_KEY=... kdlightning serve runs/teacher/network --response soft --api-key-env KDL_API_KEY --port 9000"""


def main(argv: Sequence[str]) -> int:
    """Serve until SIGTERM or SIGINT, then finish what is being answered; the exit code is 2 if it could not start."""
    arguments = _parser().parse_args(argv)
    try:
        return _serve(arguments)
    except (ImportError, OSError, ValueError) as error:
        sys.stderr.write(f"kdlightning serve: {error}\n")
        return 2


def _serve(arguments: argparse.Namespace) -> int:
    try:
        import uvicorn
    except ImportError as error:
        raise ImportError("serving needs starlette and uvicorn: pip install starlette uvicorn") from error
    from kdlightning.networks import load_network
    from kdlightning.remote.credentials import read_secret
    from kdlightning.serving import ServedModel, create_app
    from kdlightning.serving.guard import GuardedProtocol

    key = read_secret(arguments.api_key_env, arguments.api_key_file)
    if key is None and not _is_loopback(arguments.host):
        told = f"whoever reaches {arguments.host} could ask this server"
        raise ValueError(f"{told}; give it a key (--api-key-env or --api-key-file)")
    model = ServedModel(
        load_network(arguments.network),
        arguments.name or _name_of(arguments.network),
        arguments.response,
        shape=tuple(arguments.shape) if arguments.shape else None,
        max_batch=arguments.max_batch,
        device=arguments.device,
        count_file=arguments.count_file,
    )
    config = uvicorn.Config(
        create_app(model, api_key=key, max_body=arguments.max_body),
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        http=GuardedProtocol,
        ws="none",
        ssl_certfile=arguments.tls_certificate,
        ssl_keyfile=arguments.tls_key,
        timeout_graceful_shutdown=arguments.grace,
    )
    listening = _listen(arguments.host, arguments.port)
    scheme = "https" if arguments.tls_certificate else "http"
    host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
    served = f"version {model.version}, {model.response}, images {list(model.shape)}, {model.num_classes} classes"
    sys.stdout.write(f"serving {model.name} ({served}) at {scheme}://{host}:{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    # uvicorn raises the signals that it has handled once more; a stop that was asked for is no failure
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    uvicorn.Server(config).run(sockets=[listening])
    sys.stdout.write(f"stopped; {model.answered:,} images answered\n")
    return 0


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise OSError(f"cannot listen at {host}, port {port}: {error.strerror}; choose another --port") from error
    # asyncio does it for sockets of its own making only; without, every small answer waits 40 ms for an acknowledgement
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _name_of(network: str) -> str:
    """A model's name from its directory: ``runs/lenet5-seed0/network`` is ``lenet5-seed0``."""
    parts = Path(network).resolve().parts if Path(network).is_dir() else Path(network).parts
    name = parts[-2] if parts[-1] == "network" and len(parts) > 2 else parts[-1]
    return re.sub(r"[^\w.-]", "-", name)


def _network_name(text: str) -> str:
    if not re.fullmatch(r"[\w.-]+", text, re.ASCII):
        raise argparse.ArgumentTypeError("a model's name has letters, digits, '.', '-' and '_' only")
    return text


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number >= 1, got {text!r}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kdlightning serve", description=_DESCRIPTION, epilog=_EPILOG, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("network", metavar="NETWORK", help="directory (or Hugging Face id) of a saved network")
    add("--response", choices=("soft", "hard", "logits"), required=True, help="what is disclosed of an image")
    add("--host", default="127.0.0.1", help="address to listen at (default: %(default)s; others need a key)")
    add("--port", type=int, default=8000, help="port to listen at (default: %(default)s; 0 for any free one)")
    add("--name", type=_network_name, help="the model's name (default: the run's directory)")
    add("--api-key-env", metavar="VARIABLE", help="environment variable that holds the key clients must bring")
    add("--api-key-file", metavar="FILE", help="file that holds the key clients must bring")
    add("--max-batch", type=_positive, default=1024, metavar="N", help="most images per request (default: %(default)s)")
    add(
        "--max-body",
        type=_positive,
        default=64 * 2**20,
        metavar="BYTES",
        help="longest body (default: %(default)s; JSON: 16 MiB)",
    )
    add("--shape", type=_positive, nargs=3, metavar=("C", "H", "W"), help="of the images (default: the network's own)")
    add("--device", default="cpu", help="where to compute, such as cuda (default: %(default)s)")
    add("--count-file", metavar="FILE", help="keep the count of answered images here, across restarts")
    add("--tls-certificate", metavar="FILE", help="serve https with this certificate chain")
    add("--tls-key", metavar="FILE", help="its private key")
    add("--grace", type=_positive, default=30, metavar="SECONDS", help="to finish requests (default: %(default)s)")
    return parser
