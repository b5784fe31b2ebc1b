"""A Flask without what a registry does not need on each request: coroutines, host matching, sessions, a look through all rules for each address."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cached_property, partial
from typing import Any

from flask import Flask, Request, request
from flask.ctx import RequestContext
from flask.globals import request_ctx
from flask.sessions import NullSession, SessionInterface
from werkzeug.exceptions import NotFound
from werkzeug.routing import MapAdapter, RequestRedirect

from noraflask.errors import NoraError
from noraflask.services import Services
from noraflask.services.bounded_memory import BoundedMemory, bytes_of
from noraflask.suspension import SUSPENDS, Steps, Suspended, drive, is_waiting, receive_now
from noraflask.web.context import EXTENSION
from noraflask.web.format import Format
from noraflask.web.shapes import Shape, looked_at, shape_of
from noraflask.web.targets import ELSEWHERE, TARGET

MATCHES_BYTES = 2 * 1024 * 1024
"""Of the addresses whose routes a process remembers."""
MATCH_BYTES = 600
"""One of them without its texts."""
REMEMBERED_LENGTH = 512
NAMES = ("name", "folder")
"""Arguments of views that are names."""


class NoSessions(SessionInterface):
    """A registry has no browser sessions; looking for a cookie on each request would cost time."""

    _none = NullSession()

    def open_session(self, app: Flask, request: Request) -> NullSession:
        return self._none

    def is_null_session(self, obj: object) -> bool:
        return True


class RegistryFlask(Flask):
    session_interface = NoSessions()

    def __init__(self, name: str) -> None:
        super().__init__(name, static_folder=None)
        self._matches: BoundedMemory[tuple[Any, ...], Any] = BoundedMemory(MATCHES_BYTES)
        self.url_map.merge_slashes = False
        self.config["PROVIDE_AUTOMATIC_OPTIONS"] = False  # they would pass by the guard; no client of ours asks

    @property
    def services(self) -> Services:
        services: Services = self.extensions[EXTENSION]
        return services

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """There is no coroutine among our views; to look again at every call would cost time."""
        return func

    def dispatch_request(self) -> Any:
        """A view that takes a body waits for it: on this thread, or where the server knows better, on none."""
        answer = super().dispatch_request()
        return self._go_on(answer, None) if is_waiting(answer) else answer

    def _go_on(self, view: Steps[Any], problem: BaseException | None) -> Any:
        environ = request.environ
        if SUSPENDS not in environ:
            return drive(view, request.stream)
        while True:
            try:
                reception = view.throw(problem) if problem else next(view)
            except StopIteration as end:
                return end.value
            try:
                problem = receive_now(reception, environ["wsgi.input"])
            except BlockingIOError:
                raise Suspended(reception, partial(self._resume, view, request_ctx.request)) from None

    def _resume(self, view: Steps[Any], here: Request, problem: BaseException | None, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """What Flask's wsgi_app() does, from where the view waited: the same request in a new context."""
        environ = here.environ
        context = RequestContext(self, environ, here)
        error: BaseException | None = None
        try:
            context.push()
            try:
                try:
                    answer = self._go_on(view, problem)
                except Exception as raised:
                    answer = self.handle_user_exception(raised)
                response = self.finalize_request(answer)
            except Exception as raised:
                error = raised
                response = self.handle_exception(raised)
            return response(environ, start_response)
        finally:
            context.pop(error)

    @cached_property
    def _looked_at(self) -> re.Pattern[str]:
        """Made by the first request, since when no rule is added."""
        self.url_map.update()
        return looked_at(self.url_map)

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Routes here depend on the path and the method alone; to work out the host's name for each request would cost time."""
        if request is None:
            return super().create_url_adapter(request)
        format: Format | None = request.environ.get(TARGET, ELSEWHERE).format
        return RememberedMatches(
            self._matches, self._looked_at, format, self.url_map, "localhost", "/", "", request.scheme, request.path, request.method
        )


class RememberedMatches(MapAdapter):
    """Finds the route of an address without looking through the rules again, if one of its shape was asked for before; they do not change after the
    start."""

    def __init__(self, known: BoundedMemory[tuple[Any, ...], Any], looked_at: re.Pattern[str], format: Format | None, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._known, self._looked_at, self._format = known, looked_at, format

    def match(self, *arguments: Any, **options: Any) -> Any:
        if arguments or options != {"return_rule": True} or len(self.path_info) > REMEMBERED_LENGTH:
            return self._exactly(*arguments, **options)
        begin, _, last = self.path_info.rpartition("/")
        key, known = (begin, self.default_method, Shape), None
        if self._looked_at.fullmatch(last):
            last = ""
        else:
            known = self._known.get(key)
        if known is not None:
            return known.rule, {**known.arguments, known.last: last}
        address = (self.path_info, self.default_method)
        found = self._known.get(address)
        if found is None:
            found = self._exactly(return_rule=True)
            if all(self._is_sound(found[1].get(argument)) for argument in NAMES):
                shape = shape_of(*found) if last else None
                self._known.put(key if shape else address, shape or found, MATCH_BYTES + 2 * bytes_of(self.path_info))
        return found[0], dict(found[1])

    def _is_sound(self, name: str | None) -> bool:
        """Nothing is remembered for a name that no package can have: of such there are as many as anybody likes."""
        if name is not None and self._format is not None:
            try:
                self._format.ecosystem.parse_name(name)
            except NoraError:
                return False
        return True

    def _exactly(self, *arguments: Any, **options: Any) -> Any:
        """An address has one spelling, with a slash at its end or without; nobody is sent from one to the other."""
        try:
            return super().match(*arguments, **options)
        except RequestRedirect:
            raise NotFound() from None
