"""The server side: our worker class and arbiter on gunicorn's. docs/decisions/0001-worker.md tells why there is one.

`run(config)` is `nora serve`; etc/gunicorn.conf.py takes `gunicorn_settings(config)` for plain gunicorn. master.py and settings.py are the master's.

In a worker, worker.py holds the main thread, reactor.py the connections that wait, with epoll.py, and the thread that leads (lead.py), jobs.py what
that one hands to others, listening.py new connections, plans.py the answers that the leader gives again, room.py who makes room for others,
runner.py the requests that run, pool.py the threads for what may take long. A connection (connection.py) has its head parsed by request.py, its
body read through body.py and collected by bodies.py, with slow.py for peers that send little at a time, its answer sent by response.py; limits.py
says how slow a peer may be.

application.py is what the server asks of the application. handover.py carries a reload's snapshot, read by a child of the master (reading.py), to the
workers, board.py counts connections for all workers, clients.py those of each client, service_manager.py speaks to systemd.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from noraflask.config import Config
from noraflask.serve.application import Wsgi


def run(config: Config, make_application: Callable[[], Wsgi] | None = None) -> None:
    """Serve until told to stop; ends by SystemExit. Prints one line and exits with 1 when the address cannot be had."""
    from noraflask import log
    from noraflask.serve.master import Arbiter, BindError, GunicornApplication, bind, inherits_sockets
    from noraflask.serve.settings import BACKLOG, gunicorn_settings

    log.setup(config.logging)
    for warning in config.warnings:
        logging.getLogger("nora.config").warning("%s", warning)
    settings = gunicorn_settings(config)
    if not inherits_sockets():  # before the application is made, which may touch data that a running server is using
        try:
            listeners = bind(config.server.host, config.server.port, BACKLOG)
        except BindError as error:
            sys.exit(f"nora: {error}")
        settings["bind"] = [f"fd://{listener.detach()}" for listener in listeners]
    Arbiter(GunicornApplication(settings, make_application or (lambda: _create_app(config)))).run()


def _create_app(config: Config) -> Wsgi:
    from noraflask.app import ServedRegistry, create_app

    return ServedRegistry(create_app(config))
