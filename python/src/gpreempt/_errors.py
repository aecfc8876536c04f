# SPDX-License-Identifier: MIT OR Apache-2.0
"""What can go wrong."""


class GpreemptError(Exception):
    """Anything that this package raises. Its text is a sentence that says what can be done."""


class DaemonUnavailable(GpreemptError):
    """No daemon listens on the socket, or the connection to it broke."""


class DaemonBusy(GpreemptError):
    """The daemon waits for a GPU, or is ending."""


class PermissionDenied(GpreemptError):
    """The daemon does not let this user do that: ``[access]`` of its configuration says who may."""


class NotFound(GpreemptError):
    """There is no such process, job or hint."""


class Refused(GpreemptError):
    """The daemon does not understand the call, or refuses it."""


class Unsupported(GpreemptError):
    """What is there does not tell what the call needs."""
