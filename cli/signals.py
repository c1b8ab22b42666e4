"""SIGINT, which Ctrl-C sends, and SIGTERM, which schedulers send: both stop a command cleanly.

Python raises an exception wherever the signal happens to strike, and where that is a destructor or a callback of a
library, it is lost. So the signal is remembered, and looked for at each step of a stage.
"""

import signal
import threading

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# A list, since what is raised for a signal may be raised anew, as another exception, on its way up.
_asked: list[signal.Signals] = []


def listen() -> None:
    """From now on, let both signals raise KeyboardInterrupt."""
    for number in _SIGNALS:
        signal.signal(number, _stop)


def _stop(number: int, _: object) -> None:
    _asked.append(signal.Signals(number))
    raise KeyboardInterrupt


def stop_if_asked() -> None:
    """Raise KeyboardInterrupt, in the main thread alone, where a signal came and its own exception was lost."""
    if _asked and threading.current_thread() is threading.main_thread():
        raise KeyboardInterrupt


def ignore_further_signals() -> int:
    """The signal that came first. Later ones are ignored: things being put away would be left lying about."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    return _asked[0] if _asked else signal.SIGINT
