"""Stop a command cleanly on SIGINT (Ctrl-C) and SIGTERM (schedulers).

A signal handler raises KeyboardInterrupt at an arbitrary place. In a destructor or in a callback of a library that
exception is lost. The signal is therefore stored, and each step of a stage checks for it.
"""

import signal
import threading

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# In order of arrival; the first one decides the exit code.
_received: list[signal.Signals] = []


def install_handlers() -> None:
    """Make both signals raise KeyboardInterrupt from now on."""
    for number in _SIGNALS:
        signal.signal(number, _stop)


def _stop(number: int, _: object) -> None:
    _received.append(signal.Signals(number))
    raise KeyboardInterrupt


def raise_if_stopped() -> None:
    """Raise KeyboardInterrupt if a signal was received; does nothing outside of the main thread."""
    if _received and threading.current_thread() is threading.main_thread():
        raise KeyboardInterrupt


def ignore_further_signals() -> int:
    """Ignore further signals, which would interrupt the clean-up; returns the number of the first one received."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    return _received[0] if _received else signal.SIGINT
