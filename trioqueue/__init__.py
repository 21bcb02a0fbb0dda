"""A job-queue service on Trio: durable jobs, typed handlers, cancel that means stopped.

from trioqueue import Context, Handlers
"""

from trioqueue.jobs.handlers import Handlers
from trioqueue.runtime.context import Context

__all__ = ["Context", "Handlers"]
