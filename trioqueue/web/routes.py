"""What a site answers to: the routes of the API, and a problem for every error."""

from werkzeug.exceptions import HTTPException

from trioqueue.errors import TrioqueueError
from trioqueue.web.jobs import jobs
from trioqueue.web.nodes import nodes
from trioqueue.web.problems import from_anything, from_http, from_trioqueue
from trioqueue.web.site import Site


def add_routes(site: Site) -> None:
    """Make `site` answer as trioqueue does."""
    site.register_blueprint(jobs)
    site.register_blueprint(nodes)
    site.register_error_handler(TrioqueueError, from_trioqueue)
    site.register_error_handler(HTTPException, from_http)
    site.register_error_handler(Exception, from_anything)
