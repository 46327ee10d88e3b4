"""How a command ends that a signal stops: what it has started ends, too, and it says how to go on."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run_apart(command: Sequence[str]) -> None:
    """Run a process and pass on to it what should stop this one; a SystemExit with its status where that is not 0."""
    process = subprocess.Popen(command)
    before = {one: signal.signal(one, lambda number, _: process.send_signal(number)) for one in _SIGNALS}
    try:
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if status:
        raise SystemExit(128 - status if status < 0 else status)


@contextmanager
def stopping() -> Iterator[None]:
    """Within it SIGTERM ends the command at once, as Ctrl-C does; either way it says how to go on."""

    def stop(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if main else None
    try:
        yield
    except (SystemExit, KeyboardInterrupt) as ended:
        status = ended.code if isinstance(ended, SystemExit) else 128 + signal.SIGINT
        if status in {128 + number for number in _SIGNALS}:
            sys.stderr.write("kdlightning: stopped\n  -> to go on: run the same command again; no answer is lost\n")
            raise SystemExit(status) from None
        raise
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)
