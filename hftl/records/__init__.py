"""What the JSON files of a run hold: a typed record for each, one function that reads it, and what is refused."""
