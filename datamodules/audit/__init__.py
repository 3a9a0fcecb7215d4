"""Does a data set give its labels away? Figures, causes and cures, without training a network."""

from datamodules.audit.leaks import LEAK, LEAST_IMAGES, Leak, Leakage, measure
from datamodules.audit.report import AuditReport, audit

__all__ = ["LEAK", "LEAST_IMAGES", "AuditReport", "Leak", "Leakage", "audit", "measure"]
