"""A server's own rule of who may do what, for tests."""

from __future__ import annotations

from typing import Any

from jupyter_server.auth import Authorizer


class ByHeader(Authorizer):
    """Allows everything, or only the action that a request names."""

    def is_authorized(self, handler: Any, user: Any, action: str, resource: str) -> bool:
        return bool(handler.request.headers.get("X-May", action) == action)
