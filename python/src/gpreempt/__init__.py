# SPDX-License-Identifier: MIT OR Apache-2.0
"""Tell the gpreempt daemon (``gpreempt serve``) of online work on AMD GPUs, and see what it holds.

    import gpreempt

    with gpreempt.online():
        model.generate(prompt)

All times are seconds, unless a name says otherwise.
"""

from ._client import SOCKET, Client
from ._errors import DaemonBusy, DaemonUnavailable, GpreemptError, NotFound, PermissionDenied, Refused, Unsupported
from ._monitor import GpuStatus, HQDResourceMonitor, ResourceStatus
from ._online import online
from ._scheduler import SmartQueueScheduler, Statistics

__version__ = "0.1.0"

__all__ = [
    "SOCKET",
    "Client",
    "DaemonBusy",
    "DaemonUnavailable",
    "GpreemptError",
    "GpuStatus",
    "HQDResourceMonitor",
    "NotFound",
    "PermissionDenied",
    "Refused",
    "ResourceStatus",
    "SmartQueueScheduler",
    "Statistics",
    "Unsupported",
    "online",
]
