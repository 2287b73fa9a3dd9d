from pydantic import BaseModel, ConfigDict


class Word(BaseModel):
    """A frozen value that may cross a wire. Unknown fields are refused: a typo must not pass in silence."""

    model_config = ConfigDict(frozen=True, extra="forbid")
