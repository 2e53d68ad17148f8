"""Revision 1: examples know what people made of suggestions, who they are from, and belong to a project of one Label Studio."""

from __future__ import annotations

import sqlalchemy as sql
from alembic import op

revision = "1"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    if "examples" not in sql.inspect(op.get_bind()).get_table_names():
        return
    with op.batch_alter_table("examples") as table:
        table.alter_column("project", existing_type=sql.String(50), type_=sql.String(300), existing_nullable=False)
        table.add_column(sql.Column("verdict", sql.String(10), nullable=False, server_default="drawn"))
        table.add_column(sql.Column("annotator", sql.String(50), nullable=False, server_default=""))
        table.add_column(sql.Column("engine", sql.String(200), nullable=False, server_default=""))
        table.add_column(sql.Column("iou", sql.Float, nullable=True))
        table.add_column(sql.Column("is_current", sql.Boolean, nullable=False, server_default=sql.true()))
        table.add_column(sql.Column("mark", sql.String(10), nullable=False, server_default=""))
        table.add_column(sql.Column("thumbnail", sql.LargeBinary, nullable=True))
        table.drop_index("examples_by_label")
        table.create_index("examples_by_label", ["project", "label", "verdict", "made_at"])
        table.create_index("examples_by_task", ["project", "task"])


def downgrade() -> None:
    with op.batch_alter_table("examples") as table:
        table.drop_index("examples_by_task")
        table.drop_index("examples_by_label")
        for name in ("thumbnail", "mark", "is_current", "iou", "engine", "annotator", "verdict"):
            table.drop_column(name)
        table.create_index("examples_by_label", ["project", "label"])
