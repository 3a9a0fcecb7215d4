"""Does a data set give its labels away? Figures, causes and cures, without training a network."""

from datamodules.audit.leaks import LEAK, Leak, Leakage, measure
from datamodules.audit.report import AuditReport, audit

__all__ = ["LEAK", "AuditReport", "Leak", "Leakage", "audit", "measure"]
