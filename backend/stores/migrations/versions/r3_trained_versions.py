"""Revision 3: a version of a memory has what training found: the least score of a suggestion of each label."""

from __future__ import annotations

import sqlalchemy as sql
from alembic import op

revision = "3"
down_revision = "2"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if "snapshots" in sql.inspect(op.get_bind()).get_table_names():
        op.add_column("snapshots", sql.Column("least", sql.Text, nullable=False, server_default="{}"))


def downgrade() -> None:
    op.drop_column("snapshots", "least")
