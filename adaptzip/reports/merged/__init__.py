"""Whether a merged model is its base plus an adapter, told tensor by tensor."""

from adaptzip.reports.merged.checking import check
from adaptzip.reports.merged.report import CheckReport

__all__ = ["CheckReport", "check"]
