"""Revision 4: each example has a stamp that no other ever had, so that one that was read need not be read again."""

from __future__ import annotations

import sqlalchemy as sql
from alembic import op

revision = "4"
down_revision = "3"
branch_labels = None
depends_on = None

BEFORE = ["project", "label", "mark", "made_at", "id", "verdict", "is_current"]
NOW = [*BEFORE, "stamp"]


def upgrade() -> None:
    if "examples" in sql.inspect(op.get_bind()).get_table_names():
        op.add_column("examples", sql.Column("stamp", sql.BigInteger, nullable=False, server_default="0"))
        _index_by_label(NOW)


def downgrade() -> None:
    _index_by_label(BEFORE)
    op.drop_column("examples", "stamp")


def _index_by_label(columns: list[str]) -> None:
    op.drop_index("examples_by_label", "examples")
    op.create_index("examples_by_label", "examples", columns)
