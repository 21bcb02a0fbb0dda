"""A job-queue service on Trio: durable jobs, typed handlers, cancel that means stopped."""

from trioqueue.jobs.handlers import Handlers

__all__ = ["Handlers"]
