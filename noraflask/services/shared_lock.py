"""Memory that the workers of a server share, and what keeps them from writing to it at the same time."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import threading
import time

_LIBC = ctypes.PyDLL(None)
"""Called without letting go of Python's own lock: who holds a shared lock must not wait for the other threads of its process as well."""
_PROCESS_SHARED = _ROBUST = 1
_MUTEX_BYTES = 64  # pthread_mutex_t takes 40 to 48, by the machine; alone on its cache line
_TRIES = 200  # a tenth of a millisecond
_PAUSE_SECONDS = 0.0001


def _function(name: str) -> ctypes._FuncPointer:
    found = getattr(_LIBC, name)
    found.argtypes = [ctypes.c_void_p]
    return found


_try_lock, _unlock, _make_consistent = map(_function, ("pthread_mutex_trylock", "pthread_mutex_unlock", "pthread_mutex_consistent"))


class SharedLock:
    """One holder among all threads of all processes, made before the fork. A holder that is killed lets go of it.

    A robust mutex of POSIX threads. The kernel's record locks would do as well, but only with two system calls each time, with a lock for the threads
    beside them, and with false alarms of deadlocks as soon as there are two, because the kernel counts the threads of a process as one.
    """

    def __init__(self) -> None:
        self._threads = (
            threading.Lock()
        )  # the threads of one process wait here: the holder needs Python's lock to go on, and they must not spin with it
        self._memory = mmap.mmap(-1, _MUTEX_BYTES)
        self._mutex = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(self._memory)))
        attributes = ctypes.create_string_buffer(64)
        _check(_LIBC.pthread_mutexattr_init(attributes))
        _check(_LIBC.pthread_mutexattr_setpshared(attributes, _PROCESS_SHARED))
        _check(_LIBC.pthread_mutexattr_setrobust(attributes, _ROBUST))
        _check(_LIBC.pthread_mutex_init(self._mutex, attributes))

    def __enter__(self) -> None:
        self._threads.acquire()
        state = _try_lock(self._mutex)
        if state:
            try:
                self._wait(state)
            except BaseException:
                self._threads.release()
                raise

    def __exit__(self, *_: object) -> None:
        _unlock(self._mutex)
        self._threads.release()

    def _wait(self, state: int) -> None:
        """It is held for microseconds, so looking again is quicker than being woken: who sleeps gives its turn to all others of the machine.

        Who finds it held for long sleeps in between; its holder waits for the processor.
        """
        tries = 0
        while state == errno.EBUSY:
            tries += 1
            if tries % _TRIES == 0:
                time.sleep(_PAUSE_SECONDS)
            state = _try_lock(self._mutex)
        if state == errno.EOWNERDEAD:  # it is ours now; what it guards is sound at any moment, by the care of those who write
            state = _make_consistent(self._mutex)
        _check(state)


def _check(state: int) -> None:
    if state:
        raise OSError(state, os.strerror(state))
