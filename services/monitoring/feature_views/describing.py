"""What a view's rows look like: the reference that later windows of it are compared with."""

from __future__ import annotations

from services.common.errors import InvalidArgument
from services.monitoring.feature_views.views import ViewRows, without
from services.monitoring.models import Window
from services.monitoring.profiles.reference import Columns, Description, build_reference, check_there
from services.monitoring.profiles.traffic import clusterings_in_time


def describe_view(rows: ViewRows, columns: Columns, window: Window) -> Description:
    """Describe the rows of a window; of `columns` the kinds count, and what is ignored.

    Raises:
        InvalidArgument: TOO_FEW_ROWS, NO_FEATURES, TOO_MANY_FEATURES, UNKNOWN_COLUMN.
    """
    if not rows.frame.row_count:
        sentence = "no event of this view lies in it; take another window"
        raise InvalidArgument.field("window", sentence, reason="TOO_FEW_ROWS")
    check_there(columns.ignored, list(rows.frame.columns))
    frame = without(rows.frame, list(columns.ignored))
    clusterings = clusterings_in_time(rows.times_us // 1_000, window)
    return build_reference(frame, Columns(kinds=columns.kinds), clusterings, rows.entities)
