"""Sessions that sleep, the checkpoints they sleep in, and what opens those."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("sessions", schema=None) as batch_op:
        batch_op.add_column(sa.Column("save", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("wake", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("checkpoint", sa.String(length=32), nullable=True))
        batch_op.add_column(sa.Column("exact", sa.Boolean(), nullable=False, server_default=sa.false()))
        batch_op.add_column(sa.Column("checkpoints", sa.JSON(), nullable=False, server_default="[]"))
        batch_op.add_column(sa.Column("origin", sa.String(length=32), nullable=True))

    op.create_table(
        "checkpoints",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("session", sa.String(length=32), nullable=False),
        sa.Column("session_name", sa.String(length=255), nullable=False),
        sa.Column("owner", sa.String(length=255), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("node", sa.String(length=255), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("store", sa.String(length=64), nullable=False),
        sa.Column("incarnation", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("checkpoints", schema=None) as batch_op:
        batch_op.create_index("checkpoints_by_session", ["session"], unique=False)

    op.create_table(
        "owners",
        sa.Column("owner", sa.String(length=255), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("owner"),
    )
    op.create_table(
        "stores",
        sa.Column("identity", sa.String(length=64), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("identity"),
    )


def downgrade() -> None:
    for table in ("stores", "owners", "checkpoints"):
        op.drop_table(table)
    with op.batch_alter_table("sessions", schema=None) as batch_op:
        for column in ("origin", "checkpoints", "exact", "checkpoint", "wake", "save"):
            batch_op.drop_column(column)
