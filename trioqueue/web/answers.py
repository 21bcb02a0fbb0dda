"""What every route needs: the node behind the site, and the form of an answer."""

from typing import TYPE_CHECKING, cast

from quart import Response, current_app, request
from werkzeug.exceptions import UnsupportedMediaType

from trioqueue.service.service import Service
from trioqueue.web.hosted import Hosted
from trioqueue.wire.common import render

if TYPE_CHECKING:
    from trioqueue.web.site import Site


def hosted() -> Hosted:
    """The node behind this site."""
    return cast("Site", current_app).node


def service() -> Service:
    return hosted().service


def answer(body: object, *, status: int = 200) -> Response:
    return Response(render(body) + b"\n", status=status, content_type="application/json")


def check_json(advice: str) -> None:
    """Whether the body may be JSON. The last of the three is what `curl -d` says."""
    if request.mimetype not in ("application/json", "", "application/x-www-form-urlencoded"):
        raise UnsupportedMediaType(advice)
