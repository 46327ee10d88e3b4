"""Around a phase that asks: a directory of its own, and a stop between two questions."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException

from kdlightning.accounting import DirectoryInUseError, DirectoryLock

_PATIENCE = 3.0  # seconds until a run that asks nothing is stopped where it is
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Launch(Callback):
    """Locks a directory for all processes of a ``predict``, and lets SIGTERM and SIGINT stop it before it asks again.

    Lightning only takes a note of SIGTERM, and predicts on. Here the run ends before the next question or batch or,
    where there is none for some seconds, wherever it is; an answer that is under way is waited for and kept
    (:meth:`undivided`). A second signal does not wait. The run then ends with Lightning's ``SIGTERMException``, or with
    KeyboardInterrupt.

    Args:
        directory: what is locked.
        interrupt: tells the teacher to begin no further request (True), or that it may again; None without one.
    """

    def __init__(self, directory: str | Path, interrupt: Callable[[bool], None] | None = None) -> None:
        self._lock, self._interrupt = DirectoryLock(directory), interrupt or bool
        self._before: dict[int, Any] = {}
        self._asking = self._late = False
        self.stopped: BaseException | None = None  # why, once a signal has come

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Lock the directory; a DirectoryInUseError, in every process, where another launch has it."""
        refused = None
        if trainer.is_global_zero:
            try:
                self._lock.acquire(shared=trainer.world_size > 1)
            except DirectoryInUseError as error:
                refused = str(error)
        if trainer.world_size > 1:
            refused = trainer.strategy.broadcast(refused)
        if refused:
            raise DirectoryInUseError(refused)
        if not trainer.is_global_zero:
            self._lock.join()
        self.stopped, self._late = None, False
        if threading.current_thread() is threading.main_thread():
            launcher = trainer.strategy.launcher

            def stop(number: int, _: object) -> None:
                if number == signal.SIGTERM and launcher is not None and self.stopped is None:
                    launcher.kill(signal.SIGTERM)  # the processes that this one has started
                self.stop(number)

            self._before = {number: signal.signal(number, stop) for number in _SIGNALS}

    def stop(self, number: int) -> None:
        """End the run before the next question; at once, when told so again."""
        if self.stopped is None:
            self.stopped = KeyboardInterrupt() if number == signal.SIGINT else SIGTERMException(128 + number)
            self._interrupt(True)
            again = threading.Timer(_PATIENCE, self._remind, (number,))
            again.daemon = True
            again.start()
        elif not (self._late and self._asking):
            raise self.stopped

    def check(self) -> None:
        """End here, if a signal has come."""
        if self.stopped is not None:
            raise self.stopped

    @contextmanager
    def undivided(self) -> Iterator[None]:
        """Around a question and the keeping of its answer."""
        self.check()
        self._asking = True
        try:
            yield
        except Exception:
            self.check()
            raise
        finally:
            self._asking = False
        self.check()

    def on_predict_batch_start(self, *_: object) -> None:
        """End here, if a signal has come."""
        self.check()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Let go of directory and signals."""
        self._end()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Let go of directory and signals."""
        self._end()

    def _remind(self, number: int) -> None:
        """Nothing has been asked for a while: the handler, in the main thread, ends what goes on without."""
        if self._before:
            self._late = True
            os.kill(os.getpid(), number)

    def _end(self) -> None:
        before, self._before = self._before, {}
        for number, handler in before.items():
            with suppress(ValueError):  # a thread cannot
                signal.signal(number, handler)
        if self.stopped is not None:
            self._interrupt(False)
        self._lock.release()
