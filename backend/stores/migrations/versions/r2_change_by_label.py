"""Revision 2: the index of examples tells which ones come first, and which labels have changed is known (in a table of its own,
which is made when it is missed).
"""

from __future__ import annotations

import sqlalchemy as sql
from alembic import op

revision = "2"
down_revision = "1"
branch_labels = None
depends_on = None

NOW = ["project", "label", "mark", "made_at", "id", "verdict", "is_current"]
BEFORE = ["project", "label", "verdict", "made_at"]


def upgrade() -> None:
    _index_by_label(NOW)


def downgrade() -> None:
    _index_by_label(BEFORE)


def _index_by_label(columns: list[str]) -> None:
    if "examples" in sql.inspect(op.get_bind()).get_table_names():
        op.drop_index("examples_by_label", "examples")
        op.create_index("examples_by_label", "examples", columns)
